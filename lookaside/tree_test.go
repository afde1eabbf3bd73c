package lookaside

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func openTree(t *testing.T, directory string) *Tree {
	t.Helper()
	tree, err := OpenTree(directory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree
}

func TestTree(t *testing.T) {
	t.Parallel()
	directory, hex := t.TempDir(), image().Digest.Encoded()
	app := filepath.Join(directory, "ns/app@sha256="+hex)
	for _, name := range []string{"signature-1", "signature-10", "signature-3", "signature-0", "signature-03", "signature-x", ".signature-2.part", "README"} {
		write(t, filepath.Join(app, name), name)
	}
	write(t, filepath.Join(directory, "a/b/c@sha256="+hex, "signature-1"), "")
	write(t, filepath.Join(directory, ".snapshot/x@sha256="+hex, "signature-1"), "")
	link(t, "/etc/hostname", filepath.Join(app, "signature-4"))
	link(t, "signature-1", filepath.Join(app, "signature-5"))
	link(t, "signature-6", filepath.Join(app, "signature-6"))
	link(t, ".", filepath.Join(directory, "loop"))
	link(t, "/etc", filepath.Join(directory, "ns/out"))
	if err := syscall.Mkfifo(filepath.Join(app, "signature-7"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(app, "signature-8"), strings.Repeat("x", signature.MaxSize+1))
	if err := os.Mkdir(filepath.Join(app, "signature-9"), 0o755); err != nil {
		t.Fatal(err)
	}

	tree := openTree(t, directory)
	var found, skipped []string
	err := tree.Walk(t.Context(), func(path string) error {
		found = append(found, path)
		return nil
	}, func(path string, _ error) { skipped = append(skipped, path) })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	slices.Sort(skipped)
	if want := []string{"a/b/c@sha256=" + hex, "ns/app@sha256=" + hex}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
	if want := []string{"loop", "ns/out"}; !slices.Equal(skipped, want) {
		t.Errorf("passed over %q, want %q", skipped, want)
	}
	files, err := tree.Read("ns/app@sha256=" + hex)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, f := range files {
		got = append(got, f.Index)
		readable := f.Index == 1 || f.Index == 3 || f.Index == 5 || f.Index == 10
		if readable != (f.Err == nil) || readable && len(f.Content) == 0 {
			t.Errorf("%s: %q, %v", api.SignatureName(f.Index), f.Content, f.Err)
		}
	}
	if want := []int{1, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(got, want) {
		t.Errorf("got the files %d, want %d, in this order", got, want)
	}
	if err := files[2].Err; !errors.Is(err, ErrElsewhere) {
		t.Errorf("a link out of the tree: got %v, want ErrElsewhere", err)
	}
	if err := files[6].Err; !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large file: got %v, want ErrTooLarge", err)
	}
}

func TestTreeOfManyFiles(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for index := range MaxIndex + 3 {
		write(t, filepath.Join(directory, "app@sha256=x", api.SignatureName(index+1)), "x")
	}
	files, err := openTree(t, directory).Read("app@sha256=x")
	if err != nil || len(files) != MaxIndex+3 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	for _, f := range files {
		if (f.Err == nil) != (f.Index <= MaxIndex) {
			t.Errorf("%s: %v", api.SignatureName(f.Index), f.Err)
		}
	}
}

// An image's directory that is a link in disguise is refused when it is opened, not only when it
// is listed.
func TestTreeChangesMeanwhile(t *testing.T) {
	t.Parallel()
	directory, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "signature-1"), "secret")
	link(t, outside, filepath.Join(directory, "app@sha256=x"))
	if files, err := openTree(t, directory).Read("app@sha256=x"); !errors.Is(err, ErrElsewhere) {
		t.Errorf("got %d files, %v, want ErrElsewhere", len(files), err)
	}
}
