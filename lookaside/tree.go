package lookaside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

// Bounds of a Tree: names read at a time, files in an image's directory, the length of a path below
// the root, and names in all.
const (
	namesAtOnce = 1000
	maxFiles    = 10_000
	maxPath     = 1024
	maxNames    = 20_000_000
)

// A Tree is a lookaside in a directory: a staging directory of skopeo's, a mirror, an export.
type Tree struct{ root *os.Root }

// OpenTree opens the tree in a directory.
func OpenTree(directory string) (*Tree, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	return &Tree{root}, nil
}

// Close gives the directory up.
func (t *Tree) Close() error { return t.root.Close() }

// Walk calls found with the path of every image's directory, in no order, and skipped with what it
// passes over although it could have one in it. It keeps in memory what one directory's next
// thousand names take. An error of found ends it.
func (t *Tree) Walk(ctx context.Context, found func(path string) error, skipped func(path string, reason error)) error {
	w := walk{Tree: t, ctx: ctx, found: found, skipped: skipped}
	return w.directory(".")
}

type walk struct {
	*Tree
	ctx     context.Context
	found   func(path string) error
	skipped func(path string, reason error)
	names   int
}

func (w *walk) directory(name string) error {
	d, err := w.open(name)
	if err != nil {
		if name == "." {
			return err
		}
		w.skipped(name, err)
		return nil
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(namesAtOnce)
		for _, e := range entries {
			if err := w.entry(path.Join(name, e.Name()), e.Type()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil {
			w.skipped(name, err)
			return nil
		}
	}
}

func (w *walk) entry(name string, mode fs.FileMode) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.names++; w.names > maxNames {
		return fmt.Errorf("%w: more than %d names", ErrEndless, maxNames)
	}
	base := path.Base(name)
	switch {
	case strings.HasPrefix(base, "."):
	case mode&fs.ModeSymlink != 0:
		w.skipped(name, fmt.Errorf("%w: it is a link", ErrElsewhere))
	case !mode.IsDir():
	case isImage(base):
		return w.found(name)
	case len(name) > maxPath:
		w.skipped(name[:100]+"…", fmt.Errorf("a path of more than %d bytes", maxPath))
	default:
		return w.directory(name)
	}
	return nil
}

// isImage tells <name>@<algorithm>=<hex>, well-formed or not, from a directory of the way there.
func isImage(base string) bool {
	_, d, ok := strings.Cut(base, "@")
	return ok && strings.Contains(d, "=")
}

// open does not wait for a writer, as opening a pipe does.
func (t *Tree) open(name string) (*os.File, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil && strings.Contains(err.Error(), "escapes") { // os has no error value for it
		return nil, fmt.Errorf("%w: a link out of the tree", ErrElsewhere)
	}
	return f, err
}

// Read returns the files signature-<n> in a directory that Walk has found, in their order; what is
// behind MaxIndex of them has an error.
func (t *Tree) Read(directory string) ([]Found, error) {
	indexes, err := t.indexes(directory)
	if err != nil {
		return nil, err
	}
	found := make([]Found, len(indexes))
	for i, index := range indexes {
		found[i].Index = index
		if i >= MaxIndex {
			found[i].Err = fmt.Errorf("%w: behind %d others, which no client reads", ErrEndless, MaxIndex)
			continue
		}
		found[i].Content, found[i].Err = t.read(path.Join(directory, api.SignatureName(index)))
	}
	return found, nil
}

func (t *Tree) indexes(directory string) (indexes []int, err error) {
	d, err := t.open(directory)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("%w: more than %d files", ErrEndless, maxFiles)
	}
	for _, e := range entries {
		if index, ok := indexOf(e.Name()); ok {
			indexes = append(indexes, index)
		}
	}
	slices.SortFunc(indexes, cmp.Compare)
	return indexes, nil
}

func indexOf(name string) (int, bool) {
	index, err := strconv.Atoi(strings.TrimPrefix(name, "signature-"))
	return index, err == nil && index > 0 && api.SignatureName(index) == name
}

func (t *Tree) read(name string) (signature.Untrusted, error) {
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	content, err := io.ReadAll(io.LimitReader(f, signature.MaxSize+1))
	if err == nil && len(content) > signature.MaxSize {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, signature.MaxSize)
	}
	return content, err
}
