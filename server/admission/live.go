package admission

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

func (f *files) readTrusted(directory string, hosts []string, log *slog.Logger) (*policy.Policy, error) {
	names, err := f.see(directory, list)
	if err != nil {
		return nil, err
	}
	var rings []*signature.Keyring
	for name := range strings.SplitSeq(string(names), "/") {
		path := filepath.Join(directory, name)
		if info, err := os.Stat(path); name == "" || name[0] == '.' || err == nil && info.IsDir() {
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
	data, err := f.owned(path)
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
	data, err := f.owned(path)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(data)
	if err == nil {
		p, err = p.Load(f.owned)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, skipped := range p.Keyring().Skipped() {
		log.Warn("key skipped", "file", path, "reason", skipped)
	}
	return p, nil
}
