package admission_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server/admission"
)

// A file that is written over counts, though its size and time are those of before, and though that
// comes so soon that all its times may be.
func TestChangedInPlace(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	key, other := filepath.Join(directory, "a"), filepath.Join(directory, "b")
	write(t, key, people()["alice"].public)
	write(t, other, people()["bob"].public)
	naming := func(key string) []byte {
		return fmt.Appendf(nil, `{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, host, key)
	}
	padded := func(person string) []byte {
		return append(bytes.Clone(people()[person].public), bytes.Repeat([]byte("\n"), 8192-len(people()[person].public))...)
	}
	file, trusted := filepath.Join(directory, "policy.json"), filepath.Join(directory, "trusted")
	if err := os.Mkdir(trusted, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path       string
		alice, bob []byte
		open       func(log *slog.Logger) (*admission.Live, error)
	}{
		"a policy": {file, naming(key), naming(other), func(log *slog.Logger) (*admission.Live, error) { return admission.OpenPolicy(file, log) }},
		"a trusted key": {filepath.Join(trusted, "key"), padded("alice"), padded("bob"), func(log *slog.Logger) (*admission.Live, error) {
			return admission.OpenTrusted(trusted, []string{host}, log)
		}},
	} {
		then := time.Now().Add(-time.Hour)
		over := func(content []byte) {
			write(t, test.path, content)
			if err := os.Chtimes(test.path, then, then); err != nil {
				t.Fatal(err)
			}
		}
		over(test.alice)
		var log bytes.Buffer
		live, err := test.open(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			over(test.bob)
			if got := trusts(live); !slices.Equal(got, []string{"bob"}) {
				t.Errorf("%s, written over: trusts %q, want bob", name, got)
			}
			over(test.alice)
			if got := trusts(live); !slices.Equal(got, []string{"alice"}) {
				t.Errorf("%s, written over again: trusts %q, want alice", name, got)
			}
		}
		before := log.Len()
		if trusts(live); log.Len() != before {
			t.Errorf("%s is read again, though nothing changed:\n%s", name, log.String()[before:])
		}
	}
}
