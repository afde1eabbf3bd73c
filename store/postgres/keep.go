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
	maxQueued  = 1024    // images whose files are to be looked at; where there are more, all that have one are
	maxKept    = 8 << 20 // of one file, in bytes; a set is smaller
)

// A keep carries what the memory knows over a restart: a file an image, whose time of modification
// is when it was current. Nobody has to trust it: what is served is verified by its reader, and
// served only while the database is away.
type keep struct {
	directory string
	log       *slog.Logger
	known     func(api.Image) (*imageRow, bool) // the memory
	wake      chan struct{}
	over      sync.WaitGroup
	files     map[api.Image]written // by the one who writes them

	mu     sync.Mutex
	closed bool
	queued map[api.Image]bool
	all    bool // too many were queued
}

// A written is what was written to a file, or could not be.
type written struct {
	state string
	at    time.Time
	there bool
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

func openKeep(directory string, log *slog.Logger, known func(api.Image) (*imageRow, bool)) (*keep, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	k := &keep{directory: directory, log: log, known: known, wake: make(chan struct{}, 1), files: map[api.Image]written{}, queued: map[api.Image]bool{}}
	k.over.Go(func() {
		for range k.wake {
			for i := range k.next() {
				if err := k.follow(i); err != nil {
					log.Warn("what was served is not kept for a restart", "error", err)
				}
			}
		}
	})
	return k, nil
}

func (k *keep) path(i api.Image) string {
	return filepath.Join(k.directory, fmt.Sprintf("%x", sha256.Sum256([]byte(i.String())))+keptSuffix)
}

// later has the file of an image follow the memory, in the background. One that has none yet may be left out.
func (k *keep) later(i api.Image) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	if k.queued[i] = true; len(k.queued) > maxQueued {
		clear(k.queued)
		k.all = true
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// next are the images whose files are to be looked at.
func (k *keep) next() map[api.Image]bool {
	k.mu.Lock()
	next, all := k.queued, k.all
	k.queued, k.all = map[api.Image]bool{}, false
	k.mu.Unlock()
	if all {
		for i := range k.files {
			next[i] = true
		}
	}
	return next
}

// follow has a file say what the memory does. Where that cannot be written the file goes, for it may say what is
// no longer so, and is tried again with the next change, or when it would have been touched.
func (k *keep) follow(i api.Image) error {
	row, known := k.known(i)
	if !known {
		delete(k.files, i)
		return k.remove(i)
	}
	is := written{row.state, row.currentAt(), true}
	last, tried := k.files[i]
	same := tried && last.state == is.state
	age := is.at.Sub(last.at)
	if same && age >= 0 && age < touchEvery {
		return nil
	}
	var err error
	if same && last.there {
		err = os.Chtimes(k.path(i), time.Time{}, is.at)
	} else {
		err = k.write(row, is.at)
	}
	if err != nil {
		is.there = false
		err = errors.Join(err, k.remove(i))
	}
	k.files[i] = is
	return err
}

func (k *keep) remove(i api.Image) error {
	if err := os.Remove(k.path(i)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

// load reads what was current not too long ago, the latest last; what is older, or does not read, goes.
func (k *keep) load(now time.Time, stale time.Duration, add func(*imageRow)) {
	entries, err := os.ReadDir(k.directory)
	if err != nil {
		k.log.Warn("what was kept for a restart does not read", "error", err)
		return
	}
	var rows []*imageRow
	for _, e := range entries {
		path := filepath.Join(k.directory, e.Name())
		row, err := readKept(path, now, stale)
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
		k.files[row.image] = written{row.state, row.currentAt(), true} // before one is added: others may go for it
	}
	slices.SortFunc(rows, func(a, b *imageRow) int { return a.currentAt().Compare(b.currentAt()) })
	for _, row := range rows {
		add(row)
	}
}

// readKept returns nil for what is too old, or was cut while it was written.
func readKept(path string, now time.Time, stale time.Duration) (*imageRow, error) {
	info, err := os.Stat(path)
	if err != nil || !strings.HasSuffix(path, keptSuffix) || info.Size() > maxKept {
		return nil, err
	}
	if now.Sub(info.ModTime()) > stale {
		return nil, nil
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
	row.currentSince(info.ModTime(), now)
	return row, nil
}

func (k *keep) close() {
	k.mu.Lock()
	if !k.closed {
		k.closed = true
		close(k.wake)
	}
	k.mu.Unlock()
	k.over.Wait()
}
