package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// get reads what an image has, after lookasides had their say, and tries for so long while the store
// is away: clients retry little or not at all. What the store knew lately it goes on answering; where
// no node asks for a signature, none is an answer, too.
func (s *Server) get(r *http.Request, image api.Image, patience time.Duration) (store.Set, error) {
	if s.c.Lookasides != nil {
		s.c.Lookasides.Import(r.Context(), image)
	}
	began := time.Now()
	var deadline *time.Timer // an answer that comes at once needs none
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		set, err := s.c.Store.Get(r.Context(), image)
		switch {
		case err == nil && set.AsOf.IsZero():
			s.outage.over()
			return set, nil
		case err == nil:
			s.outage.began(s.c.Clock())
			s.metrics.stale.Inc()
			return set, nil
		case errors.Is(r.Context().Err(), context.Canceled): // who asked has gone, which says nothing of the store
			return store.Set{}, r.Context().Err()
		case !errors.Is(err, store.ErrUnavailable):
			s.outage.over()
			return set, err
		}
		if deadline == nil {
			deadline = time.NewTimer(patience - time.Since(began))
			defer deadline.Stop()
		}
		s.outage.began(s.c.Clock())
		if s.outage.lasts(s.c.Clock()) >= patience && s.unasked(image) {
			deadline.Reset(0) // waiting did not help others
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-deadline.C:
			return s.unsigned(image, err)
		case <-r.Context().Done():
			return store.Set{}, r.Context().Err()
		}
	}
}

// unsigned is the answer where the store has none: that there are no signatures, if no node asks for
// one.
func (s *Server) unsigned(image api.Image, away error) (store.Set, error) {
	if !s.unasked(image) {
		return store.Set{}, away
	}
	s.metrics.unsigned.Inc()
	return store.Set{}, nil
}

// current reads what decides about a change: what was so lately does not.
func (s *Server) current(ctx context.Context, image api.Image) (store.Set, error) {
	set, err := s.c.Store.Get(ctx, image)
	if err == nil && !set.AsOf.IsZero() {
		return store.Set{}, fmt.Errorf("%w: since %s", store.ErrUnavailable, set.AsOf.Format(time.RFC3339))
	}
	return set, err
}

// unasked tells whether no profile of nodes asks for a signature of anything in a repository, by
// whichever of its names.
func (s *Server) unasked(image api.Image) bool {
	hosts := []string{image.Host}
	if image.Host == s.c.Hosts[0] {
		hosts = s.c.Hosts
	}
	for _, profile := range s.c.Profiles {
		for _, host := range hosts {
			repository, err := reference.WithName(host + "/" + image.Repository)
			if err != nil || !profile().AcceptsUnsigned(repository) {
				return false
			}
		}
	}
	return len(s.c.Profiles) > 0
}

// An outage knows since when the store has been away.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero: it is there
}

func (o *outage) began(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = now
	}
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Time{}
}

// lasts is how long it has been away; 0: it is there.
func (o *outage) lasts(now time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0
	}
	return now.Sub(o.since)
}

// gauge is 1 while it is away.
func (o *outage) gauge() float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0
	}
	return 1
}

// extensionError is what the extension says of an outage: clients retry 429 five times and
// 503 never (protocol.md 3.4), so it is 429 until a minute shows that retrying does not help.
func (o *outage) extensionError(now time.Time, err error) error {
	if o.lasts(now) < time.Minute {
		return errors.Join(errBusy, err)
	}
	return errors.Join(errAway, err)
}
