// Package transfer copies everything from one store into another: signatures in their order,
// withdrawals, tasks and the audit trail; times to the microsecond. Nobody else may use either meanwhile.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// ErrOther is a target that has something which the source does not have.
var ErrOther = errors.New("the store to move to has something of its own")

// A Sum says how much there is.
type Sum struct{ Images, Signatures, Withdrawals, Tasks, Records int }

// A Transfer is one run. One that ended early is begun again: what is there is passed over.
type Transfer struct {
	From, To store.Store
	Progress func(Sum) // may be nil
	sum      Sum
}

// Run copies, and then compares the two: where they differ is an error. Into a store with limits of an
// image it may not fit. Errors: ErrOther before anything is written.
func (t *Transfer) Run(ctx context.Context) (Sum, error) {
	if t.Progress == nil {
		t.Progress = func(Sum) {}
	}
	there, err := t.checkTarget(ctx)
	if err != nil {
		return Sum{}, err
	}
	for _, step := range []func(context.Context) error{t.images, t.tasks, func(ctx context.Context) error { return t.records(ctx, there) }} {
		if err := step(ctx); err != nil {
			return t.sum, err
		}
	}
	return t.sum, t.compare(ctx)
}

// checkTarget says how many records the target has; these must be the source's first. What else it
// has the source must have.
func (t *Transfer) checkTarget(ctx context.Context) (records int, err error) {
	from, to := &trail{s: t.From}, &trail{s: t.To}
	for {
		have, ok, err := to.next(ctx)
		if err != nil {
			return 0, err // behind what was not read records would come a second time
		}
		if !ok {
			break
		}
		want, ok, err := from.next(ctx)
		if err != nil {
			return 0, err
		}
		if !ok || !sameRecord(have, want) {
			return 0, fmt.Errorf("%w: a record of %s at %s", ErrOther, have.Image, have.Time)
		}
		records++
	}
	return records, each(ctx, t.To, func(image api.Image) error {
		have, err := t.To.Get(ctx, image)
		if err != nil {
			return err
		}
		want, err := t.From.Get(ctx, image)
		if err == nil && !sameSet(have, want) {
			err = fmt.Errorf("%w: %s", ErrOther, image)
		}
		return err
	})
}

// each calls f once with every image that has signatures or withdrawals.
func each(ctx context.Context, s store.Store, f func(api.Image) error) error {
	for _, kind := range []string{store.Signatures, store.Withdrawals} {
		var last api.Image
		err := entries(ctx, s, kind, func(e store.Entry) error {
			if e.Image == last {
				return nil
			}
			last = e.Image
			if kind == store.Withdrawals {
				set, err := s.Get(ctx, e.Image)
				if err != nil || len(set.Signatures) > 0 {
					return err // it had its turn
				}
			}
			return f(e.Image)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func entries(ctx context.Context, s store.Store, kind string, f func(store.Entry) error) error {
	for after := store.Cursor(""); ; {
		page, next, err := s.List(ctx, store.Filter{Kind: kind}, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := f(e); err != nil {
				return err
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}

func (t *Transfer) images(ctx context.Context) error {
	return each(ctx, t.From, func(image api.Image) error {
		set, err := t.From.Get(ctx, image)
		if err != nil {
			return err
		}
		if !set.AsOf.IsZero() {
			return fmt.Errorf("%w: what is known of %s is old", store.ErrUnavailable, image)
		}
		// No record: those that there were are copied.
		if _, err := t.To.Do(ctx, store.Change{Image: image, Withdraw: set.Withdrawn, Add: set.Signatures}); err != nil {
			return fmt.Errorf("%s: %w", image, err)
		}
		t.sum.Images++
		t.sum.Signatures += len(set.Signatures)
		t.sum.Withdrawals += len(set.Withdrawn)
		t.Progress(t.sum)
		return nil
	})
}

// tasks are queued again; those that were given up are given up again.
func (t *Transfer) tasks(ctx context.Context) error {
	return entries(ctx, t.From, store.Tasks, func(e store.Entry) error {
		if _, err := t.To.Do(ctx, store.Change{Image: e.Image, Then: []store.Task{*e.Task}}); err != nil {
			return fmt.Errorf("task %s: %w", e.Task.Key, err)
		}
		if e.Task.State == store.Dead {
			ends := store.Task{Key: e.Task.Key, State: store.Dead, Problem: e.Task.Problem}
			if _, err := t.To.Do(ctx, store.Change{Image: e.Image, Ends: &ends}); err != nil {
				return fmt.Errorf("task %s: %w", e.Task.Key, err)
			}
		}
		t.sum.Tasks++
		t.Progress(t.sum)
		return nil
	})
}

// records come one after the other, in their order; the first ones are there.
func (t *Transfer) records(ctx context.Context, there int) error {
	from := &trail{s: t.From}
	for {
		r, ok, err := from.next(ctx)
		if err != nil || !ok {
			return err
		}
		if t.sum.Records++; t.sum.Records > there {
			if _, err := t.To.Do(ctx, store.Change{Image: r.Image, Record: r}); err != nil {
				return fmt.Errorf("record %d: %w", t.sum.Records, err)
			}
		}
		t.Progress(t.sum)
	}
}

// compare reads both from the beginning to the end.
func (t *Transfer) compare(ctx context.Context) error {
	differs := func(what string, err error) error {
		if err != nil {
			return err
		}
		return fmt.Errorf("the stores differ: %s", what)
	}
	err := each(ctx, t.From, func(image api.Image) error {
		want, err := t.From.Get(ctx, image)
		if err != nil {
			return err
		}
		if have, err := t.To.Get(ctx, image); err != nil || !sameSet(have, want) {
			return differs(image.String(), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		counts := map[store.Store]int{}
		for _, s := range []store.Store{t.From, t.To} {
			if err := entries(ctx, s, kind, func(store.Entry) error { counts[s]++; return nil }); err != nil {
				return err
			}
		}
		if counts[t.From] != counts[t.To] {
			return differs(fmt.Sprintf("%d %s, and %d", counts[t.From], kind, counts[t.To]), nil)
		}
	}
	from, to := &trail{s: t.From}, &trail{s: t.To}
	for n := 1; ; n++ {
		want, more, err := from.next(ctx)
		if err != nil {
			return err
		}
		have, there, err := to.next(ctx)
		if err != nil || more != there || more && !sameRecord(have, want) {
			return differs(fmt.Sprint("record ", n), err)
		}
		if !more {
			return nil
		}
	}
}

func sameSet(a, b store.Set) bool {
	if len(a.Signatures) != len(b.Signatures) || len(a.Withdrawn) != len(b.Withdrawn) {
		return false
	}
	for i := range a.Signatures {
		x, y := a.Signatures[i], b.Signatures[i]
		if !sameTime(x.Signed, y.Signed) || !sameTime(x.Added, y.Added) {
			return false
		}
		x.Signed, x.Added = y.Signed, y.Added // the same instant in another zone
		if !reflect.DeepEqual(x, y) {
			return false
		}
	}
	for i := range a.Withdrawn {
		x, y := a.Withdrawn[i], b.Withdrawn[i]
		if !sameTime(x.Time, y.Time) {
			return false
		}
		if x.Time = y.Time; x != y {
			return false
		}
	}
	return true
}

// sameTime looks no closer than a database does, to the microsecond.
func sameTime(a, b time.Time) bool {
	return a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond))
}

func sameRecord(a, b store.Record) bool {
	if !sameTime(a.Time, b.Time) || len(a.Names) != len(b.Names) {
		return false
	}
	a.Time = b.Time
	if len(a.Names) == 0 {
		a.Names, b.Names = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// A trail reads records one at a time.
type trail struct {
	s     store.Store
	after store.Cursor
	page  []store.Record
}

func (t *trail) next(ctx context.Context) (r store.Record, ok bool, err error) {
	if len(t.page) == 0 {
		if t.page, t.after, err = t.s.Records(ctx, t.after, 1000); err != nil || len(t.page) == 0 {
			return r, false, err
		}
	}
	r, t.page = t.page[0], t.page[1:]
	return r, true, nil
}
