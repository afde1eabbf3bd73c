package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
	"github.com/countersign-dev/countersign/store/postgres"
)

// A storeAt says where signatures are kept: in a directory, or in a database. Of a connection
// string nothing is ever shown.
type storeAt struct {
	Directory    string `yaml:"directory"`    // empty, and no database: below Data
	Database     string `yaml:"database"`     // postgres://…; or
	DatabaseFile string `yaml:"databaseFile"` // a file that has it

	// For what needs a session, where a pool in transaction mode stands before the database.
	DirectURL     string `yaml:"directURL"`
	DirectURLFile string `yaml:"directURLFile"`

	Memory  int           `yaml:"memory"`  // MiB, for what images have; 0: as the store would have it
	Stale   time.Duration `yaml:"stale"`   // how old what is known may be while the database is away
	Keep    string        `yaml:"keep"`    // directory that carries it over a restart; empty: nothing does
	Timeout time.Duration `yaml:"timeout"` // of one round trip to the database
	Retries int           `yaml:"retries"` // of what certainly did not happen

	settle bool // a restored audit trail is waited for; no setting: whoever opens the store knows
}

func defaultStore() storeAt {
	return storeAt{Stale: time.Hour, Timeout: 5 * time.Second, Retries: 2}
}

// maxStale bounds for how long a withdrawal may be unknown to a server that is cut off.
const maxStale = 24 * time.Hour

// maxMemory is more than there are machines for.
const maxMemory = 1 << 20

// flags have no defaults to show: they could be another source's secret.
func (s *storeAt) flags(flags *flagSet) {
	given := func(at *string) func(string) error {
		return func(v string) error {
			*at = v
			return nil
		}
	}
	flags.Func("database-url", "keep signatures in a PostgreSQL database, `postgres://user@host/database`; a password is better in a file", given(&s.Database))
	flags.Func("database-file", "`FILE` that has the -database-url", given(&s.DatabaseFile))
}

// remote tells whether signatures are in a database.
func (s *storeAt) remote() bool { return s.Database != "" || s.DatabaseFile != "" }

// check runs before Directory gets its default.
func (s *storeAt) check() error {
	switch {
	case s.remote() && s.Directory != "":
		return errors.New("store.directory and a database both say where signatures are kept: leave one out")
	case s.Database != "" && s.DatabaseFile != "":
		return errors.New("store.database and store.databaseFile both say which database: leave one out")
	case s.DirectURL != "" && s.DirectURLFile != "":
		return errors.New("store.directURL and store.directURLFile both say how the database is reached directly: leave one out")
	case !s.remote() && (s.DirectURL != "" || s.DirectURLFile != "" || s.Keep != ""):
		return errors.New("store.directURL, .directURLFile and .keep are for a database, and none is named")
	case s.Memory != 0 && (s.Memory < 32 || s.Memory > maxMemory):
		return fmt.Errorf("store.memory is %d; it can be 32 to %d, in MiB", s.Memory, maxMemory)
	case s.Stale < 0 || s.Stale > maxStale:
		return fmt.Errorf("store.stale is %v; it can be 0 to %v", s.Stale, maxStale)
	case s.Timeout < 100*time.Millisecond || s.Timeout > time.Minute:
		return fmt.Errorf("store.timeout is %v; it can be 100ms to 1m", s.Timeout)
	case s.Retries < 0 || s.Retries > 10:
		return fmt.Errorf("store.retries is %d; it can be 0 to 10", s.Retries)
	}
	return nil
}

// urls reads the connection strings: the one for all, and the one for what needs a session.
func (s *storeAt) urls() (all, direct string, err error) {
	if all, err = connection("store.database", s.Database, s.DatabaseFile); err != nil {
		return "", "", err
	}
	direct, err = connection("store.directURL", s.DirectURL, s.DirectURLFile)
	if direct == "" {
		direct = all
	}
	return all, direct, err
}

func connection(name, url, file string) (string, error) {
	if file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		name, url = file, strings.TrimSpace(string(content))
	} else if url == "" {
		return "", nil
	}
	if err := postgres.CheckURL(url); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return url, nil
}

// A urlFile is a connection string in a file, which is read for each new connection.
type urlFile struct {
	path string
	log  *slog.Logger

	mu  sync.Mutex
	err error // of the last read
}

func (f *urlFile) read() (string, error) {
	url, err := connection("", "", f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && (f.err == nil || f.err.Error() != err.Error()) {
		f.log.Error("files do not read; what was read before stays in force", "name", "database", "error", err)
	}
	f.err = err
	return url, err
}

// file is what metrics and SIGHUP see of it.
func (f *urlFile) file() access.File {
	return access.File{Name: "database", Err: func() error {
		_, err := f.read()
		return err
	}, Reload: func() { _, _ = f.read() }} // what is wrong with it is logged
}

// openStore opens the one store that the settings name, for the server.
func (g *ground) openStore(ctx context.Context, s settings) error {
	var follow func() (string, error)
	if s.Store.DatabaseFile != "" {
		f := &urlFile{path: s.Store.DatabaseFile, log: g.log}
		follow, g.files = f.read, append(g.files, f.file())
	}
	s.Store.settle = s.Withdrawals != "" // the ledger reads it before anybody is answered
	opened, err := s.openStore(ctx, g.log, follow, func(image api.Image, name string, err error) {
		g.log.Error("a stored signature does not read and is left out", "image", image.String(), "name", name, "error", err)
	})
	if err != nil {
		return err // and g.store stays nil
	}
	g.store = opened
	return nil
}

// openStore opens the one store that the settings name. follow says how a database is reached now, if it
// is not nil. damaged is told of what does not read.
func (s settings) openStore(ctx context.Context, log *slog.Logger, follow func() (string, error), damaged func(image api.Image, name string, err error)) (keptStore, error) {
	if !s.Store.remote() {
		return disk.Open(s.Store.Directory, disk.Options{Limits: s.Limits, Clock: time.Now, Damaged: damaged, Memory: s.Store.Memory << 20})
	}
	url, _, err := s.Store.urls()
	if err != nil {
		return nil, err
	}
	retries := s.Store.Retries
	if retries == 0 {
		retries = -1
	}
	return postgres.Open(ctx, postgres.Options{
		URL: url, Follow: follow, Limits: s.Limits, Clock: time.Now, Log: log, Damaged: damaged, Cache: s.Store.Memory << 20,
		Stale: s.Store.Stale, Keep: s.Store.Keep, Timeout: s.Store.Timeout, Retries: retries, Settle: s.Store.settle,
	})
}

// mayMakeKey is the store that decides whether the server may make itself a key: none with a
// database, where other servers would each make their own.
func (h *house) mayMakeKey(s settings) store.Store {
	if s.Store.remote() {
		return nil
	}
	return h.store
}
