package lookaside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/api"
)

func newWriter(t *testing.T, directory string) *Writer {
	t.Helper()
	w, err := NewWriter(directory, "a test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func contents(words string) (all [][]byte) {
	for word := range strings.FieldsSeq(words) {
		all = append(all, []byte(word))
	}
	return all
}

// served is what a client reads: one file after the other until there is none. Between files it
// calls meanwhile, with the index of the next.
func served(t *testing.T, directory string, meanwhile func(next int)) (words []string) {
	t.Helper()
	for index := 1; ; index++ {
		meanwhile(index)
		content, err := os.ReadFile(filepath.Join(directory, api.SignatureName(index)))
		if errors.Is(err, os.ErrNotExist) {
			return words
		}
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, string(content))
	}
}

const app = "ns/app@sha256=00"

func TestPut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		before, after string
		want          string // before Trim
		changed, more bool
	}{
		{"", "a b", "a b", true, false},
		{"a", "a b", "a b", true, false},
		{"a b", "a b", "a b", false, false},
		{"a b c", "b c", "b c b c", true, true},
		{"a b c", "a c", "a c a c", true, true},
		{"a b c d", "d", "d d d d", true, true},
		{"a b", "b a", "b a b a", true, true},
		{"b c b c", "b c", "b c b c", false, true}, // a crash before Trim
		{"a b", "", "", true, false},
		{"", "", "", false, false},
	} {
		directory := t.TempDir()
		w := newWriter(t, directory)
		if _, _, err := w.Put(app, contents(test.before)); err != nil {
			t.Fatal(err)
		}
		changed, more, err := w.Put(app, contents(test.after))
		if err != nil || changed != test.changed || more != test.more {
			t.Errorf("%q to %q: changed %v, more %v, %v; want %v, %v", test.before, test.after, changed, more, err, test.changed, test.more)
		}
		read := func() string {
			return strings.Join(served(t, filepath.Join(directory, app), func(int) {}), " ")
		}
		if got := read(); got != test.want {
			t.Errorf("%q to %q: %q is served, want %q", test.before, test.after, got, test.want)
		}
		if test.after == "" {
			if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
				t.Errorf("%q to nothing: %v, %v are left, want the mark only", test.before, entries, err)
			}
			continue
		}
		if err := w.Trim(app, len(contents(test.after))); err != nil || read() != test.after {
			t.Errorf("%q to %q: %q is served after Trim, %v", test.before, test.after, read(), err)
		}
	}
}

// Somebody reads while everything is replaced, before each of their steps in turn: whatever stays
// is met, and what has gone is not met after Put has returned.
func TestReaderInMidLoop(t *testing.T) {
	t.Parallel()
	const before, after = "a b c d e", "b d e"
	for at := 1; at <= 6; at++ {
		directory := t.TempDir()
		w := newWriter(t, directory)
		if _, _, err := w.Put(app, contents(before)); err != nil {
			t.Fatal(err)
		}
		words := served(t, filepath.Join(directory, app), func(next int) {
			if next != at {
				return
			}
			if _, more, err := w.Put(app, contents(after)); err != nil || !more {
				t.Fatalf("more %v, %v", more, err)
			}
		})
		for word := range strings.FieldsSeq(after) {
			if !slices.Contains(words, word) {
				t.Errorf("replaced before file %d: a reader met %q, and missed %s", at, words, word)
			}
		}
		for _, gone := range []string{"a", "c"} {
			if i := slices.Index(words, gone); i+1 >= at {
				t.Errorf("replaced before file %d: a reader met %q, and %s had gone", at, words, gone)
			}
		}
	}
}

func TestWriterMends(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	w := newWriter(t, directory)
	for name, content := range map[string]string{"signature-1": "", "signature-3": "c", ".new-2": "half", "signature-2": strings.Repeat("x", 70_000)} {
		write(t, filepath.Join(directory, app, name), content)
	}
	if _, _, err := w.Put(app, contents("a b")); err != nil {
		t.Fatal(err)
	}
	if err := w.Trim(app, 2); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(directory, app))
	if names := fmt.Sprint(entries); err != nil || len(entries) != 2 {
		t.Errorf("%s are there, %v, want two files", names, err)
	}
}

// What somebody else has put into a directory is not removed.
func TestWriterRefuses(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	write(t, filepath.Join(directory, app, "signature-1"), "theirs")
	if w, err := NewWriter(directory, "a test"); !errors.Is(err, ErrForeign) {
		t.Errorf("a directory with files: got %v, %v, want ErrForeign", w, err)
	}
	if _, err := os.Stat(filepath.Join(directory, markName)); err == nil {
		t.Error("a directory that was refused is marked")
	}
	directory = t.TempDir()
	first := newWriter(t, directory)
	if w, err := NewWriter(directory, "a test"); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second writer: got %v, %v", w, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err := NewWriter(directory, "another test"); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "a test") {
		t.Errorf("another kind of tree: got %v, %v, want ErrForeign and which", w, err)
	}
	newWriter(t, directory)
}

// A link out of the tree is not written through.
func TestWriterStaysInside(t *testing.T) {
	t.Parallel()
	directory, outside := t.TempDir(), t.TempDir()
	w := newWriter(t, directory)
	link(t, outside, filepath.Join(directory, "ns"))
	if _, _, err := w.Put(app, contents("a")); err == nil {
		t.Error("written through a link")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}
