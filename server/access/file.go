package access

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxFile bounds what is read of any file.
const maxFile = 4 << 20

// settled is how old a change must be for the file's time stamps to tell it from the next one.
const settled = 2 * time.Second

// A file is read again when it changed. What was made of it ends with the change, so that no
// login outlives its line. A file that does not read lets nobody in until it does.
type file[T any] struct {
	path   string
	secret bool // others may not read it
	parse  func([]byte) (T, error)
	clock  func() time.Time
	log    *slog.Logger

	mu    sync.Mutex
	stamp string // of the file that value is of; "" to read it next time whatever it says
	sum   [sha256.Size]byte
	value T
	err   error
}

func openFile[T any](f *file[T]) (*file[T], error) {
	_, err := f.get()
	return f, err
}

func (f *file[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && f.stamp != "" && stampOf(info) == f.stamp {
		return f.value, f.err
	}
	f.read()
	return f.value, f.err
}

func (f *file[T]) read() {
	data, info, err := readFile(f.path, f.secret)
	if err != nil {
		f.fail(err)
		return
	}
	f.stamp = ""
	if age := f.clock().Sub(changed(info)); age > settled || age < -settled {
		f.stamp = stampOf(info)
	}
	sum := sha256.Sum256(data)
	if f.err == nil && sum == f.sum {
		return // as before, and what was cached with it stays
	}
	value, err := f.parse(data)
	if err != nil {
		f.fail(fmt.Errorf("%s: %w", f.path, err))
		return
	}
	if f.sum != [sha256.Size]byte{} {
		f.log.Info("file read again", "file", f.path)
	}
	f.value, f.err, f.sum = value, nil, sum
}

// fail logs a trouble once.
func (f *file[T]) fail(err error) {
	if f.err == nil || f.err.Error() != err.Error() {
		f.log.Error("nobody can log in by this file until it reads", "file", f.path, "error", err)
	}
	var none T
	f.stamp, f.value, f.err = "", none, err
}

// changed is when the file last did; its times can be set to any other than this.
func changed(info fs.FileInfo) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Ctim.Unix())
	}
	return info.ModTime()
}

// stampOf changes when the file does, its mode and owner included.
func stampOf(info fs.FileInfo) string {
	stamp := fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		stamp += fmt.Sprint(" ", stat.Dev, stat.Ino, stat.Uid, stat.Ctim.Nano())
	}
	return stamp
}

// readFile reads what nobody else could have put there, and, if it is secret, read there. Links
// are judged by their target.
func readFile(path string, secret bool) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not block
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is open, whatever the name leads to later
	if err == nil {
		err = checkFile(path, info, secret)
	}
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, info, err
}

func checkFile(path string, info fs.FileInfo, secret bool) error {
	mode := info.Mode()
	if !mode.IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	if mode.Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by its group or others\nhint: chmod go-w %[1]s", path)
	}
	if secret && mode.Perm()&0o004 != 0 {
		return fmt.Errorf("%s may be read by everybody\nhint: chmod o-r %[1]s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", path, stat.Uid)
	}
	return nil
}
