package node_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// keys are two, made once: it takes its time.
var keys = sync.OnceValues(func() ([2]*signature.Keyring, error) {
	var rings [2]*signature.Keyring
	for i := range rings {
		_, public, err := signature.Generate(fmt.Sprintf("key %d", i), 3072, time.Unix(1_700_000_000, 0))
		if err == nil {
			rings[i], err = signature.ReadKeyring(public)
		}
		if err != nil {
			return rings, err
		}
	}
	return rings, nil
})

func key(t testing.TB, n int) *signature.Keyring {
	t.Helper()
	rings, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	return rings[n]
}

func made(t testing.TB, ring *signature.Keyring, o node.Options) node.Config {
	t.Helper()
	c, err := node.Make(policy.Trust([]string{"registry.example.com:5000", "registry.example.com"}, ring), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMake(t *testing.T) {
	t.Parallel()
	a, b := key(t, 0), key(t, 1)
	both := signature.Join(a, b)
	c := made(t, both, node.Options{Profile: "dmz", Lookasides: []node.Lookaside{{Host: "registry.example.com:5000", URL: "https://sigs.example.com/sigstore"}}})
	var paths []string
	for _, f := range c.Files {
		paths = append(paths, f.Path)
	}
	if len(paths) != 4 || !strings.HasSuffix(paths[0], ".gpg") || !strings.Contains(paths[0], both.Keys()[0].Fingerprint+"-and-1-more-") ||
		paths[2] != "registries.d/registry.example.com_5000.yaml" || paths[3] != "policy.json" {
		t.Fatalf("the files are %q", paths)
	}
	ring, err := signature.ReadKeyring(c.Files[0].Content)
	if err != nil || len(ring.Keys()) != 2 || bytes.Contains(c.Files[0].Content, []byte("BEGIN PGP")) {
		t.Errorf("the keyring is not one binary one of two keys: %v", err)
	}
	p, err := policy.Parse(c.Policy())
	if err != nil {
		t.Fatal(err)
	}
	var scopes []string
	for _, s := range p.Scopes() {
		scopes = append(scopes, s.Transport+" "+s.Name+" "+s.Requirements[0].Type)
	}
	if want := []string{"  reject", "atomic registry.example.com signedBy", "atomic registry.example.com:5000 signedBy",
		"docker registry.example.com signedBy", "docker registry.example.com:5000 signedBy"}; !slices.Equal(scopes, want) {
		t.Errorf("the scopes are %q, want %q", scopes, want)
	}
	if _, err := node.Make(policy.Trust([]string{"h.example.com"}, signature.Join()), node.Options{}); !errors.Is(err, node.ErrNoKey) {
		t.Errorf("a policy that nobody can meet: %v", err)
	}
}

// What a node has keeps its order and its scopes; what does not change stays byte for byte.
func TestMerge(t *testing.T) {
	t.Parallel()
	first, second := made(t, key(t, 0), node.Options{Profile: "p"}), made(t, key(t, 1), node.Options{Profile: "p"})
	there := `{"transports":{"zfs":{},"docker":{"z.example.com":[{"type":"reject"}],"registry.example.com/old":[{"type":"insecureAcceptAnything"}],"a.example.com":[{"type":"reject"}]}},` +
		`"default":[{"type":"insecureAcceptAnything"}]}`
	merged, said, err := first.Merge([]byte(there), node.Merging{})
	if err != nil {
		t.Fatal(err)
	}
	all := string(merged.Policy())
	order := []string{`"default"`, `insecureAcceptAnything`, `"zfs"`, `"docker"`, `"z.example.com"`, `"registry.example.com/old"`, `"a.example.com"`, `"registry.example.com"`, `"registry.example.com:5000"`, `"atomic"`}
	at := 0
	for _, word := range order {
		next := strings.Index(all[at:], word)
		if next < 0 {
			t.Fatalf("%s is gone, or not behind what was in front of it:\n%s", word, all)
		}
		at += next
	}
	for _, want := range []string{"default stays", `"registry.example.com/old"`, "goes on accepting"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("it does not say %q: %q", want, said)
		}
	}
	if r := merged.Readme(); strings.Contains(r, "EVERYTHING ELSE") || !strings.Contains(r, "insecureAcceptAnything") {
		t.Errorf("the README says of the default\n%s", r)
	}
	unformatted := []byte(strings.Join(strings.Fields(all), ""))
	if again, _, err := first.Merge(unformatted, node.Merging{}); err != nil || !bytes.Equal(again.Policy(), unformatted) {
		t.Errorf("the second time it is written anew: %v\n%s", err, again.Policy())
	}
	// Another key is no conflict, where the one before was ours.
	rotated, said, err := second.Merge(merged.Policy(), node.Merging{})
	if err != nil || !strings.Contains(strings.Join(said, "\n"), "brought up to date") || bytes.Contains(rotated.Policy(), []byte(first.Files[0].Path)) {
		t.Errorf("another key: %v, %q\n%s", err, said, rotated.Policy())
	}
	conflict := []byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.com":[{"type":"reject"}]}}}`)
	if _, _, err := first.Merge(conflict, node.Merging{}); !errors.Is(err, node.ErrConflict) || !strings.Contains(err.Error(), `docker["registry.example.com"]`) {
		t.Errorf("a conflict: %v", err)
	}
	if forced, _, err := first.Merge(conflict, node.Merging{Force: true}); err != nil || strings.Contains(string(forced.Policy()), `"registry.example.com": [
                {
                    "type": "reject"`) {
		t.Errorf("by force: %v\n%s", err, forced.Policy())
	}
}

// Files have their modes whatever the umask, links stay links, and what is left is told.
func TestInstall(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "containers")
	first, second := made(t, key(t, 0), node.Options{Profile: "p"}), made(t, key(t, 1), node.Options{Profile: "p"})
	if changes, _, err := first.Install(dir, true); err != nil || len(changes) != 3 {
		t.Fatalf("dry: %v, %q", err, changes)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("a dry run writes")
	}
	if _, _, err := first.Install(dir, false); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "policy.json")
	if err := errors.Join(os.Rename(filepath.Join(dir, "policy.json"), elsewhere), os.Symlink(elsewhere, filepath.Join(dir, "policy.json")),
		os.Chmod(filepath.Join(dir, first.Files[0].Path), 0o600)); err != nil {
		t.Fatal(err)
	}
	if changes, _, err := first.Install(dir, false); err != nil || len(changes) != 1 || !strings.Contains(changes[0], "mode 0644, was 0600") {
		t.Errorf("a mode: %v, %q", err, changes)
	}
	changes, left, err := second.Install(dir, false)
	if err != nil || len(changes) != 3 || len(left) != 1 || !strings.HasPrefix(left[0], first.Files[0].Path) {
		t.Errorf("another key: %v, %q, %q", err, changes, left)
	}
	if target, err := os.Readlink(filepath.Join(dir, "policy.json")); err != nil || target != elsewhere {
		t.Errorf("policy.json is no link to %s any more: %v", elsewhere, err)
	}
	if got, err := os.ReadFile(elsewhere); err != nil || !bytes.Equal(got, second.Policy()) {
		t.Errorf("what the link leads to was not written: %v", err)
	}
}

// A volume of Kubernetes is links to a directory that is replaced.
func TestReadDirectory(t *testing.T) {
	t.Parallel()
	c := made(t, key(t, 0), node.Options{Profile: "p", Prefix: "/srv/containers"})
	volume := t.TempDir()
	if _, _, err := c.Install(filepath.Join(volume, "..2026"), false); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"..data": "..2026", "policy.json": "..data/policy.json", "countersign": "..data/countersign"} {
		if err := os.Symlink(target, filepath.Join(volume, link)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := node.ReadDirectory(volume)
	if err != nil || !bytes.Equal(got.Tar(), c.Tar()) || got.Prefix != c.Prefix || got.Profile != c.Profile {
		t.Errorf("got %v and %d files of profile %q below %q", err, len(got.Files), got.Profile, got.Prefix)
	}
	if err := os.Remove(filepath.Join(volume, "..2026", c.Files[0].Path)); err != nil {
		t.Fatal(err)
	}
	if _, err := node.ReadDirectory(volume); err == nil || !strings.Contains(err.Error(), c.Files[0].Path) {
		t.Errorf("a key that is not among the files: %v", err)
	}
}

// FuzzReadTar: what is read names no file outside, and is written again as it was.
func FuzzReadTar(f *testing.F) {
	c := made(f, key(f, 0), node.Options{Profile: "p", Lookasides: []node.Lookaside{{Host: "h.example.com", URL: "http://x"}}})
	f.Add(c.Tar())
	for _, h := range []tar.Header{
		{Name: "../policy.json"}, {Name: "/etc/passwd"}, {Name: "registries.d/../x.yaml"}, {Name: "countersign/README/../../x"},
		{Name: "policy.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}, {Name: "policy.json", Typeflag: tar.TypeLink, Linkname: "x"},
	} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		if err := errors.Join(w.WriteHeader(&h), w.Close()); err != nil {
			f.Fatal(err)
		}
		if _, err := node.ReadTar(&out); err == nil {
			f.Errorf("%+v is read", h)
		}
		f.Add(out.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := node.ReadTar(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, file := range got.Files {
			if !filepath.IsLocal(file.Path) {
				t.Fatalf("a file %q", file.Path)
			}
		}
		again, err := node.ReadTar(bytes.NewReader(got.Tar()))
		if err != nil || !bytes.Equal(again.Tar(), got.Tar()) {
			t.Fatalf("what was read is written otherwise: %v", err)
		}
	})
}
