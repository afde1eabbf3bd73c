package disk

import (
	"context"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// maxBatch is how many writers share a transaction.
const maxBatch = 1000

// Batches are transactions that writers share, and with each one fsync: those that come while one is
// being written are in the next. A lone writer waits for nobody; where the last one had company, the
// next waits a little for it.
type batches struct {
	file    *file
	mu      sync.Mutex
	waiting []*write
	busy    bool
	company bool // several wrote together, or one came while another wrote
}

// A write is answered once. To answer must wait for nobody.
type write struct {
	f      func(*bbolt.Tx) error
	answer func(error)
}

// run runs f in a transaction that it may share, so f decides and says nothing by its error but
// that the file failed: what it refuses it remembers outside. f may run more than once, and goes on
// after ctx has ended.
func (b *batches) run(ctx context.Context, f func(*bbolt.Tx) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	done := make(chan error, 1)
	b.join(&write{f, func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *batches) join(w *write) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, w)
	if !b.busy {
		b.busy = true
		go b.work()
	}
}

// work commits until nobody waits.
func (b *batches) work() {
	for more := true; more; {
		store.Gather(b.come)
		more = b.commit(b.next())
	}
}

// next takes those who wait.
func (b *batches) next() []*write {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), maxBatch)
	next := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	return next
}

// wrote comes before the last are answered, and says whether more wait: who comes later, which may be one of
// them again, is nobody's that works already.
func (b *batches) wrote(together int) (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = len(b.waiting) > 0
	b.company = together > 1 || b.busy
	return b.busy
}

// come says how many wait, and whether more are wanted.
func (b *batches) come() (n int, wanted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting), b.company && len(b.waiting) > 0 && len(b.waiting) < maxBatch
}

// commit writes what all of them write, or, where one of them fails, that one alone, and the others
// again.
func (b *batches) commit(all []*write) (more bool) {
	for {
		failed := -1
		err := b.file.update(func(tx *bbolt.Tx) error {
			for n, w := range all {
				if err := recovered(func() error { return w.f(tx) }); err != nil {
					failed = n
					return err
				}
			}
			return nil
		})
		if failed < 0 {
			more = b.wrote(len(all))
			for _, w := range all {
				w.answer(err)
			}
			return more
		}
		alone := all[failed]
		all = slices.Delete(all, failed, failed+1)
		err = b.file.update(alone.f)
		if len(all) == 0 {
			more = b.wrote(1)
			alone.answer(err)
			return more
		}
		alone.answer(err)
	}
}
