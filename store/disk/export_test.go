package disk

import (
	"context"

	"go.etcd.io/bbolt"
)

// SetMaxSize lets the file not grow beyond so many bytes, as a full disk would; 0: it may.
func (s *Store) SetMaxSize(size int) { s.file.db.MaxSize = size }

// MaxScanned is how much of a listing a page looks at.
const MaxScanned = maxScanned

// Batch runs f in a transaction that others may share.
func Batch(ctx context.Context, s *Store, f func(tx *bbolt.Tx) error) error { return s.batch(ctx, f) }

// Busy says whether somebody works for writers.
func Busy(s *Store) bool {
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	return s.writes.busy
}
