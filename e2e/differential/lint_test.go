package differential

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	_ "go.podman.io/image/v5/directory" // so that policies know it
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	clients "go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
	old "golang.org/x/crypto/openpgp"

	"github.com/countersign-dev/countersign/node/lint"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

const lintFixtures = "../../node/lint/testdata"

// TestLint shows the files of which lint knows what is wrong with them to the library: it refuses
// to read those that lint says no client reads, and reads all others.
func TestLint(t *testing.T) {
	t.Parallel()
	directories, err := filepath.Glob(lintFixtures + "/*/*/want")
	if err != nil || len(directories) < 25 {
		t.Fatalf("%v: %d fixtures", err, len(directories))
	}
	for _, want := range directories {
		directory := filepath.Dir(want)
		t.Run(strings.TrimPrefix(directory, lintFixtures+"/"), func(t *testing.T) {
			t.Parallel()
			r, err := lint.Run(t.Context(), []string{directory}, lint.Options{Now: time.Now(), Root: lintFixtures + "/root"})
			if err != nil {
				t.Fatal(err)
			}
			for reader, test := range map[string]struct {
				read    func(directory string) error
				refuses []string
			}{
				"policy.json":     {readsPolicy, []string{"policy-invalid", "policy-unknown-key", "policy-duplicate-key", "default-missing", "transport-scope"}},
				"registries.d":    {readsRegistriesD, []string{"registriesd-invalid", "registriesd-duplicate-key", "namespace-twice"}},
				"registries.conf": {readsRegistriesConf, []string{"registriesconf-invalid"}},
			} {
				refused := slices.ContainsFunc(r.Findings, func(f lint.Finding) bool { return slices.Contains(test.refuses, f.ID) })
				if err := test.read(directory); (err != nil) != refused {
					t.Errorf("%s: the library says %v, and lint %+v", reader, err, r.Findings)
				}
			}
		})
	}
}

func readsPolicy(directory string) error {
	files, err := filepath.Glob(filepath.Join(directory, "*.json"))
	for _, file := range files {
		if err == nil {
			_, err = clients.NewPolicyFromFile(file)
		}
	}
	return err
}

func readsRegistriesD(directory string) error {
	ref, err := docker.ParseReference("//registry.example.com/ns/app:v1")
	if err != nil {
		return err
	}
	_, err = docker.SignatureStorageBaseURL(&types.SystemContext{RegistriesDirPath: filepath.Join(directory, "registries.d")}, ref, false)
	return err
}

func readsRegistriesConf(directory string) error {
	file := filepath.Join(directory, "registries.conf")
	if _, err := os.Stat(file); err != nil {
		file = os.DevNull
	}
	_, err := sysregistriesv2.GetRegistries(&types.SystemContext{
		SystemRegistriesConfPath: file, SystemRegistriesConfDirPath: filepath.Join(directory, "registries.conf.d"),
	})
	return err
}

// TestLintScopes asks the library for the names under which it looks images up: a scope that lint
// says can match is among those of the example that there is for it, and one that can never match
// among those of no image that is spelled like it.
func TestLintScopes(t *testing.T) {
	t.Parallel()
	for _, scope := range []string{
		"registry.example.com", "registry.example.com:5000", "registry.example.com/ns", "registry.example.com/ns/app:v1", "*.example.com", "*.com", "localhost",
		"docker.io", "docker.io/bitnami", "docker.io/library/nginx:1.27", "Registry.example.com/prod", "registry.example.com:443",
		"registry.example.com/a@" + digest.FromString("x").String(),
		"nginx", "bitnami/redis", "docker.io/nginx:1.27", "index.docker.io/library/nginx", "https://registry.example.com/ns", "docker://registry.example.com",
		"registry.example.com/", "registry.example.com/Prod", "registry.example.com/*", "*.example.com:5000", "*.example.com/ns", "*", "REGISTRY", "registry",
		"[::1]:5000", "registry.example.com/a:v1@" + digest.FromString("x").String(), " registry.example.com", "registry.example.com/" + strings.Repeat("a", 300),
	} {
		image, matches := policy.Example(scope)
		if matches {
			if names := lookedUp(t, image.String()); !slices.Contains(names, scope) {
				t.Errorf("%s is no scope of %s, which has %q", scope, image, names)
			}
			continue
		}
		for _, spelled := range []string{scope, scope + "/app", scope + "/ns/app:v1", scope + ":v1", strings.ToLower(scope), strings.Trim(scope, "/ *"), strings.ReplaceAll(scope, "*", "a")} {
			if names := lookedUp(t, spelled); slices.Contains(names, scope) {
				t.Errorf("%q is looked up for %q, and lint says that it never is", scope, spelled)
			}
		}
	}
}

// lookedUp are the names of an image in policies and in registries.d, none if it is no image.
func lookedUp(t *testing.T, image string) []string {
	t.Helper()
	ref, err := docker.ParseReference("//" + image)
	if err != nil {
		return nil
	}
	return append([]string{ref.PolicyConfigurationIdentity()}, ref.PolicyConfigurationNamespaces()...)
}

// TestLintKeys shows what lint says of keys to clients that were built without gpgme.
func TestLintKeys(t *testing.T) {
	t.Parallel()
	alice, bob := newSigner(t, "alice"), newSigner(t, "bob")
	two := append(slices.Clone(armored(t, alice.keys)), armored(t, bob.keys)...)
	second := form{keys: two, blob: bob.sign(t, theClaim())}.question()
	if err := askLibrary(t.Context(), second); (err == nil) != (library == gpgme) {
		t.Errorf("%s, a key in the second armored block: %v", library, err)
	}
	first := form{keys: two, blob: alice.sign(t, theClaim())}.question()
	if err := askLibrary(t.Context(), first); err != nil {
		t.Errorf("%s, a key in the first armored block: %v", library, err)
	}
	eve, err := os.ReadFile(lintFixtures + "/root/keys/eve.asc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.ReadArmoredKeyRing(bytes.NewReader(eve)); err == nil {
		t.Error("a client without gpgme, up to 5.40, reads an EdDSA key")
	}
}

// TestLintAtomic asks for images by atomic, OpenShift's old transport, with the policy of OKD's
// guide: the registry accepts, two namespaces want a key each, a vendor's registry its own, and
// all else is rejected. It governs nothing of what is pulled by docker, as lint says.
func TestLintAtomic(t *testing.T) {
	t.Parallel()
	alice, bob := newSigner(t, "alice"), newSigner(t, "bob")
	text := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{
		"docker":{"registry.access.redhat.com":[%[1]s]},
		"atomic":{"172.30.1.1:5000/openshift":[%[1]s],"172.30.1.1:5000/production":[%[2]s],"172.30.1.1:5000":[{"type":"insecureAcceptAnything"}]}}}`,
		byKeys(alice.keys, ""), byKeys(bob.keys, ""))
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := lint.Run(t.Context(), []string{file}, lint.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range r.Findings {
		if f.ID != "key-algorithm" { // bob's key is what it is
			found = append(found, string(f.Severity)+" "+f.ID+" "+f.Place)
		}
	}
	if want := []string{`warning atomic-only transports.atomic["172.30.1.1:5000"]`, `warning atomic-only transports.atomic["172.30.1.1:5000/openshift"]`, `warning atomic-only transports.atomic["172.30.1.1:5000/production"]`}; !slices.Equal(found, want) {
		t.Errorf("lint finds %q, want %q", found, want)
	}
	for _, pull := range []struct {
		transport, image string
		by               *signer
		accepted         bool
	}{
		{"atomic", "172.30.1.1:5000/openshift/app:v1", &alice, true},
		{"atomic", "172.30.1.1:5000/openshift/app:v1", &bob, false},
		{"atomic", "172.30.1.1:5000/production/app:v1", &bob, true},
		{"atomic", "172.30.1.1:5000/production/app:v1", nil, false},
		{"atomic", "172.30.1.1:5000/other/app:v1", nil, true},
		{"docker", "registry.access.redhat.com/ubi9:v1", &alice, true},
		{"docker", "registry.access.redhat.com/ubi9:v1", &bob, false},
		{"docker", "quay.io/other/app:v1", &alice, false},
		// What the warnings say.
		{"docker", "172.30.1.1:5000/openshift/app:v1", &alice, false},
		{"docker", "172.30.1.1:5000/production/app:v1", &bob, false},
		{"docker", "172.30.1.1:5000/other/app:v1", nil, false},
	} {
		q := question{policy: text, transport: pull.transport, reference: pull.image}
		if pull.by != nil {
			q.signatures = [][]byte{pull.by.sign(t, claim(pull.image, digest.FromBytes(imageManifest()).String(), `"creator":"test"`))}
		}
		if err := askLibrary(t.Context(), q); (err == nil) != pull.accepted {
			t.Errorf("%s:%s, signed by %v: %v, want it accepted: %v", pull.transport, pull.image, pull.by, err, pull.accepted)
		}
	}
}

// armored is a keyring as text.
func armored(t *testing.T, keys []byte) []byte {
	t.Helper()
	ring, err := signature.ReadKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	return ring.Armored()
}
