package postgres

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// How many images there are in one query or transaction at most: what it is about, and with it what it returns,
// is bounded.
const (
	maxStates  = 256
	maxContent = 32
	maxWrites  = 64
)

// How long a flight keeps others on the ground. One that takes longer may hang. A transaction may wait for a
// standby far away, and others beside it would only take each other's processors.
const (
	late      = 20 * time.Millisecond
	lateWrite = 250 * time.Millisecond
)

// A flight is one query that several readers wait for, or one transaction that writers share. Whoever joins it
// does so before it starts.
type flight[K comparable, V any] struct {
	keys  []K
	at    map[K]int // of keys
	done  chan struct{}
	found []V // after done, like err: of each key
	err   error
}

// flights are one at a time: those who come meanwhile wait for the next one, together. The more come,
// the more share. Only where one is late, or has no more room, there are others beside it.
type flights[K comparable, V any] struct {
	read func([]K) ([]V, error)
	most int           // at a time
	room int           // of one
	time time.Duration // that one may take before it is late

	mu       sync.Mutex
	boarding bool // one is about to start, with the first of waiting
	company  bool // see wrote
	flying   int  // with it
	late     int  // of those
	waiting  []*flight[K, V]
}

// wait returns what a query says of k that starts from now on.
func (f *flights[K, V]) wait(ctx context.Context, k K) (v V, err error) {
	w, n := f.join(k)
	select {
	case <-w.done:
	case <-ctx.Done():
		return v, unavailable(ctx.Err())
	}
	if w.err != nil {
		return v, w.err
	}
	return w.found[n], nil
}

func (f *flights[K, V]) join(k K) (w *flight[K, V], n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.waiting {
		if n, ok := w.at[k]; ok {
			return w, n
		}
	}
	if n := len(f.waiting); n == 0 || len(f.waiting[n-1].keys) >= f.room {
		f.waiting = append(f.waiting, &flight[K, V]{at: map[K]int{}, done: make(chan struct{})})
	}
	w = f.waiting[len(f.waiting)-1]
	n = len(w.keys)
	w.at[k] = n
	w.keys = append(w.keys, k)
	f.start()
	return w, n
}

// start starts a flight if one may. The caller has the lock.
func (f *flights[K, V]) start() {
	if f.boarding || len(f.waiting) == 0 || f.flying >= f.most || f.flying > f.late && len(f.waiting[0].keys) < f.room {
		return
	}
	f.boarding = true
	f.flying++
	go f.fly()
}

// fly flies once with those who wait, and then lets the next ones start.
func (f *flights[K, V]) fly() {
	runtime.Gosched() // those who are here already come along
	store.Gather(f.come)
	f.mu.Lock()
	next := f.waiting[0]
	f.waiting = f.waiting[1:]
	f.boarding = false
	f.start()
	f.mu.Unlock()
	landed, isLate := false, false
	watch := time.AfterFunc(f.time, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !landed {
			isLate = true
			f.late++
			f.start()
		}
	})
	next.found, next.err = f.read(next.keys)
	watch.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	landed = true
	close(next.done)
	f.flying--
	if isLate {
		f.late--
	}
	f.start()
}

// come says how many wait for the next flight, and whether more are wanted.
func (f *flights[K, V]) come() (n int, wanted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = len(f.waiting[0].keys)
	return n, f.company && n < f.room
}

// wrote has the next flight wait for others where the last had company. It comes before anybody of the last
// hears of it, and comes again.
func (f *flights[K, V]) wrote(together int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.company = together > 1 || len(f.waiting) > 0
}

// queues let one change of an image at a time through, in the order in which they come, so that those that wait
// for the same image are in no transaction. Other processes are kept out by the database.
type queues struct {
	mu      sync.Mutex
	waiting map[api.Image][]*writer // for each image that somebody has
}

func newQueues() *queues { return &queues{waiting: map[api.Image][]*writer{}} }

// enter says whether the image was free: it is the writer's then. Else it is later, when leave says so.
func (q *queues) enter(w *writer) (free bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting, taken := q.waiting[w.change.Image]
	if taken {
		waiting = append(waiting, w)
	}
	q.waiting[w.change.Image] = waiting
	return !taken
}

// leave returns whose the image is now; nil: nobody's.
func (q *queues) leave(i api.Image) *writer {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiting[i]
	if len(waiting) == 0 {
		delete(q.waiting, i)
		return nil
	}
	next := waiting[0]
	q.waiting[i] = slices.Delete(waiting, 0, 1)
	return next
}

// abandon says whether the writer waited for its image, which it does no more.
func (q *queues) abandon(w *writer) (waited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiting[w.change.Image]
	n := slices.Index(waiting, w)
	if n >= 0 {
		q.waiting[w.change.Image] = slices.Delete(waiting, n, n+1)
	}
	return n >= 0
}
