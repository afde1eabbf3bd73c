// Package disk is a store in one bbolt file, signatures.db. One process has it open.
//
// The file has these buckets; numbers are big-endian:
//
//	meta      "format" → "2"
//	images    host \x00 repository \x00 digest → JSON: what the image has, without content
//	contents  sequence, 8 bytes → the signature's bytes
//	records   sequence, 8 bytes → JSON
//	tasks     key → JSON
//	due       of each queued task: Due in seconds, 8 bytes, and nanoseconds, 4, and the key → nothing
//
// An image's value says where its contents are. They come one after the other, so that an upload
// touches one place of the file whose depth grows with what is stored, not two.
//
// Writers that come together share one transaction, and with it one fsync. Beside the file lies
// owner, a word on who has it, for people only: what counts is the lock on the file.
package disk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

var (
	bucketMeta     = []byte("meta")
	bucketImages   = []byte("images")
	bucketContents = []byte("contents")
	bucketRecords  = []byte("records")
	bucketTasks    = []byte("tasks")
	bucketDue      = []byte("due")
)

// Options are what a store goes by.
type Options struct {
	Limits store.Limits
	Clock  func() time.Time // required
	Memory int              // for what images have, in bytes; 0: 128 MiB, about a hundred thousand of one signature each
	// Damaged is told by Get and List, at each read, of what no longer reads and is left out. The
	// name is that of a signature, or empty where all that an image has is left out. May be nil.
	Damaged func(image api.Image, name string, err error)
}

// A Store implements store.Store.
type Store struct {
	file   *file
	writes *batches
	o      Options
	known  *memory
}

// Close waits for what is going on, and gives the file up. What comes later is ErrUnavailable.
func (s *Store) Close() error {
	err := s.file.close()
	s.known.forgetAll()
	return err
}

// batch is batches.run, in the words of the contract.
func (s *Store) batch(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	return unavailable(s.writes.run(ctx, f))
}

// view runs f, which must not hold on to anything that it read: it is gone after the transaction.
func (s *Store) view(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if ctx.Err() != nil {
		return unavailable(ctx.Err())
	}
	return unavailable(s.file.view(f))
}

// unavailable is what a failing file means; what the contract names passes as it is.
func unavailable(err error) error {
	if err == nil || errors.Is(err, store.ErrCursor) {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
