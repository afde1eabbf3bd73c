package lookaside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
)

// markName is the file that tells a tree that is written here from one of somebody else's, in which
// nothing must be removed. It is locked while somebody writes.
const markName = ".countersign"

const mark = "This tree is written by countersign export, which removes from it what the server does not serve.\nWhat it is: "

// ErrForeign is a directory that has files of somebody else's, or another tree.
var ErrForeign = errors.New("there is something else in it")

// A Writer writes a tree that a web server serves meanwhile. A file is put in place whole, and what it
// has is durable before; that it is there, or is not any more, is durable after Sync. An image's indexes
// have no hole at any instant, not after a crash either, and nobody who
// reads them one after the other, as clients do, misses a signature that stays.
type Writer struct {
	*Tree
	marked *os.File

	mu      sync.Mutex
	changed map[string]bool // directories since Sync
}

// NewWriter opens a directory that is empty, or was written before as the same kind of tree; it is
// made if it is not there. While another process writes there, it fails. Errors: ErrForeign.
func NewWriter(directory, kind string) (*Writer, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, err
	}
	tree, err := OpenTree(directory)
	if err != nil {
		return nil, err
	}
	w := &Writer{Tree: tree, changed: map[string]bool{}}
	if err := w.claim(mark + kind + "\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", directory, err), tree.Close())
	}
	return w, nil
}

// claim marks the directory and locks the mark.
func (w *Writer) claim(mark string) error {
	old, err := fs.ReadFile(w.root.FS(), markName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = w.checkEmpty()
	case err == nil && len(old) > 0 && string(old) != mark:
		_, kind, _ := strings.Cut(strings.TrimSpace(string(old)), ": ")
		err = fmt.Errorf("%w: %.300q", ErrForeign, kind)
	}
	if err != nil {
		return err
	}
	marked, err := w.root.OpenFile(markName, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	w.marked = marked
	if err := syscall.Flock(int(marked.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another process writes there: %w", err), marked.Close())
	}
	_, err = marked.WriteAt([]byte(mark), 0)
	return err
}

func (w *Writer) checkEmpty() error {
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" { // of a file system's own root
			return fmt.Errorf("%w, as %s: give an empty directory", ErrForeign, e.Name())
		}
	}
	return nil
}

// Close gives the directory up.
func (w *Writer) Close() error { return errors.Join(w.marked.Close(), w.Tree.Close()) }

// Put makes contents what an image's directory has. What comes is written behind what is there. Where
// something goes, the rest is written over it and once more behind, so that who is in the middle of
// reading still meets all of it: then more is true, and Trim takes away what is there twice, when
// nobody can be in the middle any more. A crash leaves something to Put and Trim again.
func (w *Writer) Put(directory string, contents [][]byte) (changed, more bool, err error) {
	have, err := w.have(directory)
	if err != nil {
		return false, false, err
	}
	if len(contents) == 0 {
		return len(have) > 0, false, w.remove(directory, len(have))
	}
	goal := goal(have, contents)
	if len(have) == 0 {
		if err := w.root.MkdirAll(directory, 0o755); err != nil {
			return false, false, err
		}
	}
	// From behind what is there, then from the front: in between there is never a hole.
	for n := range goal {
		i := (n + len(have)) % len(goal)
		if i < len(have) && bytes.Equal(have[i], goal[i]) {
			continue
		}
		changed = true
		if err := w.replace(directory, i+1, goal[i]); err != nil {
			return changed, false, err
		}
	}
	return changed, len(goal) > len(contents), nil
}

// goal is contents where they only add to what is there, and else contents over and over: twice, as
// far as clients read, and no shorter than what is there.
func goal(have, contents [][]byte) [][]byte {
	adds := len(have) <= len(contents)
	for i := 0; adds && i < len(have); i++ {
		adds = bytes.Equal(have[i], contents[i])
	}
	if adds {
		return contents
	}
	length := max(len(have), min(2*len(contents), MaxIndex))
	goal := make([][]byte, length)
	for i := range goal {
		goal[i] = contents[i%len(contents)]
	}
	return goal
}

// syncers is how many directories are made durable at a time: the disk does them together.
const syncers = 16

// Sync makes durable what was put and trimmed since it was called last, by an fsync for each directory
// that changed: so it is for the end of many changes, not for each of them. Nobody puts meanwhile.
func (w *Writer) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(syncers)
	for directory := range w.changed {
		group.Go(func() error { return w.sync(directory) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	clear(w.changed)
	return nil
}

func (w *Writer) sync(directory string) error {
	d, err := w.open(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed, which is a change of the one above
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// touch notes that a directory changes, and those above, which may be made or removed with it.
func (w *Writer) touch(directory string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; !w.changed[directory]; directory = path.Dir(directory) {
		w.changed[directory] = true
	}
}

// Trim takes away what is behind the first n files, from the end.
func (w *Writer) Trim(directory string, n int) error {
	indexes, err := w.indexes(directory)
	if err != nil {
		return err
	}
	for i := len(indexes) - 1; i >= 0 && indexes[i] > n; i-- {
		w.touch(directory)
		if err := w.root.Remove(path.Join(directory, api.SignatureName(indexes[i]))); err != nil {
			return err
		}
	}
	return nil
}

// have returns the files of a directory up to the first hole, and takes away what a crash left.
func (w *Writer) have(directory string) (contents [][]byte, err error) {
	d, err := w.open(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, temporary) {
			if err := w.root.Remove(path.Join(directory, name)); err != nil {
				return nil, err
			}
		}
	}
	for index := 1; ; index++ {
		content, err := w.read(path.Join(directory, api.SignatureName(index)))
		if errors.Is(err, fs.ErrNotExist) {
			return contents, w.Trim(directory, index-1) // what is behind a hole nobody reads
		}
		if err != nil && !errors.Is(err, ErrTooLarge) { // which is none of ours, and so replaced
			return nil, err
		}
		contents = append(contents, content)
	}
}

// temporary is what the name of a file begins with that is not in place yet.
const temporary = ".new-"

func (w *Writer) replace(directory string, index int, content []byte) error {
	w.touch(directory)
	name := path.Join(directory, api.SignatureName(index))
	next := path.Join(directory, temporary+strconv.Itoa(index))
	f, err := w.root.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return w.root.Rename(next, name)
}

// remove takes an image's files away, and the directories that are empty then.
func (w *Writer) remove(directory string, n int) error {
	if n == 0 {
		if _, err := w.root.Stat(directory); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err := w.Trim(directory, 0); err != nil {
		return err
	}
	w.touch(directory) // it may have been empty already
	for d := directory; d != "." && d != "/"; d = path.Dir(d) {
		err := w.root.Remove(d)
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
