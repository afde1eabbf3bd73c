package disk

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"go.etcd.io/bbolt"
)

// A file is bbolt's. Where bbolt panics before or behind what it runs for us, as at the page that lists the free ones,
// its locks may stay as they are. Nothing more is done with the file then, not even to close it: that would wait for ever.
type file struct {
	db   *bbolt.DB
	once sync.Once
	lost chan struct{} // closed when it is
}

func newFile(db *bbolt.DB) *file { return &file{db: db, lost: make(chan struct{})} }

var errLost = errors.New("the file is damaged where all of it depends on it\nhint: start the server again; if it does not start, bring the file back from a backup")

func (f *file) view(do func(*bbolt.Tx) error) error { return f.run(f.db.View, do) }

func (f *file) update(do func(*bbolt.Tx) error) error { return f.run(f.db.Update, do) }

func (f *file) run(transaction func(func(*bbolt.Tx) error) error, do func(*bbolt.Tx) error) error {
	if f.isLost() {
		return errLost
	}
	var begun *bbolt.Tx
	var within error
	err := recovered(func() error {
		return transaction(func(tx *bbolt.Tx) error {
			begun = tx
			within = recovered(func() error { return do(tx) })
			return within
		})
	})
	if d, ok := errors.AsType[*fault](err); ok && d != within && (begun == nil || begun.DB() != nil) { // it has not ended
		f.once.Do(func() { close(f.lost) })
	}
	return err
}

func (f *file) isLost() bool {
	select {
	case <-f.lost:
		return true
	default:
		return false
	}
}

func (f *file) close() error {
	if f.isLost() {
		return errLost
	}
	closed := make(chan error, 1)
	go func() { closed <- f.db.Close() }()
	select {
	case err := <-closed:
		return err
	case <-f.lost: // meanwhile
		return errLost
	}
}

// A fault is what bbolt panicked with.
type fault struct{ what any }

func (f *fault) Error() string { return fmt.Sprintf("the file is damaged: %v", f.what) }

// recovered makes an error of bbolt's panic at a page that is not what it should be, and of the fault
// at one that the disk does not give or the file ends before: a damaged file must not end the
// process, nor what it still has.
func recovered(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &fault{p}
		}
	}()
	return f()
}
