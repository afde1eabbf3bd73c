package admission_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
)

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// trusts says whose keys the directory has now.
func trusts(trusted *admission.Live) (names []string) {
	ring := trusted.Policy().Keyring()
	for name, p := range people() {
		if ring.Has(p.signer.Key().Keys()[0].Fingerprint) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// To trust a key is to copy it there; what does not read changes nothing.
func TestTrusted(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	var log bytes.Buffer
	trusted, err := admission.OpenTrusted(directory, []string{host}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := func(step string, names ...string) {
		t.Helper()
		if got := trusts(trusted); !slices.Equal(got, names) {
			t.Errorf("%s: trusts %q, want %q; log:\n%s", step, got, names, &log)
		}
	}
	alice, bob := filepath.Join(directory, "alice.asc"), filepath.Join(directory, "bob.gpg")
	want("empty")
	write(t, alice, people()["alice"].public)
	want("a key", "alice")
	write(t, bob, people()["bob"].signer.Key().Binary())
	want("a second, binary", "alice", "bob")
	write(t, filepath.Join(directory, ".swp"), []byte("an editor's"))
	want("a dot-file", "alice", "bob")

	write(t, bob, []byte("no key"))
	want("a file that does not read", "alice", "bob")
	if !strings.Contains(log.String(), bob) {
		t.Errorf("the log does not name %s:\n%s", bob, &log)
	}
	write(t, bob, people()["bob"].private)
	want("a private key", "alice", "bob")
	if err := os.Remove(bob); err != nil {
		t.Fatal(err)
	}
	want("a file is gone", "alice")
	if err := os.Chmod(alice, 0o666); err != nil {
		t.Fatal(err)
	}
	write(t, bob, people()["bob"].public)
	want("a file that everybody may write", "alice")
	if err := os.Chmod(alice, 0o644); err != nil {
		t.Fatal(err)
	}
	want("mended", "alice", "bob")
	if err := os.Rename(directory, directory+".away"); err != nil {
		t.Fatal(err)
	}
	want("the directory is away", "alice", "bob")
}

// A link is judged by what it leads to.
func TestTrustedLinks(t *testing.T) {
	t.Parallel()
	directory, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "alice")
	write(t, elsewhere, people()["alice"].public)
	if err := os.Symlink(elsewhere, filepath.Join(directory, "alice")); err != nil {
		t.Fatal(err)
	}
	trusted, err := admission.OpenTrusted(directory, []string{host}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := trusts(trusted); !slices.Equal(got, []string{"alice"}) {
		t.Errorf("trusts %q, want alice", got)
	}
	if err := os.Chmod(elsewhere, 0o646); err != nil {
		t.Fatal(err)
	}
	if _, err := admission.OpenTrusted(directory, []string{host}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a link to a file that everybody may write: got %v, want an error that says chmod", err)
	}
}

func TestTrustedRefusesItsDirectory(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, directory := range map[string]string{"everybody may write": open, "not there": filepath.Join(open, "none")} {
		if _, err := admission.OpenTrusted(directory, []string{host}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), directory) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, directory)
		}
	}
}

// Who came before a look at the files shares it, and who came after it does not.
func TestLooksAreShared(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	trusted, err := admission.OpenTrusted(directory, []string{host}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	came := time.Now()
	trusted.Policy()
	write(t, filepath.Join(directory, "alice.asc"), people()["alice"].public)
	if n := trusted.Since(came).Keyring().Len(); n != 0 {
		t.Errorf("who came before the last look has %d keys, want none: the look was not shared", n)
	}
	if n := trusted.Since(time.Now()).Keyring().Len(); n != 1 {
		t.Errorf("who came after a key was trusted has %d keys, want it", n)
	}
}

// A file that changes while it is being read is read again, also if it was a key's, and when the
// first reading failed.
func TestChangedWhileItIsRead(t *testing.T) {
	t.Parallel()
	naming := func(key string) []byte {
		return fmt.Appendf(nil, `{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, host, key)
	}
	for name, change := range map[string]func(file, key, other string){
		"the policy": func(file, _, other string) { write(t, file, naming(other)) },
		"the key":    func(_, key, _ string) { write(t, key, people()["bob"].public) },
		"the key, by another file": func(_, key, other string) {
			if err := os.Rename(other, key); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, refuses := range []bool{false, true} {
			directory := t.TempDir()
			file, key, other := filepath.Join(directory, "policy.json"), filepath.Join(directory, "alice"), filepath.Join(directory, "bob")
			write(t, key, people()["alice"].public)
			write(t, other, people()["bob"].public)
			write(t, file, naming(key))
			readings := 0
			live, err := admission.OpenPolicy(file, slog.New(slog.DiscardHandler), func(*policy.Policy) error {
				if readings++; readings > 1 {
					return nil
				}
				change(file, key, other)
				if refuses {
					return errors.New("half of it")
				}
				return nil
			})
			if (err != nil) != refuses {
				t.Fatalf("%s: %v", name, err)
			}
			for range 3 {
				if got := trusts(live); !slices.Equal(got, []string{"bob"}) {
					t.Errorf("%s was changed while it was read: trusts %q, want bob", name, got)
				}
			}
			if readings != 2 || live.Err() != nil {
				t.Errorf("%s: read %d times, %v; want twice, and no error", name, readings, live.Err())
			}
		}
	}
}
