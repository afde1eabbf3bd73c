package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/policyconfiguration"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/openshift"
	clients "go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

// An oracle is a client whose verdicts count.
type oracle string

const (
	openpgp oracle = "containers/image with Go's OpenPGP"
	gpgme   oracle = "containers/image with gpgme"
	skopeo  oracle = "skopeo"
)

// A question is what a node asks of a policy: may this image run.
type question struct {
	policy     string
	transport  string // docker or atomic
	reference  string
	signatures [][]byte
}

// The image of all questions, which has a configuration and no layer.
const (
	imageConfig = `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`
	configType  = "application/vnd.oci.image.config.v1+json"
	imageType   = "application/vnd.oci.image.manifest.v1+json"
)

func imageManifest() []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`,
		imageType, configType, digest.FromString(imageConfig), len(imageConfig))
}

// askLibrary asks as podman does before it runs an image: nil means accepted.
func askLibrary(ctx context.Context, q question) error {
	return withPolicy(q, func(p *clients.PolicyContext, i image) error {
		accepted, err := p.IsRunningImageAllowed(ctx, i)
		if !accepted && err == nil {
			err = errors.New("not allowed, without an error")
		}
		return err
	})
}

// askLibraryAuthor asks whether the library would call the author of the one signature accepted,
// as admission does: by at least one requirement, where the library wants it by all. Signatures
// by two that are both required come in one by one.
func askLibraryAuthor(ctx context.Context, q question) error {
	err := askLibraryAllAuthors(ctx, q)
	for n := 0; err != nil && n < maxRequirements; n++ {
		alone := q
		alone.policy = requirement(q.policy, n)
		if askLibraryAllAuthors(ctx, alone) == nil {
			return nil
		}
	}
	return err
}

func askLibraryAllAuthors(ctx context.Context, q question) error {
	return withPolicy(q, func(p *clients.PolicyContext, i image) error {
		accepted, err := p.GetSignaturesWithAcceptedAuthor(ctx, i)
		if len(accepted) == 0 && err == nil {
			err = errors.New("no accepted author")
		}
		return err
	})
}

// maxRequirements is how many a scope of the cases has at most.
const maxRequirements = 3

// requirement is a policy with the n-th requirement of each scope alone; nothing if it does not read.
func requirement(policy string, n int) string {
	type requirements []json.RawMessage
	var p struct {
		Default    requirements                       `json:"default"`
		Transports map[string]map[string]requirements `json:"transports,omitempty"`
	}
	if json.Unmarshal([]byte(policy), &p) != nil || len(p.Default) == 0 {
		return ""
	}
	p.Default = p.Default[min(n, len(p.Default)-1):][:1]
	for _, scopes := range p.Transports {
		for name, all := range scopes {
			if len(all) > 0 {
				scopes[name] = all[min(n, len(all)-1):][:1]
			}
		}
	}
	alone, err := json.Marshal(p)
	if err != nil {
		return ""
	}
	return string(alone)
}

func withPolicy(q question, ask func(*clients.PolicyContext, image) error) error {
	policy, err := clients.NewPolicyFromBytes([]byte(q.policy))
	if err != nil {
		return err
	}
	named, err := reference.ParseNormalizedNamed(q.reference)
	if err != nil {
		return err
	}
	c, err := clients.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	return errors.Join(ask(c, image{q: q, named: reference.TagNameOnly(named)}), c.Destroy())
}

// An image is one with a reference and signatures that exist nowhere else.
type image struct {
	types.ImageReference // nil: what is not overridden is not asked for
	q                    question
	named                reference.Named
}

func (i image) Reference() types.ImageReference { return i }
func (i image) Manifest(context.Context) ([]byte, string, error) {
	return imageManifest(), imageType, nil
}
func (i image) Signatures(context.Context) ([][]byte, error) { return i.q.signatures, nil }
func (i image) DockerReference() reference.Named             { return i.named }
func (i image) StringWithinTransport() string                { return "//" + i.named.String() }

func (i image) Transport() types.ImageTransport {
	if i.q.transport == "atomic" {
		return openshift.Transport
	}
	return docker.Transport
}

// PolicyConfigurationIdentity is that of the transports, which know no reference with tag and
// digest: clients that take one look it up without its tag.
func (i image) PolicyConfigurationIdentity() string {
	named := i.named
	if digested, ok := named.(reference.Digested); ok {
		named, _ = reference.WithDigest(reference.TrimNamed(named), digested.Digest())
	}
	identity, err := policyconfiguration.DockerReferenceIdentity(named)
	if err != nil {
		return "" // is no scope
	}
	return identity
}

func (i image) PolicyConfigurationNamespaces() []string {
	return policyconfiguration.DockerReferenceNamespaces(i.named)
}

// askSkopeo pulls the image from a registry that has these signatures.
func askSkopeo(t *testing.T, q question) error {
	dir := t.TempDir()
	server := httptest.NewServer(registry(q.signatures))
	defer server.Close()
	named, err := reference.ParseNormalizedNamed(q.reference)
	if err != nil {
		return err
	}
	// Whatever host the image is said to be of, this registry has it.
	mirror := fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n",
		reference.Domain(named), strings.TrimPrefix(server.URL, "http://"))
	for name, content := range map[string]string{"policy.json": q.policy, "registries.conf": mirror} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "skopeo", "--policy", "policy.json", "--registries.d", dir, "--registries-conf", "registries.conf",
		"copy", "--quiet", "docker://"+q.reference, "dir:image")
	c.Dir = dir
	c.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	out, err := c.CombinedOutput()
	said := string(bytes.TrimSpace(out))
	if err != nil && !strings.Contains(said, "Source image rejected: ") && !strings.Contains(said, "Error loading trust policy: ") {
		t.Errorf("skopeo failed before it came to a verdict on %s: %v: %s", q.reference, err, said)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// registry has one image under every name, with these signatures (protocol.md 3).
func registry(signatures [][]byte) http.Handler {
	manifest := imageManifest()
	name := digest.FromBytes(manifest)
	type entry struct {
		SchemaVersion int    `json:"schemaVersion"`
		Name          string `json:"name"`
		Type          string `json:"type"`
		Content       []byte `json:"content"`
	}
	list := struct {
		Signatures []entry `json:"signatures"`
	}{[]entry{}}
	for i, s := range signatures {
		list.Signatures = append(list.Signatures, entry{2, fmt.Sprintf("%s@%032x", name, i), "atomic", s})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Registry-Supports-Signatures", "1")
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		switch path := r.URL.Path; {
		case path == "/v2/":
		case strings.HasPrefix(path, "/extensions/v2/"):
			_ = json.NewEncoder(w).Encode(list) // the client that has gone fails by itself
		case strings.Contains(path, "/manifests/"):
			w.Header().Set("Content-Type", imageType)
			w.Header().Set("Docker-Content-Digest", name.String())
			_, _ = w.Write(manifest)
		case strings.Contains(path, "/blobs/"):
			_, _ = w.Write([]byte(imageConfig))
		default:
			http.NotFound(w, r)
		}
	})
}
