package admission

import (
	"errors"
	"fmt"
	"io"
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

// Bounds of what is read: files of a trusted directory, and bytes of any file.
const (
	maxTrusted = 10_000
	maxFile    = 32 << 20
)

// A Live policy follows its files: it is read again when one of them changed, so that to trust a
// key is to copy it there. What no longer reads leaves what was read before in force.
type Live struct {
	name string // for the log: what was read from where
	log  *slog.Logger
	read func() (p *policy.Policy, files []string, err error) // files: all it looked at, also on error

	mu     sync.Mutex
	files  []string
	stamp  string // of the files when they were read last, whatever came of it
	policy *policy.Policy
	err    error
}

// OpenTrusted reads a directory of public keys, which must exist: each may sign for everything on
// these hosts. Dot-files are editors' and Kubernetes' own.
func OpenTrusted(directory string, hosts []string, log *slog.Logger) (*Live, error) {
	return open("trusted keys in "+directory, log, func() (*policy.Policy, []string, error) {
		return readTrusted(directory, hosts, log)
	})
}

// OpenPolicy reads a policy file and the key files it names. A policy that a check refuses does not
// read.
func OpenPolicy(file string, log *slog.Logger, checks ...func(*policy.Policy) error) (*Live, error) {
	return open("policy "+file, log, func() (*policy.Policy, []string, error) {
		p, files, err := readPolicy(file, log)
		for _, check := range checks {
			if err != nil {
				break
			}
			if err = check(p); err != nil {
				err = fmt.Errorf("%s: %w", file, err)
			}
		}
		return p, files, err
	})
}

func open(name string, log *slog.Logger, read func() (*policy.Policy, []string, error)) (*Live, error) {
	l := &Live{name: name, log: log, read: read}
	l.refresh()
	return l, l.err
}

// Policy returns what the files say now, or said when they were last good.
func (l *Live) Policy() *policy.Policy {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stampOf(l.files) != l.stamp {
		l.refresh()
	}
	return l.policy
}

// Reload reads the files again, also where none seems to have changed.
func (l *Live) Reload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
}

// Err is why the files do not read, while what they said before is in force.
func (l *Live) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *Live) refresh() {
	next, files, err := l.read()
	l.files, l.stamp, l.err = files, stampOf(files), err
	if err != nil {
		l.log.Error("it does not read; what was read before stays in force", "policy", l.name, "error", err)
		return
	}
	l.policy = next
	l.log.Info("policy read", "policy", l.name, "keys", next.Keyring().Len())
}

// stampOf changes when a file does, or comes, or goes.
func stampOf(files []string) string {
	var b strings.Builder
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s %v\n", path, err)
			continue
		}
		fmt.Fprintf(&b, "%s %v %d %d\n", path, info.Mode(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

func readTrusted(directory string, hosts []string, log *slog.Logger) (*policy.Policy, []string, error) {
	files := []string{directory}
	info, err := os.Stat(directory)
	if err == nil {
		err = checkOwner(directory, info)
	}
	if err != nil {
		return nil, files, err
	}
	entries, err := os.ReadDir(directory)
	if err == nil && len(entries) > maxTrusted {
		err = fmt.Errorf("%s has %d files, at most %d are read", directory, len(entries), maxTrusted)
	}
	if err != nil {
		return nil, files, err
	}
	var rings []*signature.Keyring
	for _, e := range entries {
		path := filepath.Join(directory, e.Name())
		if info, err := os.Stat(path); strings.HasPrefix(e.Name(), ".") || err == nil && info.IsDir() {
			continue
		}
		files = append(files, path)
		ring, readErr := readKeys(path, log)
		rings, err = append(rings, ring), errors.Join(err, readErr)
	}
	if err != nil {
		return nil, files, err
	}
	return policy.Trust(hosts, signature.Join(rings...)), files, nil
}

func readKeys(path string, log *slog.Logger) (*signature.Keyring, error) {
	data, err := readOwned(path)
	if err != nil {
		return nil, err
	}
	ring, err := signature.ReadKeyring(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, skipped := range ring.Skipped() {
		log.Warn("key skipped", "file", path, "reason", skipped)
	}
	return ring, nil
}

func readPolicy(file string, log *slog.Logger) (*policy.Policy, []string, error) {
	files := []string{file}
	data, err := readOwned(file)
	if err != nil {
		return nil, files, err
	}
	p, err := policy.Parse(data)
	if err == nil {
		p, err = p.Load(func(path string) ([]byte, error) {
			files = append(files, path)
			return readOwned(path)
		})
	}
	if err != nil {
		return nil, files, fmt.Errorf("%s: %w", file, err)
	}
	for _, skipped := range p.Keyring().Skipped() {
		log.Warn("key skipped", "file", file, "reason", skipped)
	}
	return p, files, nil
}

// readOwned reads what nobody else could have put there: whoever writes a keyring or a policy
// decides who is trusted. Links are judged by their target.
func readOwned(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what is open, whatever the name leads to later
	if err == nil {
		err = checkOwner(path, info)
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

func checkOwner(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s may be written by everybody\nhint: chmod o-w %[1]s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, neither root nor the server's own\nhint: chown it", path, stat.Uid)
	}
	return nil
}
