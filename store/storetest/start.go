package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func starts() []subtest {
	return []subtest{
		{name: "start", run: testStart},
		{name: "start_refused", run: testStartRefused},
		{name: "start_context_ends", run: testStartContextEnds},
	}
}

// A started is a change that was started.
type started struct {
	change  store.Change
	through chan struct{} // closed at the first answer
	answers atomic.Int32
	set     store.Set // after through, as err
	err     error
}

func (f *fixture) start(ctx context.Context, c store.Change) *started {
	s := &started{change: c, through: make(chan struct{})}
	f.s.Start(ctx, c, func(set store.Set, err error) {
		if s.answers.Add(1) == 1 {
			s.set, s.err = set, err
			close(s.through)
		}
	})
	return s
}

// ends waits for the answer.
func (f *fixture) ends(s *started) error {
	f.Helper()
	select {
	case <-s.through:
		return s.err
	case <-time.After(20 * time.Second):
		f.Fatalf("Start(%s): nothing was answered within 20 s", describe(s.change))
		return nil
	}
}

// once holds changes to one answer each, after all that they could still be answered by has ended.
func (f *fixture) once(all ...*started) {
	f.Helper()
	f.do(store.Change{Image: image(), Record: admitted()})
	for _, s := range all {
		f.same("how often "+describe(s.change)+" is answered", int32(1), s.answers.Load())
	}
}

// testStart has one caller start everything before it waits for anything.
func testStart(f *fixture) {
	const each = 20
	var all []*started
	for n := range each {
		for at, i := range images()[:5] {
			all = append(all, f.start(f.Context(), adding(i, 100*at+n, 100*at+n)))
		}
	}
	for _, s := range all {
		if err := f.ends(s); err != nil {
			f.Fatalf("Start(%s): %v, want it done", describe(s.change), err)
		}
		if index(s.set, s.change.Add[0].Name) == 0 {
			f.Errorf("Start(%s): what it says there is then lacks what was added: %v", describe(s.change), s.set)
		}
	}
	f.once(all...)
	for at, i := range images()[:5] {
		set := f.get(i)
		f.same("the version of "+i.String(), uint64(each), set.Version)
		for n := range each {
			if index(set, signature(i, 100*at+n).Name) == 0 {
				f.Errorf("%s: signature %d was answered for, and is not there", i, n)
			}
		}
	}
	f.same("how many records there are", len(all)+1, len(f.records()))
}

func testStartRefused(f *fixture) {
	last := f.do(adding(image(), 1, 1))
	changed := adding(image(), 2, 2)
	changed.If = last.Version + 1
	mistaken := adding(image(), 3, 3)
	mistaken.Withdraw = []store.Withdrawal{withdrawal("new", "everything")}
	before := f.state()
	refused, wrong := f.start(f.Context(), changed), f.start(f.Context(), mistaken)
	if err := f.ends(refused); !errors.Is(err, store.ErrChanged) {
		f.Errorf("Start(%s): %v, want %v", describe(changed), err, store.ErrChanged)
	}
	if err := f.ends(wrong); err == nil || errors.Is(err, store.ErrUnavailable) {
		f.Errorf("Start(%s): %v, want an error for a caller's mistake", describe(mistaken), err)
	}
	f.same("what is there after both were refused", before, f.state())
	f.once(refused, wrong)
}

// testStartContextEnds ends contexts before and after changes are started: they are answered, and done or not.
func testStartContextEnds(f *fixture) {
	ended, cancel := context.WithCancel(f.Context())
	cancel()
	before := f.state()
	s := f.start(ended, adding(image(), 1, 1))
	if err := f.ends(s); !errors.Is(err, store.ErrUnavailable) {
		f.Errorf("Start after its context ended: %v, want %v", err, store.ErrUnavailable)
	}
	f.same("what is there after that", before, f.state())
	all := []*started{s}
	for n := range 20 {
		ctx, cancel := context.WithCancel(f.Context())
		s := f.start(ctx, adding(image(), n, n))
		cancel()
		all = append(all, s)
	}
	done := 0
	for _, s := range all[1:] {
		switch err := f.ends(s); {
		case err == nil:
			done++
		case !errors.Is(err, store.ErrUnavailable):
			f.Errorf("Start(%s), when its context ended: %v, want %v", describe(s.change), err, store.ErrUnavailable)
		}
		if _, err := f.s.Do(f.Context(), s.change); err != nil { // what has happened changes nothing
			f.Fatal(fmt.Errorf("again: %w", err))
		}
	}
	f.once(all...)
	f.same("how many signatures there are", 20, len(f.get(image()).Signatures))
	f.same("how many records there are", 21, len(f.records()))
}
