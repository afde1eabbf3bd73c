package access

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxFile bounds what is read of any file.
const maxFile = 4 << 20

// settled is how old a change must be for the file's time stamps to tell it from the next one.
const settled = 2 * time.Second

// A File is what a server follows: one file, or several that belong together. They are read
// again when one of them changed. What then does not read leaves in force what was read before.
type File struct {
	Name   string       // htpasswd, tokens, tls
	Err    func() error // why they do not read now; nil: they do
	Reload func()       // reads them again, also where none seems to have changed
}

// A source is one file and who may read it.
type source struct {
	path   string
	secret bool // not everybody
}

// A followed is the value that files hold. What was made of it ends with it: a login that was
// verified by a line lives no longer than the line.
type followed[T any] struct {
	name    string
	sources []source
	parse   func(contents [][]byte) (T, error)
	clock   func() time.Time
	log     *slog.Logger

	mu    sync.Mutex
	stamp string // of the files that value is of; "" to read them next time whatever it says
	sum   [sha256.Size]byte
	value T
	read  bool // there is a value
	err   error
}

// open reads the files for the first time. Where that fails there is nothing to leave in force.
func (f *followed[T]) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.err
}

func (f *followed[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stamp == "" || f.stamp != f.stampOf() {
		f.refresh()
	}
	return f.value
}

// file is what others see of it.
func (f *followed[T]) file() File {
	return File{
		Name: f.name,
		Err: func() error {
			f.get()
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.err
		},
		Reload: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refresh()
		},
	}
}

// refresh stamps before it reads: a change in between is read next time.
func (f *followed[T]) refresh() {
	f.stamp = f.stampOf()
	contents, err := f.contents()
	if err != nil {
		f.fail(err)
		return
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", contents))
	if f.read && sum == f.sum {
		f.err = nil
		return // as before, and what was made of it stays
	}
	value, err := f.parse(contents)
	if err != nil {
		f.fail(fmt.Errorf("%s: %w", f.sources[0].path, err))
		return
	}
	if f.read {
		f.log.Info("files read again", "name", f.name, "file", f.sources[0].path)
	}
	f.value, f.err, f.sum, f.read = value, nil, sum, true
}

func (f *followed[T]) contents() (contents [][]byte, err error) {
	for _, s := range f.sources {
		data, err := readFile(s.path, s.secret)
		if err != nil {
			return nil, err
		}
		contents = append(contents, data)
	}
	return contents, nil
}

// fail logs a trouble once.
func (f *followed[T]) fail(err error) {
	if f.read && (f.err == nil || f.err.Error() != err.Error()) {
		f.log.Error("files do not read; what was read before stays in force", "name", f.name, "error", err)
	}
	f.err = err
}

// stampOf changes when a file does, its mode and owner included. It is "" while a change is so
// new that the next one could have the same times.
func (f *followed[T]) stampOf() string {
	var b strings.Builder
	now := f.clock()
	for _, s := range f.sources {
		info, err := os.Stat(s.path)
		if err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		changed := info.ModTime()
		fmt.Fprint(&b, info.Mode(), " ", info.Size(), " ", changed.UnixNano())
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			changed = time.Unix(stat.Ctim.Unix()) // unlike the other it cannot be set
			fmt.Fprint(&b, " ", stat.Dev, " ", stat.Ino, " ", stat.Uid, " ", changed.UnixNano())
		}
		if age := now.Sub(changed); -settled <= age && age <= settled {
			return ""
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// readFile reads what nobody else could have put there, and, if it is secret, read there. Links
// are judged by their target.
func readFile(path string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is open, whatever the name leads to later
	if err == nil {
		err = checkFile(path, info, secret)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, err
}

func checkFile(path string, info fs.FileInfo, secret bool) error {
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return errors.New(path + " is no regular file")
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by its group or others\nhint: chmod go-w %[1]s", path)
	case secret && mode.Perm()&0o004 != 0:
		return fmt.Errorf("%s may be read by everybody\nhint: chmod o-r %[1]s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", path, stat.Uid)
	}
	return nil
}
