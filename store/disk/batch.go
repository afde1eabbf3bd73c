package disk

import (
	"context"
	"slices"
	"sync"

	"go.etcd.io/bbolt"
)

// maxBatch is how many writers share a transaction.
const maxBatch = 1000

// Batches are transactions that writers share, and with each one fsync: those that come while one is
// being written are in the next. Nobody waits for company.
type batches struct {
	db      *bbolt.DB
	mu      sync.Mutex
	waiting []*write
	busy    bool
}

type write struct {
	f    func(*bbolt.Tx) error
	done chan error // takes one
}

// run runs f in a transaction that it may share, so f decides and says nothing by its error but
// that the file failed: what it refuses it remembers outside. f may run more than once, and goes on
// after ctx has ended.
func (b *batches) run(ctx context.Context, f func(*bbolt.Tx) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w := &write{f, make(chan error, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, w)
	if !b.busy {
		b.busy = true
		go b.work()
	}
	b.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work commits until nobody waits.
func (b *batches) work() {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), maxBatch)
		next := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		b.busy = n > 0
		b.mu.Unlock()
		if n == 0 {
			return
		}
		b.commit(next)
	}
}

// commit writes what all of them write, or, where one of them fails, that one alone, and the others
// again.
func (b *batches) commit(all []*write) {
	for len(all) > 0 {
		failed := -1
		err := b.update(func(tx *bbolt.Tx) error {
			for n, w := range all {
				if err := recovered(func() error { return w.f(tx) }); err != nil {
					failed = n
					return err
				}
			}
			return nil
		})
		if failed < 0 {
			for _, w := range all {
				w.done <- err
			}
			return
		}
		alone := all[failed]
		all = slices.Delete(all, failed, failed+1)
		alone.done <- b.update(alone.f)
	}
}

func (b *batches) update(f func(*bbolt.Tx) error) error {
	return recovered(func() error { return b.db.Update(f) })
}
