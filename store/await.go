package store

import (
	"context"
	"fmt"
)

// Await is what a store that can start a change does to make it: it returns when the change is through, or when ctx
// ends, which does not end the change.
func Await(ctx context.Context, start func(context.Context, Change, func(Set, error)), c Change) (Set, error) {
	type outcome struct {
		set Set
		err error
	}
	through := make(chan outcome, 1)
	start(ctx, c, func(set Set, err error) { through <- outcome{set, err} })
	select {
	case o := <-through:
		return o.set, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-through: // both: what became of it says more
		return o.set, o.err
	default:
		return Set{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}
