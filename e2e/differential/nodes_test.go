package differential

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/openshift"
	clients "go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
)

// installed makes the files of a node policy and installs them in a directory of their own.
func installed(t *testing.T, document string, lookasides ...node.Lookaside) (dir string) {
	t.Helper()
	p, err := policy.Parse([]byte(document))
	if err == nil {
		p, err = p.Load(os.ReadFile)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "containers")
	c, err := node.Make(p, node.Options{Profile: "production", Prefix: dir, Lookasides: lookasides})
	if err == nil {
		_, _, err = c.Install(dir, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A pulled image is one that a client has from there, with these signatures.
type pulled struct {
	image
	from types.ImageReference
}

func (p pulled) Reference() types.ImageReference { return p.from }

// parsers are those of the transports that have lookasides or extensions.
var parsers = map[string]func(string) (types.ImageReference, error){
	"docker://": func(r string) (types.ImageReference, error) { return docker.ParseReference("//" + r) },
	"atomic:":   openshift.ParseReference,
}

// allowed asks a client that has the policy whether it would run the image.
func allowed(ctx context.Context, policyFile, transport, name string, signatures ...[]byte) error {
	reference, err := parsers[transport](name)
	if err != nil {
		return err
	}
	p, err := clients.NewPolicyFromFile(policyFile)
	if err != nil {
		return err
	}
	c, err := clients.NewPolicyContext(p)
	if err != nil {
		return err
	}
	accepted, err := c.IsRunningImageAllowed(ctx, pulled{image{q: question{signatures: signatures}}, reference})
	if !accepted && err == nil {
		err = errors.New("not allowed, without an error")
	}
	return errors.Join(err, c.Destroy())
}

// TestNodes asks the newest clients about the policy that nodes are given, for docker and for
// atomic, whose scopes they check; and that they read it at all.
func TestNodes(t *testing.T) {
	t.Parallel()
	alice, bob := newSigner(t, "alice"), newSigner(t, "bob")
	one, other := keyFile(t, alice.keys), keyFile(t, bob.keys)
	policyFile := filepath.Join(installed(t, `{"default":[{"type":"reject"}],"transports":{"docker":{
		"registry.example.com":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"`+one+`"}],
		"registry.example.com/build":[{"type":"signedBy","keyType":"GPGKeys","keyPaths":["`+one+`","`+other+`"],"signedIdentity":{"type":"matchRepository"}}],
		"registry.example.com/much/too/deep/for/atomic":[{"type":"insecureAcceptAnything"}],
		"*.wild.example.com":[{"type":"insecureAcceptAnything"}]}}}`), "policy.json")
	for transport := range parsers {
		for name, test := range map[string]struct {
			reference string
			by        *signer
			claims    string // empty: the reference
			accepted  bool
		}{
			"signed":                       {reference: "registry.example.com/ns/app:v1", by: &alice, accepted: true},
			"signed for another tag":       {reference: "registry.example.com/ns/app:v1", by: &alice, claims: "registry.example.com/ns/app:v2"},
			"unsigned":                     {reference: "registry.example.com/ns/app:v1"},
			"signed by another":            {reference: "registry.example.com/ns/app:v1", by: &bob},
			"the first of two keys":        {reference: "registry.example.com/build/app:v1", by: &alice, accepted: true},
			"the second of two keys":       {reference: "registry.example.com/build/app:v1", by: &bob, accepted: true},
			"its repository, another tag":  {reference: "registry.example.com/build/app:v1", by: &bob, claims: "registry.example.com/build/app:v2", accepted: true},
			"another repository":           {reference: "registry.example.com/build/app:v1", by: &bob, claims: "registry.example.com/build/other:v1"},
			"unsigned, with two keys":      {reference: "registry.example.com/build/app:v1"},
			"of a host without a scope":    {reference: "elsewhere.example.com/ns/app:v1", by: &alice},
			"of a host with the same name": {reference: "registry.example.com:5000/ns/app:v1", by: &alice},
		} {
			var signatures [][]byte
			if test.by != nil {
				claims := test.claims
				if claims == "" {
					claims = test.reference
				}
				signatures = append(signatures, test.by.sign(t, claim(claims, digest.FromBytes(imageManifest()).String(), "")))
			}
			if err := allowed(t.Context(), policyFile, transport, test.reference, signatures...); (err == nil) != test.accepted {
				t.Errorf("%s%s, %s: %v, want it accepted: %v", transport, test.reference, name, err, test.accepted)
			}
		}
	}
	if err := allowed(t.Context(), policyFile, "docker://", "registry.example.com/much/too/deep/for/atomic/app:v1"); err != nil {
		t.Errorf("a scope of docker's alone: %v", err)
	}
}

// TestNodesLookasides has the newest clients read registries.d, by the name that lookasides have
// today and by the one that they had.
func TestNodesLookasides(t *testing.T) {
	t.Parallel()
	hosts := map[string]string{"registry.example.com": "https://sigs.example.com/sigstore", "registry.svc:5000": "https://sigs.example.com/lookaside/registry.svc:5000"}
	var lookasides []node.Lookaside
	for host, url := range hosts {
		lookasides = append(lookasides, node.Lookaside{Host: host, URL: url})
	}
	for _, without := range []string{"", "lookaside:", "sigstore:"} {
		dir := filepath.Join(installed(t, `{"default":[{"type":"reject"}]}`, lookasides...), "registries.d")
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) != len(hosts) {
			t.Fatalf("the files are %q: %v", files, err)
		}
		for _, file := range files {
			var kept []string
			content, err := os.ReadFile(file)
			for _, line := range strings.Split(string(content), "\n") {
				if without == "" || !strings.HasPrefix(strings.TrimSpace(line), without) {
					kept = append(kept, line)
				}
			}
			if err := errors.Join(err, os.WriteFile(file, []byte(strings.Join(kept, "\n")), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		for host, url := range hosts {
			reference, err := docker.ParseReference("//" + host + "/ns/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := docker.SignatureStorageBaseURL(&types.SystemContext{RegistriesDirPath: dir}, reference, false)
			if err != nil || got.String() != url+"/ns/app" {
				t.Errorf("without %q clients look for signatures of %s at %v, want %s/ns/app: %v", without, host, got, url, err)
			}
		}
	}
}
