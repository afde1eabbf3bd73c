package postgres

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const (
	keptSuffix = ".json"
	// touchEvery is how much older a file may say that its image is than it is.
	touchEvery = time.Minute
	maxQueued  = 1024    // what waits to be written; more is left out, it is only kept
	maxKept    = 8 << 20 // of one file, in bytes; a set is smaller
)

// A keep carries what the memory knows over a restart: a file an image, whose time of modification
// is when it was current. Nobody has to trust it: what is served is verified by its reader, and
// served only while the database is away.
type keep struct {
	directory string
	log       *slog.Logger
	jobs      chan func() error
	over      sync.WaitGroup
	mu        sync.Mutex
	closed    bool
	touched   map[api.Image]time.Time // by the one who does the jobs
}

// A keptFile is what a file has.
type keptFile struct {
	Image      api.Image       `json:"image"`
	Version    int64           `json:"version"`
	Serial     int64           `json:"serial"`
	State      string          `json:"state"`
	Signatures []signatureRow  `json:"signatures"`
	Withdrawn  []withdrawalRow `json:"withdrawn"`
}

func openKeep(directory string, log *slog.Logger) (*keep, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	k := &keep{directory: directory, log: log, jobs: make(chan func() error, maxQueued), touched: map[api.Image]time.Time{}}
	k.over.Go(func() {
		for job := range k.jobs {
			if err := job(); err != nil {
				log.Warn("what was served is not kept for a restart", "error", err)
			}
		}
	})
	return k, nil
}

func (k *keep) path(i api.Image) string {
	return filepath.Join(k.directory, fmt.Sprintf("%x", sha256.Sum256([]byte(i.String())))+keptSuffix)
}

// later does a job in the background; there may be too many.
func (k *keep) later(job func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	select {
	case k.jobs <- job:
	default:
	}
}

func (k *keep) put(r *imageRow, changed bool) {
	k.later(func() error {
		at := r.currentAt()
		last, written := k.touched[r.image]
		if written && !changed && at.Sub(last) < touchEvery {
			return nil
		}
		k.touched[r.image] = at
		if written && !changed {
			return os.Chtimes(k.path(r.image), time.Time{}, at)
		}
		return k.write(r, at)
	})
}

func (k *keep) write(r *imageRow, at time.Time) error {
	content, err := json.Marshal(keptFile{r.image, r.version, r.serial, r.state, r.signatures, r.withdrawn})
	if err != nil {
		return err
	}
	path := k.path(r.image)
	fresh := strings.TrimSuffix(path, keptSuffix) + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Chtimes(fresh, time.Time{}, at), os.Rename(fresh, path))
}

func (k *keep) forget(i api.Image) {
	k.later(func() error {
		delete(k.touched, i)
		if err := os.Remove(k.path(i)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// load reads what was current since then, the latest last; what is older, or does not read, goes.
func (k *keep) load(since time.Time, add func(*imageRow)) {
	entries, err := os.ReadDir(k.directory)
	if err != nil {
		k.log.Warn("what was kept for a restart does not read", "error", err)
		return
	}
	var rows []*imageRow
	for _, e := range entries {
		path := filepath.Join(k.directory, e.Name())
		row, err := readKept(path, since)
		if err != nil {
			k.log.Warn("a file that was kept for a restart does not read and goes", "file", path, "error", err)
		}
		if row == nil {
			if err := os.Remove(path); err != nil {
				k.log.Warn("a file that was kept for a restart stays", "error", err)
			}
			continue
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b *imageRow) int { return a.currentAt().Compare(b.currentAt()) })
	for _, row := range rows {
		add(row)
	}
}

// readKept returns nil for what is too old, or was cut while it was written.
func readKept(path string, since time.Time) (*imageRow, error) {
	info, err := os.Stat(path)
	if err != nil || !strings.HasSuffix(path, keptSuffix) || info.ModTime().Before(since) || info.Size() > maxKept {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f keptFile
	if err := json.Unmarshal(content, &f); err != nil {
		return nil, err
	}
	row := &imageRow{image: f.Image, version: f.Version, serial: f.Serial, state: f.State, signatures: f.Signatures, withdrawn: f.Withdrawn}
	row.settle()
	row.currentSince(info.ModTime())
	return row, nil
}

func (k *keep) close() {
	k.mu.Lock()
	if !k.closed {
		k.closed = true
		close(k.jobs)
	}
	k.mu.Unlock()
	k.over.Wait()
}
