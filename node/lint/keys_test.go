package lint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/node/lint"
	"github.com/countersign-dev/countersign/signature"
)

// found are the findings, as "id: what".
func found(t *testing.T, path string, o lint.Options) []string {
	t.Helper()
	r, err := lint.Run(t.Context(), []string{path}, o)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range r.Findings {
		all = append(all, f.ID+": "+f.What)
	}
	return all
}

func wantFound(t *testing.T, got []string, words ...string) {
	t.Helper()
	if len(got) != len(words) {
		t.Errorf("found %q, want %d", got, len(words))
		return
	}
	for i, want := range words {
		if !strings.Contains(got[i], want) {
			t.Errorf("found %q, want %q in it", got[i], want)
		}
	}
}

// A node of one key file.
func nodeWith(t *testing.T, key []byte, mode os.FileMode) (directory string) {
	t.Helper()
	directory = t.TempDir()
	file := filepath.Join(directory, "countersign", "key.gpg")
	write(t, file, string(key))
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(directory, "policy.json"),
		`{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.com":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/etc/containers/countersign/key.gpg"}]}}}`)
	return directory
}

// Who else can read and write a key, and when it ends, is told; keys below /etc/containers are
// looked for in the directory that is given.
func TestKeys(t *testing.T) {
	t.Parallel()
	_, key, err := signature.Spec{UserID: "release", Algorithm: signature.RSA3072, Lifetime: 365 * 24 * time.Hour}.Generate(now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	wantFound(t, found(t, nodeWith(t, key, 0o644), lint.Options{Now: now}))
	wantFound(t, found(t, nodeWith(t, key, 0o600), lint.Options{Now: now}), "key-mode: not everybody may read")
	wantFound(t, found(t, nodeWith(t, key, 0o664), lint.Options{Now: now}), "key-mode: others than its owner may write")
	wantFound(t, found(t, nodeWith(t, key, 0o644), lint.Options{Now: now.Add(340 * 24 * time.Hour)}), "key-expiring: key ")
	wantFound(t, found(t, nodeWith(t, key, 0o644), lint.Options{Now: now.Add(366 * 24 * time.Hour)}), "key-spent: key ", "keys-all-spent: all its keys")
	wantFound(t, found(t, nodeWith(t, key, 0o644), lint.Options{Now: now, Prefix: "/srv/containers"}), "key-missing: \"/etc/containers/")
	wantFound(t, found(t, nodeWith(t, nil, 0o644), lint.Options{Now: now}), "key-invalid: ")
	wantFound(t, found(t, nodeWith(t, keyFile(t, "weak.asc"), 0o644), lint.Options{Now: now}), "key-weak: ")

	pipe := nodeWith(t, key, 0o644)
	name := filepath.Join(pipe, "countersign", "key.gpg")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o644); err != nil {
		t.Fatal(err)
	}
	wantFound(t, found(t, pipe, lint.Options{Now: now}), "key-unreadable: ")
}

func keyFile(t *testing.T, name string) []byte {
	t.Helper()
	return []byte(content(t, filepath.Join("testdata", "root", "keys", name)))
}

// An EdDSA key shuts out clients that are too old for it, and no others.
func TestClients(t *testing.T) {
	t.Parallel()
	directory := filepath.Join("testdata", "mistakes", "key-eddsa")
	for version, want := range map[string][]string{"5.41": {"key-algorithm"}, "podman-5.0": {"key-algorithm"}, "5.42": nil, "6.0": nil} {
		client, err := lint.ParseClient(version)
		if err != nil {
			t.Fatal(err)
		}
		wantFound(t, found(t, directory, lint.Options{Now: now, Root: filepath.Join("testdata", "root"), Client: client}), want...)
	}
}

func TestParseClient(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]lint.Client{
		"5.23": {Major: 5, Minor: 23}, "5.23.1": {Major: 5, Minor: 23}, "podman-4.3": {Major: 5, Minor: 23}, "podman-4.3.1": {Major: 5, Minor: 23},
		"podman-4.5": {Major: 5, Minor: 24}, "podman-3.4": {Major: 5, Minor: 17}, "podman-9.0": {Major: 5, Minor: 36}, "skopeo-1.9": {Major: 5, Minor: 22}, "skopeo-1.4": {Major: 5, Minor: 15},
		"": {}, "new": {}, "podman": {}, "podman-1.0": {}, "buildah-1.28": {}, "5": {}, "-1.2": {}, "5.99999": {},
	} {
		got, err := lint.ParseClient(version)
		if got != want || (err == nil) != (want != lint.Client{}) {
			t.Errorf("%q: got %v, %v; want %v", version, got, err, want)
		}
	}
}

// Files that are made to take long, or to say much, do neither.
func TestHostile(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	var names, sources, tables strings.Builder
	for i := range 1_200 {
		fmt.Fprintf(&names, `,"https://h%d.example.com":[{"type":"reject"}]`, i)
		fmt.Fprintf(&sources, "  h%d.example.com:5000: {lookaside: 'http://h/', <<: *x}\n", i)
		fmt.Fprintf(&tables, "[[registry]]\nlocation = 'h%d.example.com'\n[[registry.mirror]]\nlocation = 'm%[1]d'\n", i)
	}
	write(t, filepath.Join(directory, "policy.json"), `{"default":[{"type":"reject"}],"transports":{"docker":{"x":[{"type":"reject"}]`+names.String()+`}}}`)
	write(t, filepath.Join(directory, "registries.d/a.yaml"), "x: &x {sigstore: 'http://h/'}\ndocker:\n"+sources.String())
	write(t, filepath.Join(directory, "registries.conf"), tables.String())
	began := time.Now()
	r, err := lint.Run(t.Context(), []string{directory}, lint.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) > 3000 || r.More < 1_000 || r.Count(lint.Error) != 1000 {
		t.Errorf("%d findings, %d errors, and %d more", len(r.Findings), r.Count(lint.Error), r.More)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	write(t, filepath.Join(directory, "registries.d/b.yaml"), strings.Repeat("#", 2<<20))
	if _, err := lint.Run(t.Context(), []string{directory}, lint.Options{Now: now}); err == nil || !strings.Contains(err.Error(), "b.yaml") {
		t.Errorf("a file of two megabytes: %v", err)
	}
	if !slices.Contains(r.Files, filepath.Join(directory, "policy.json")) {
		t.Errorf("the files are %q", r.Files)
	}
}
