package postgres

import (
	"context"
	"sync"

	"github.com/countersign-dev/countersign/api"
)

// maxTogether bounds the images of one query, and with them what it returns.
const maxTogether = 32

// A flight is one query that several readers wait for. Whoever joins it does so before it starts.
type flight struct {
	images []api.Image
	wanted map[api.Image]bool
	done   chan struct{}
	found  map[api.Image]*imageRow // after done, like err
	err    error
}

// flights start so many at a time; readers who come meanwhile wait for the next one, together.
type flights struct {
	read    func([]api.Image) (map[api.Image]*imageRow, error)
	mu      sync.Mutex
	free    int
	waiting []*flight
}

func newFlights(n int, read func([]api.Image) (map[api.Image]*imageRow, error)) *flights {
	return &flights{read: read, free: n}
}

func (f *flights) join(i api.Image) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.waiting {
		if w.wanted[i] {
			return w
		}
	}
	if n := len(f.waiting); n == 0 || len(f.waiting[n-1].images) >= maxTogether {
		f.waiting = append(f.waiting, &flight{wanted: map[api.Image]bool{}, done: make(chan struct{})})
	}
	w := f.waiting[len(f.waiting)-1]
	w.wanted[i] = true
	w.images = append(w.images, i)
	if f.free > 0 {
		f.free--
		go f.fly()
	}
	return w
}

// fly starts flights until nobody waits.
func (f *flights) fly() {
	for {
		f.mu.Lock()
		if len(f.waiting) == 0 {
			f.free++
			f.mu.Unlock()
			return
		}
		next := f.waiting[0]
		f.waiting = f.waiting[1:]
		f.mu.Unlock()
		next.found, next.err = f.read(next.images)
		close(next.done)
	}
}

// queues let one change of an image at a time through, so that those that wait for the same image
// hold no connection. Other processes are kept out by the database.
type queues struct {
	mu    sync.Mutex
	heads map[api.Image]*queue
}

type queue struct {
	turn    chan struct{} // holds one token
	waiting int
}

func newQueues() *queues { return &queues{heads: map[api.Image]*queue{}} }

// wait returns what lets the next one through.
func (q *queues) wait(ctx context.Context, i api.Image) (func(), error) {
	q.mu.Lock()
	h, ok := q.heads[i]
	if !ok {
		h = &queue{turn: make(chan struct{}, 1)}
		q.heads[i] = h
	}
	h.waiting++
	q.mu.Unlock()
	leave := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if h.waiting--; h.waiting == 0 {
			delete(q.heads, i)
		}
	}
	select {
	case h.turn <- struct{}{}:
		return func() { <-h.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, unavailable(ctx.Err())
	}
}
