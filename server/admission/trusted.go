package admission

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// maxTrusted bounds the files of a trusted directory.
const maxTrusted = 10_000

// Trusted is the admission policy where there is no other: the keys in a directory may sign
// for everything on our hosts. It is read again when a file changed, so that to trust a key is
// to copy it there. A directory that no longer reads leaves the keys that were read in force.
type Trusted struct {
	directory string
	hosts     []string
	log       *slog.Logger

	mu     sync.Mutex
	stamp  string // of the files that policy was read from
	policy *policy.Policy
}

// OpenTrusted reads the directory, which must exist.
func OpenTrusted(directory string, hosts []string, log *slog.Logger) (*Trusted, error) {
	t := &Trusted{directory: directory, hosts: hosts, log: log}
	stamp, err := t.look()
	if err != nil {
		return nil, err
	}
	if t.policy, err = t.read(); err != nil {
		return nil, err
	}
	t.stamp = stamp
	return t, nil
}

// Policy returns the policy of the keys that are there now.
func (t *Trusted) Policy() *policy.Policy {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamp, err := t.look()
	if err == nil && stamp == t.stamp {
		return t.policy
	}
	next, readErr := t.read()
	if err = errors.Join(err, readErr); err != nil {
		t.log.Error("trusted keys could not be read; those read before stay in force", "directory", t.directory, "error", err)
		return t.policy
	}
	t.log.Info("trusted keys read", "directory", t.directory, "keys", len(next.Keyring().Keys()))
	t.stamp, t.policy = stamp, next
	return next
}

// look returns what changes when any file does.
func (t *Trusted) look() (string, error) {
	var b strings.Builder
	err := t.files(func(path string, info fs.FileInfo) error {
		fmt.Fprintf(&b, "%s %v %d %d\n", path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return b.String(), err
}

func (t *Trusted) read() (*policy.Policy, error) {
	var rings []*signature.Keyring
	err := t.files(func(path string, info fs.FileInfo) error {
		if err := writableByOthers(path, info); err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		ring, err := signature.ReadKeyring(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, skipped := range ring.Skipped() {
			t.log.Warn("key skipped", "file", path, "reason", skipped)
		}
		rings = append(rings, ring)
		return nil
	})
	return policy.Trust(t.hosts, signature.Join(rings...)), err
}

// files calls do with every file of the directory; links are judged by their target, and
// dot-files are editors' and Kubernetes' own.
func (t *Trusted) files(do func(path string, info fs.FileInfo) error) error {
	info, err := os.Stat(t.directory)
	if err != nil {
		return err
	}
	if err := writableByOthers(t.directory, info); err != nil {
		return err
	}
	entries, err := os.ReadDir(t.directory)
	if err != nil {
		return err
	}
	if len(entries) > maxTrusted {
		return fmt.Errorf("%s has %d files, at most %d are read", t.directory, len(entries), maxTrusted)
	}
	for _, e := range entries {
		path := filepath.Join(t.directory, e.Name())
		info, err := os.Stat(path)
		if strings.HasPrefix(e.Name(), ".") || err == nil && info.IsDir() {
			continue
		}
		if err == nil {
			err = do(path, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writableByOthers refuses what somebody else could have put there: whoever writes the
// keyring decides who is trusted.
func writableByOthers(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s may be written by everybody. hint: chmod o-w %s", path, path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own. hint: chown it", path, stat.Uid)
	}
	return nil
}
