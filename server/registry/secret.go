package registry

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// secretSize is in hexadecimal digits: 32 random bytes.
const secretSize = 64

// readSecret returns what signs the state of uploads, so that one begun before a restart, or
// with another process on the same directory, can be finished. The first to come makes it.
func readSecret(directory string) (string, error) {
	path := filepath.Join(directory, "secret")
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeSecret(directory, path); err != nil {
			return "", err
		}
		info, err = os.Lstat(path)
	}
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() != secretSize {
		return "", fmt.Errorf("%s is not a file of %d bytes that only its owner may read (hint: delete it, and uploads in progress start over)", path, secretSize)
	}
	secret, err := os.ReadFile(path)
	return string(secret), err
}

// makeSecret links a complete file into place: of two processes that start together one wins,
// and nobody ever reads half a secret.
func makeSecret(directory, path string) error {
	file, err := os.CreateTemp(directory, ".secret-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	random := make([]byte, secretSize/2)
	rand.Read(random) // never fails
	if _, err := file.WriteString(hex.EncodeToString(random)); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}
