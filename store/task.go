package store

import (
	"fmt"
	"time"
)

// ErrGone is ErrLease of a task that is not there any more: nobody holds it.
var ErrGone = fmt.Errorf("%w: there is no such task", ErrLease)

// End says what a change that ends t, by its key, with ends makes of it. What comes out as Done is
// to be removed, as Queued is due at ends.Due, as Dead waits for a person. ErrLease unless ends has
// the lease that t is held under, or none and nobody holds t.
func (t Task) End(ends Task, now time.Time) (Task, error) {
	held := t.Lease != "" && t.Due.After(now)
	if ends.Lease != t.Lease && (ends.Lease != "" || held) {
		return Task{}, fmt.Errorf("%w: %s was taken or ended by somebody else", ErrLease, t.Key)
	}
	switch ends.State {
	case Queued:
		t.Due = ends.Due
		if t.Due.IsZero() {
			t.Due = now
		}
	case Dead, Done:
	default:
		return Task{}, fmt.Errorf("task %s: %q ends nothing", t.Key, ends.State)
	}
	t.State, t.Problem, t.Lease = ends.State, ends.Problem, ""
	return t, nil
}
