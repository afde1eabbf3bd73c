package admission

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// settled is how old a change must be for the file's times to tell it from the next one.
const settled = 2 * time.Second

// files are what was looked at, each as it was right before: a change that comes while it is being
// read makes it read again.
type files []file

type file struct {
	path    string
	read    func(path string) ([]byte, error)
	stamp   stamp
	sum     [sha256.Size]byte // of what was read, or of why it could not be
	settled bool              // when it was read, its last change was: the next one has another stamp
}

// A stamp changes when a file does, its mode and owner included. That of none is zero.
type stamp struct {
	device, inode uint64
	mode          fs.FileMode
	owner         uint32
	size          int64
	changed       time.Time // unlike the time of its content it cannot be set
}

func stampOf(path string) stamp {
	info, err := os.Stat(path) // whatever is wrong with it, reading says so
	if err != nil {
		return stamp{}
	}
	s := stamp{mode: info.Mode(), size: info.Size(), changed: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode, s.owner, s.changed = stat.Dev, stat.Ino, stat.Uid, time.Unix(stat.Ctim.Unix())
	}
	return s
}

func (s stamp) settled(now time.Time) bool { return now.Sub(s.changed).Abs() > settled }

// see reads a path, and remembers what it had.
func (f *files) see(path string, read func(string) ([]byte, error)) ([]byte, error) {
	seen := file{path: path, read: read, stamp: stampOf(path)}
	seen.settled = seen.stamp.settled(time.Now())
	data, err := read(path)
	seen.sum = sumOf(data, err)
	*f = append(*f, seen)
	return data, err
}

// owned is see of a policy or a key's file.
func (f *files) owned(path string) ([]byte, error) { return f.see(path, readOwned) }

func sumOf(data []byte, err error) [sha256.Size]byte {
	if err != nil {
		data = []byte(err.Error())
	}
	return sha256.Sum256(data)
}

// changed reports whether a file has come, gone or become another.
func (f files) changed() bool {
	for i := range f {
		if f[i].changed() {
			return true
		}
	}
	return false
}

// changed compares what a file has as long as its stamp may be that of a later change, too.
func (f *file) changed() bool {
	now := stampOf(f.path)
	if now != f.stamp {
		return true
	}
	if f.settled {
		return false
	}
	f.settled = now.settled(time.Now())
	return sumOf(f.read(f.path)) != f.sum
}

// list reads the names in a directory of trusted keys, with a slash between them.
func list(directory string) ([]byte, error) {
	info, err := os.Stat(directory)
	if err == nil {
		err = checkOwner(directory, info)
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(directory)
	if err == nil && len(entries) > maxTrusted {
		err = fmt.Errorf("%s has %d files, at most %d are read", directory, len(entries), maxTrusted)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return []byte(strings.Join(names, "/")), err
}

// readOwned reads what nobody else could have put there: whoever writes a keyring or a policy
// decides who is trusted. Links are judged by their target.
func readOwned(path string) ([]byte, error) {
	opened, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	info, err := opened.Stat() // of what is open, whatever the name leads to later
	if err == nil {
		err = checkOwner(path, info)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(opened, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, err
}

func checkOwner(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s may be written by everybody\nhint: chmod o-w %[1]s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", path, stat.Uid)
	}
	return nil
}
