package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/countersign-dev/countersign/signature"
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
	if err := keepSecret(); err != nil {
		return nil, false, err
	}
	private, err := k.read()
	if errors.Is(err, fs.ErrNotExist) {
		if signatures == nil {
			return nil, false, nil
		}
		there, _, err := signatures.List(ctx, store.Filter{Kind: store.Signatures}, "", 1)
		if err != nil || len(there) > 0 {
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
func (k keyFile) read() ([]byte, error) {
	if err := checkPrivate(k.private); err != nil {
		return nil, err
	}
	return os.ReadFile(k.private)
}

// checkPrivate refuses a file that others may read, or replace.
func checkPrivate(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o026 != 0 {
		return fmt.Errorf("%s may be read or written by others\nhint: chmod 600 %[1]s", file)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", file, stat.Uid)
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
	return k.place(k.private, private, 0o600, func(temporary, path string) error {
		if err := os.Link(temporary, path); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

func (k keyFile) publish(armored []byte) error {
	if old, err := os.ReadFile(k.public); err == nil && string(old) == string(armored) {
		return nil
	}
	return k.place(k.public, armored, 0o644, os.Rename)
}

// replace puts a renamed key where the old one was.
func (k keyFile) replace(private, public []byte) error {
	if err := k.place(k.private, private, 0o600, os.Rename); err != nil {
		return err
	}
	return k.place(k.public, public, 0o644, os.Rename)
}

// place writes a file beside its path and brings it there in one step, durably.
func (k keyFile) place(path string, content []byte, mode fs.FileMode, bring func(temporary, path string) error) error {
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
	if err := bring(file.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
