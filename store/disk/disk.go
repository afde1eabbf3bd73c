// Package disk is a store in one bbolt file. One process has it open.
//
// The file has these buckets:
//
//	meta      "format" → "1"
//	images    host \x00 repository \x00 digest → JSON: what the image has, without content
//	contents  the image's key \x00 name → the signature's bytes
//	records   sequence, 8 bytes → JSON
//	tasks     key → JSON
//	due       time, 8 bytes, and the key of a queued task → nothing
//
// Writers that come together share one transaction, and with it one fsync.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

const (
	fileName  = "signatures.db"
	ownerName = "owner"
	format    = "1"
)

var (
	bucketMeta     = []byte("meta")
	bucketImages   = []byte("images")
	bucketContents = []byte("contents")
	bucketRecords  = []byte("records")
	bucketTasks    = []byte("tasks")
	bucketDue      = []byte("due")
	keyFormat      = []byte("format")
)

// Options are what a store goes by.
type Options struct {
	Limits store.Limits
	Clock  func() time.Time
	// Damaged is told of what no longer reads and is left out; the name is empty where a whole
	// image does not. It may be nil, and is called again at every read.
	Damaged func(image api.Image, name string, err error)
}

// A Store implements store.Store.
type Store struct {
	db *bbolt.DB
	o  Options
}

// Open opens the store in a directory, which is made, private, if it is not there. A second
// process is told who has it.
func Open(directory string, o Options) (*Store, error) {
	if o.Damaged == nil {
		o.Damaged = func(api.Image, string, error) {}
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(directory, fileName)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by %s\nhint: stop that one first, or give this one another directory", directory, owner(directory))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	db.MaxBatchDelay = 2 * time.Millisecond // the default, 10, is what a lone writer would wait for company
	s := &Store{db, o}
	if err := s.prepare(directory); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	return s, nil
}

// prepare makes the buckets, and the names of directory and file durable.
func (s *Store) prepare(directory string) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketImages, bucketContents, bucketRecords, bucketTasks, bucketDue} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch have := string(meta.Get(keyFormat)); have {
		case format:
			return nil
		case "":
			return meta.Put(keyFormat, []byte(format))
		default:
			return fmt.Errorf("it has format %q, and this program reads %q: use the version that wrote it, or a later one", have, format)
		}
	})
	if err != nil {
		return err
	}
	if err := s.own(directory); err != nil {
		return err
	}
	return errors.Join(syncDirectory(directory), syncDirectory(filepath.Dir(directory)))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// own leaves word of who has the store, for a person whose second process cannot have it.
func (s *Store) own(directory string) error {
	name, err := os.Hostname()
	if err != nil {
		name = "this machine"
	}
	word := fmt.Sprintf("process %d on %s, since %s", os.Getpid(), name, s.o.Clock().UTC().Format(time.RFC3339))
	path := filepath.Join(directory, ownerName)
	if err := os.WriteFile(path+".new", []byte(word), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func owner(directory string) string {
	word, err := os.ReadFile(filepath.Join(directory, ownerName))
	if err != nil || len(word) > 1000 {
		return "another process"
	}
	return string(word)
}

// Close waits for what is going on, and gives the file up.
func (s *Store) Close() error { return s.db.Close() }

// batch runs f in a transaction that it may share, so f decides and says nothing by its error but
// that the file failed: what it refuses it remembers outside. f may run more than once.
func (s *Store) batch(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
	done := make(chan error, 1)
	go func() { done <- s.db.Batch(f) }()
	select {
	case err := <-done:
		return unavailable(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

func (s *Store) view(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
	return unavailable(s.db.View(f))
}

// unavailable is what a failing file means; what the contract names passes as it is.
func unavailable(err error) error {
	if err == nil || errors.Is(err, store.ErrCursor) {
		return err
	}
	return fmt.Errorf("%w: %v", store.ErrUnavailable, err)
}
