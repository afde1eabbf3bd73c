package admission

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

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
	read func(*files) (*policy.Policy, error)

	mu     sync.Mutex
	looked time.Time // when the last look at the files began
	files  files     // what was read last, whatever came of it
	policy *policy.Policy
	err    error
}

// OpenTrusted reads a directory of public keys, which must exist: each may sign for everything on
// these hosts. Dot-files are editors' and Kubernetes' own.
func OpenTrusted(directory string, hosts []string, log *slog.Logger) (*Live, error) {
	return open("trusted keys in "+directory, log, func(f *files) (*policy.Policy, error) {
		return f.readTrusted(directory, hosts, log)
	})
}

// OpenPolicy reads a policy file and the key files it names. A policy that a check refuses does not
// read.
func OpenPolicy(file string, log *slog.Logger, checks ...func(*policy.Policy) error) (*Live, error) {
	return open("policy "+file, log, func(f *files) (*policy.Policy, error) {
		p, err := f.readPolicy(file, log)
		for _, check := range checks {
			if err != nil {
				break
			}
			if err = check(p); err != nil {
				err = fmt.Errorf("%s: %w", file, err)
			}
		}
		return p, err
	})
}

func open(name string, log *slog.Logger, read func(*files) (*policy.Policy, error)) (*Live, error) {
	l := &Live{name: name, log: log, read: read}
	l.refresh()
	return l, l.err
}

// Policy returns what the files say now, or said when they were last good.
func (l *Live) Policy() *policy.Policy { return l.Since(time.Time{}) }

// Since returns what the files said at that time or later, or said when they were last good. Those who
// came before a look at them began share it: a directory may have thousands, and each is looked at.
// The time is one of time.Now in this process, zero for now.
func (l *Live) Since(at time.Time) *policy.Policy {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !at.IsZero() && l.looked.After(at) {
		return l.policy
	}
	l.looked = time.Now()
	if l.files.changed() {
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
	l.files = nil
	next, err := l.read(&l.files)
	l.err = err
	if err != nil {
		l.log.Error("it does not read; what was read before stays in force", "policy", l.name, "error", err)
		return
	}
	l.policy = next
	l.log.Info("policy read", "policy", l.name, "keys", next.Keyring().Len())
}

// files are what was looked at, each as it was right before: a change that comes while it is being
// read makes it read again.
type files []file

type file struct {
	path string
	info fs.FileInfo // nil: there was none
}

// see is to come before whatever asks for the path's content.
func (f *files) see(path string) {
	info, _ := os.Stat(path) // whatever is wrong with it, reading says so
	*f = append(*f, file{path, info})
}

// changed reports whether a file has come, gone or become another.
func (f files) changed() bool {
	return slices.ContainsFunc(f, func(was file) bool {
		info, err := os.Stat(was.path)
		if err != nil || was.info == nil {
			return err == nil || was.info != nil
		}
		return !os.SameFile(info, was.info) || info.Mode() != was.info.Mode() || info.Size() != was.info.Size() || !info.ModTime().Equal(was.info.ModTime())
	})
}

func (f *files) readTrusted(directory string, hosts []string, log *slog.Logger) (*policy.Policy, error) {
	f.see(directory)
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
	if err != nil {
		return nil, err
	}
	var rings []*signature.Keyring
	for _, e := range entries {
		path := filepath.Join(directory, e.Name())
		if info, err := os.Stat(path); strings.HasPrefix(e.Name(), ".") || err == nil && info.IsDir() {
			continue
		}
		ring, readErr := f.readKeys(path, log)
		rings, err = append(rings, ring), errors.Join(err, readErr)
	}
	if err != nil {
		return nil, err
	}
	return policy.Trust(hosts, signature.Join(rings...)), nil
}

func (f *files) readKeys(path string, log *slog.Logger) (*signature.Keyring, error) {
	data, err := f.readOwned(path)
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

func (f *files) readPolicy(path string, log *slog.Logger) (*policy.Policy, error) {
	data, err := f.readOwned(path)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(data)
	if err == nil {
		p, err = p.Load(f.readOwned)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, skipped := range p.Keyring().Skipped() {
		log.Warn("key skipped", "file", path, "reason", skipped)
	}
	return p, nil
}

// readOwned reads what nobody else could have put there: whoever writes a keyring or a policy
// decides who is trusted. Links are judged by their target.
func (f *files) readOwned(path string) ([]byte, error) {
	f.see(path)
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
