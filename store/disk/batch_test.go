package disk_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// Of those that share a transaction, one that fails or panics takes nobody's change with it.
func TestBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), options(t))
		broken := errors.New("broken")
		put := func(key string, ends error) func(*bbolt.Tx) error {
			return func(tx *bbolt.Tx) error {
				if err := tx.Bucket([]byte("meta")).Put([]byte(key), []byte("written")); err != nil {
					return err
				}
				return ends
			}
		}
		first := make(chan struct{})
		writers := map[string]func(*bbolt.Tx) error{
			"one": put("one", nil), "bad": put("bad", broken), "two": put("two", nil),
			"worse": func(*bbolt.Tx) error { panic("page 7") },
		}
		errs := map[string]chan error{}
		do := func(name string, f func(*bbolt.Tx) error) {
			said := make(chan error, 1)
			errs[name] = said
			go func() { said <- disk.Batch(t.Context(), s, f) }()
			synctest.Wait()
		}
		do("first", func(*bbolt.Tx) error { <-first; return nil })
		for name, f := range writers { // they wait for the first one, and then come together
			do(name, f)
		}
		close(first)
		for name, failed := range map[string]bool{"first": false, "one": false, "bad": true, "two": false, "worse": true} {
			if err := <-errs[name]; (err != nil) != failed {
				t.Errorf("%s: %v, want an error: %t", name, err, failed)
			}
		}
		found := func(key string) (is bool) {
			err := disk.Batch(t.Context(), s, func(tx *bbolt.Tx) error { is = tx.Bucket([]byte("meta")).Get([]byte(key)) != nil; return nil })
			return err == nil && is
		}
		for key, want := range map[string]bool{"one": true, "bad": false, "two": true} {
			if found(key) != want {
				t.Errorf("%s is written: %t, want %t", key, !want, want)
			}
		}
	})
}

// Who starts a change waits for no other, and not for its own.
func TestStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), options(t))
		enough, written := make(chan struct{}), make(chan error, 1)
		go func() { written <- disk.Batch(t.Context(), s, func(*bbolt.Tx) error { <-enough; return nil }) }()
		synctest.Wait()
		told := make(chan error, 3)
		for n := range cap(told) {
			s.Start(t.Context(), adding(image("app"), n), func(set store.Set, err error) {
				if len(set.Signatures) != n+1 {
					err = errors.Join(err, fmt.Errorf("after change %d there are %d signatures", n, len(set.Signatures)))
				}
				told <- err
			})
		}
		if synctest.Wait(); len(told) > 0 {
			t.Errorf("%d are told of changes that wait for another", len(told))
		}
		close(enough)
		if err := <-written; err != nil {
			t.Error(err)
		}
		for range cap(told) {
			if err := <-told; err != nil {
				t.Error(err)
			}
		}
	})
}

// A lone writer waits for nobody. Where several write, the next transaction waits for those who come
// soon, and not for long.
func TestBatchGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), options(t))
		var transactions []*bbolt.Tx
		write := func() error {
			return disk.Batch(t.Context(), s, func(tx *bbolt.Tx) error {
				if len(transactions) == 0 || transactions[len(transactions)-1] != tx {
					transactions = append(transactions, tx)
				}
				return nil
			})
		}
		began := time.Now()
		for range 10 {
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 || len(transactions) != 10 {
			t.Errorf("a lone writer waited %v, and wrote in %d transactions, want none and 10", took, len(transactions))
		}
		transactions = nil
		var all sync.WaitGroup
		come := func(every time.Duration, n int) {
			for range n {
				all.Go(func() {
					if err := write(); err != nil {
						t.Error(err)
					}
				})
				time.Sleep(every)
			}
			all.Wait()
		}
		come(0, 20) // together: from now on there is company
		transactions = nil
		come(time.Millisecond, 20)
		if n := len(transactions); n < 2 || n > 4 {
			t.Errorf("20 writers within 20 ms wrote in %d transactions, want 2 to 4: each waits 10 ms at most", n)
		}
	})
}

// When the last writer has been answered nobody works any more, whether what was written failed or not:
// the next one is not left to somebody who is about to go.
func TestBatchEnds(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	broken := errors.New("broken")
	for n := range 200 {
		for _, ends := range []error{nil, broken} {
			if err := disk.Batch(t.Context(), s, func(*bbolt.Tx) error { return ends }); !errors.Is(err, ends) {
				t.Fatalf("write %d: %v, want %v", n, err, ends)
			}
			if disk.Busy(s) {
				t.Fatalf("write %d, which ends with %v: it is answered, and somebody works still", n, ends)
			}
		}
	}
}
