package registry

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestSecret(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	first, err := readSecret(directory)
	if err != nil || len(first) != secretSize || strings.Trim(first, "0123456789abcdef") != "" {
		t.Fatalf("got %d characters, %v, want %d hexadecimal digits", len(first), err, secretSize)
	}
	if info, err := os.Stat(filepath.Join(directory, "secret")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v, want 0600", info.Mode(), err)
	}
	if again, err := readSecret(directory); err != nil || again != first {
		t.Errorf("read again: another one, %v", err)
	}
	if other, err := readSecret(t.TempDir()); err != nil || other == first {
		t.Errorf("another directory: the same, %v", err)
	}
	onlySecret(t, directory)
}

// onlySecret checks that no half-written file is left.
func onlySecret(t *testing.T, directory string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) != 1 || entries[0].Name() != "secret" {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

// Nothing in a process guards the file: starting in several goroutines is as in several
// processes.
func TestSecretAtOnce(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	const n = 16
	var secrets [n]string
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			secret, err := readSecret(directory)
			if err != nil {
				t.Error(err)
			}
			secrets[i] = secret
		})
	}
	group.Wait()
	for i, secret := range secrets {
		if secret != secrets[0] || len(secret) != secretSize {
			t.Errorf("process %d has another secret, of %d bytes", i, len(secret))
		}
	}
	onlySecret(t, directory)
}

// A secret that others may have read or chosen is none.
func TestSecretRefused(t *testing.T) {
	t.Parallel()
	good := strings.Repeat("0", secretSize)
	for name, prepare := range map[string]func(path string) error{
		"others may read":  func(path string) error { return write(path, good, 0o644) },
		"group may write":  func(path string) error { return write(path, good, 0o620) },
		"empty":            func(path string) error { return write(path, "", 0o600) },
		"half of it":       func(path string) error { return write(path, good[1:], 0o600) },
		"more":             func(path string) error { return write(path, good+"\n", 0o600) },
		"a directory":      func(path string) error { return os.Mkdir(path, 0o700) },
		"a link elsewhere": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a link to a good": func(path string) error {
			if err := write(path+"2", good, 0o600); err != nil {
				return err
			}
			return os.Symlink(path+"2", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "secret")
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			e, err := NewEmbedded(t.Context(), EmbeddedConfig{Directory: filepath.Dir(path)})
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "hint: delete it") {
				t.Errorf("got %v, %v, want an error that names %s and says what to do", e, err, path)
			}
		})
	}
}

// write makes a file of that mode, whatever the umask is.
func write(path, content string, mode os.FileMode) error {
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
