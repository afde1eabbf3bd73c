package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
	"github.com/countersign-dev/countersign/store"
)

// keyMark is the user id of a key that was made where everybody may push: whoever meets it
// knows how little it says (design.md, 6).
const keyMark = "countersign (made without access control)"

// keyName is that of one that was made or adopted where access is controlled.
const keyName = "countersign"

// A keyFile is the server's own key and its public part, below a data directory.
type keyFile struct{ private, public string }

func keyIn(data string) keyFile {
	return keyFile{filepath.Join(data, "keys", "server.key"), filepath.Join(data, "keys", "server.asc")}
}

// open returns the signer of the key, which is made at the first start. It is nil where
// signatures exist without their key: a new one would leave nodes with signatures by a key that
// is gone, and nobody had noticed. With no store to ask none is made either.
//
// Made where access is not controlled it carries the mark, and is refused where it is controlled
// until somebody has adopted it.
func (k keyFile) open(ctx context.Context, signatures store.Store, controlled bool, clock func() time.Time) (s *signature.FileSigner, made bool, err error) {
	if err := signer.KeepSecret(); err != nil {
		return nil, false, err
	}
	private, err := k.read()
	if errors.Is(err, fs.ErrNotExist) {
		if signatures == nil {
			return nil, false, nil
		}
		there, more, err := signatures.List(ctx, store.Filter{Kind: store.Signatures}, "", 1)
		if err != nil || len(there) > 0 || more != "" {
			return nil, false, err
		}
		userID := keyMark
		if controlled {
			userID = keyName
		}
		if err := k.generate(userID, clock()); err != nil {
			return nil, false, err
		}
		made = true
		private, err = k.read()
		if err != nil {
			return nil, false, err
		}
	} else if err != nil {
		return nil, false, err
	}
	s, err = signature.NewFileSigner(private, nil, clock)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", k.private, err)
	}
	if controlled && s.Key().Keys()[0].UserID == keyMark {
		return nil, false, fmt.Errorf("the key in %s was made where everybody could have it sign, and access is controlled now\n"+
			"hint: to stand for what it signed so far: countersign keys adopt -data %s; else move it away, for a new one", k.private, filepath.Dir(filepath.Dir(k.private)))
	}
	return s, made, k.publish(s.Key().Armored())
}

// read refuses a key that others may read: it would not be the server's alone.
func (k keyFile) read() ([]byte, error) { return readFile(k.private, checkKept) }

// readToChange is for who changes a key where it lies. root may, whoever has it.
func (k keyFile) readToChange() ([]byte, error) {
	return readFile(k.private, func(file string, info fs.FileInfo) error {
		if os.Geteuid() == 0 {
			return checkMode(file, info)
		}
		return checkPrivate(file, info)
	})
}

// maxKeyFile is far more than any key has, in bytes.
const maxKeyFile = 1 << 20

// readFile reads a file that passes a check.
func readFile(file string, check func(file string, info fs.FileInfo) error) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is open, whatever the name leads to later
	if err == nil {
		err = check(file, info)
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(content) > maxKeyFile {
		err = fmt.Errorf("%s has more than %d bytes", file, maxKeyFile)
	}
	return content, err
}

// checkKept is for what is read again and again: a pipe would have nothing the second time.
func checkKept(file string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file, and is read again before each signature", file)
	}
	return checkPrivate(file, info)
}

// checkPrivate refuses a file that others may read, or replace.
func checkPrivate(file string, info fs.FileInfo) error {
	if err := checkMode(file, info); err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", file, stat.Uid)
	}
	return nil
}

func checkMode(file string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o026 != 0 {
		return fmt.Errorf("%s may be read or written by others\nhint: chmod 600 %[1]s", file)
	}
	return nil
}

// checkPublic refuses a file that everybody may write: whoever does decides which key nodes are given. It
// may be the signer's own user who keeps it, and has the key.
func checkPublic(file string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file, and is read again before each signature", file)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s may be written by everybody\nhint: chmod o-w %[1]s", file)
	}
	return nil
}

// generate makes the key and links it into place whole: of two processes that start together
// one key wins, and both use that.
func (k keyFile) generate(userID string, now time.Time) error {
	private, _, err := signature.Spec{UserID: userID, Algorithm: signature.RSA3072}.Generate(now)
	if err != nil {
		return err
	}
	return k.place(k.private, private, 0o600, func(temporary *os.File, path string) error {
		if err := os.Link(temporary.Name(), path); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

func (k keyFile) publish(armored []byte) error {
	if old, err := os.ReadFile(k.public); err == nil && string(old) == string(armored) {
		return nil
	}
	return k.place(k.public, armored, 0o644, rename)
}

// replace puts a changed key where the old one was, for whoever had that: a server that could not read
// it any more would go on with what it read before. The private part is first, since the public one is
// made from it again.
func (k keyFile) replace(private, public []byte) error {
	for _, part := range []struct {
		path    string
		content []byte
		mode    fs.FileMode
	}{{k.private, private, 0o600}, {k.public, public, 0o644}} {
		if target, err := filepath.EvalSymlinks(part.path); err == nil {
			part.path = target // the link stays, and whoever reads what it leads to has it, too
		}
		if err := k.place(part.path, part.content, part.mode, succeed); err != nil {
			return err
		}
	}
	return nil
}

func rename(temporary *os.File, path string) error { return os.Rename(temporary.Name(), path) }

// succeed puts a file in the place of one whose owner and mode it takes over.
func succeed(temporary *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rename(temporary, path)
	}
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := temporary.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return fmt.Errorf("%s is user %d's and group %d's, and would be yours; nothing was changed\nhint: run this as root, or as that user", path, stat.Uid, stat.Gid)
		}
	}
	if err := temporary.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	return rename(temporary, path)
}

// place writes a file beside its path and brings it there in one step, durably.
func (k keyFile) place(path string, content []byte, mode fs.FileMode, bring func(temporary *os.File, path string) error) error {
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(directory, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(mode), file.Sync()); err != nil {
		return err
	}
	if err := bring(file, path); err != nil {
		return err
	}
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
