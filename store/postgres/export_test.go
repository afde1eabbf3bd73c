package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// For tests.

// MaxScanned is how much of a listing a page looks at.
const MaxScanned = maxScanned

// MaxImages is how many images a page has the signatures of, at least.
const MaxImages = maxImages

// Flights are of numbers.
type Flights = flights[int, int]

// NewFlights has so many at a time, with room for so many each.
func NewFlights(most, room int, read func([]int) ([]int, error)) *Flights {
	return &Flights{read: read, most: most, room: room, time: late}
}

// Wait returns what is read of a number.
func (f *flights[K, V]) Wait(ctx context.Context, k K) (V, error) { return f.wait(ctx, k) }

// Wrote says how many wrote together.
func (f *flights[K, V]) Wrote(together int) { f.wrote(together) }

// Late is how long a flight keeps others on the ground.
const Late = late

// OnEach runs a statement on each connection that nobody uses, and returns how many there are.
func (s *Store) OnEach(ctx context.Context, statement string) (n int, err error) {
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		_, failed := conn.Exec(ctx, statement)
		err = errors.Join(err, failed)
		conn.Release()
		n++
	}
	return n, err
}

// Write makes changes of different images, which come together, each wanted until its time. What each is answered
// is told by its place.
func (s *Store) Write(until []time.Time, changes []store.Change, answer func(n int, set store.Set, err error)) error {
	all := make([]*writer, len(changes))
	for n, c := range changes {
		all[n] = &writer{c, until[n], func(set store.Set, err error) { answer(n, set, err) }}
	}
	_, err := s.write(all)
	return err
}

// Connect makes so many connections.
func (s *Store) Connect(ctx context.Context, n int) error {
	for range n {
		conn, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
	}
	return nil
}

// Connected is how many connections were made.
func (s *Store) Connected() int64 { return s.pool.Stat().NewConnsCount() }

// Reset has connections made anew.
func (s *Store) Reset() { s.pool.Reset() }

// Row is what an image has.
type Row = imageRow

// NewRow returns one without signatures.
func NewRow(i api.Image, state string, current time.Time) *Row {
	r := &imageRow{image: i, state: state}
	r.currentSince(current, current)
	return r
}

// State returns a row's repository and its state.
func (r *imageRow) State() (repository, state string) { return r.image.Repository, r.state }

// OpenKeep returns what carries rows over a restart.
var OpenKeep = openKeep

// MaxQueued is how many of them may wait to be kept.
const MaxQueued = maxQueued

// Later has a row kept as it is known.
func (k *keep) Later(i api.Image) { k.later(i) }

// Load reads what was kept.
func (k *keep) Load(now time.Time, stale time.Duration, add func(*Row)) { k.load(now, stale, add) }

// Close waits for what is to be kept.
func (k *keep) Close() { k.close() }

// Queues are queues for changes of images.
type Queues = queues

// Writer is one who waits in Queues.
type Writer = writer

// NewQueues returns queues with nobody in them.
var NewQueues = newQueues

// NewWriter returns one who wants a change.
func NewWriter(c store.Change) *Writer { return &writer{change: c} }

// Enter says whether the image was free.
func (q *queues) Enter(w *Writer) bool { return q.enter(w) }

// Leave returns whose the image is now.
func (q *queues) Leave(i api.Image) *Writer { return q.leave(i) }

// Abandon says whether the writer waited.
func (q *queues) Abandon(w *Writer) bool { return q.abandon(w) }

// Len is how many images somebody has.
func (q *queues) Len() int { return len(q.waiting) }

// Settling says whether the trail is another cluster's still.
func (s *Store) Settling() bool { return s.settling() }
