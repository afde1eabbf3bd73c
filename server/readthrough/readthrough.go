// Package readthrough imports signatures from lookasides that were there before, when somebody asks
// for an image: so that clients, which ask only this server once it advertises itself, miss nothing
// (protocol.md 3.4).
//
// What a lookaside has is not trusted: each signature goes through the door as an upload does, and
// is stored as what it is, an import. That a lookaside is away changes nothing but what can be new.
package readthrough

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/lookaside"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// Bounds of what readers can make the server do.
const (
	askTime    = 5 * time.Second  // for all lookasides of an image, and for a reader to wait
	storeTime  = 5 * time.Second  // beyond that, to store what they had
	remembered = 10 * time.Minute // that an image was asked for
	left       = 30 * time.Second // how long a lookaside that is away, and an image it was asked for, are left alone
	maxKnown   = 1 << 14          // images that are remembered
	maxAsking  = 16               // images at a time
)

// A Lookaside is one to import from.
type Lookaside struct {
	Host   string // what images are kept under that it has signatures of
	Remote *lookaside.Remote
}

// A Config is what a Lookasides needs.
type Config struct {
	Lookasides []Lookaside // those of one host are asked in this order
	Door       *admission.Door
	Store      store.Store
	Clock      func() time.Time
	Log        *slog.Logger
	Metrics    prometheus.Registerer
}

// A Lookasides imports from lookasides. It is safe for concurrent use.
type Lookasides struct {
	c       Config
	sources []*source
	flights singleflight.Group
	asking  chan struct{}
	known   known
	asked   *prometheus.CounterVec
	met     *prometheus.CounterVec
}

// A source is a lookaside that is left alone for a while after it did not answer.
type source struct {
	Lookaside
	mu   sync.Mutex
	away time.Time // until then
}

// New returns a Lookasides that has not asked anything yet.
func New(c Config) (*Lookasides, error) {
	l := &Lookasides{
		c:      c,
		asking: make(chan struct{}, maxAsking),
		known:  known{until: map[api.Image]time.Time{}},
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_lookaside_requests_total", Help: "Images that lookasides were asked for, by their answer.",
		}, []string{"answer"}),
		met: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countersign_lookaside_signatures_total", Help: "Signatures that lookasides had, by what became of them.",
		}, []string{"outcome"}),
	}
	for _, s := range c.Lookasides {
		l.sources = append(l.sources, &source{Lookaside: s})
	}
	for _, m := range []prometheus.Collector{l.asked, l.met} {
		if err := c.Metrics.Register(m); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Import asks the lookasides of an image's host for its signatures, and returns when what they have
// is stored: after 5 s at the latest, at once where they were asked in the last ten minutes. However
// many readers wait, they are asked once. Nothing that goes wrong is the reader's: it is in the log.
func (l *Lookasides) Import(ctx context.Context, image api.Image) {
	var sources []*source
	for _, s := range l.sources {
		if s.Host == image.Host {
			sources = append(sources, s)
		}
	}
	if len(sources) == 0 || l.known.has(image, l.c.Clock()) {
		return
	}
	flight := l.flights.DoChan(image.String(), func() (any, error) {
		// It goes on if the first reader leaves: others wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime+storeTime)
		defer cancel()
		l.ask(ctx, image, sources)
		return nil, nil
	})
	waiting, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	select {
	case <-flight:
	case <-waiting.Done():
	}
}

func (l *Lookasides) ask(ctx context.Context, image api.Image, sources []*source) {
	if l.known.has(image, l.c.Clock()) {
		return // by the flight before this one
	}
	fetching, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-fetching.Done():
		l.asked.WithLabelValues("busy").Inc()
		return
	}
	remember, budget := remembered, lookaside.MaxGuarded
	for _, s := range sources {
		if s.isAway(l.c.Clock()) {
			l.asked.WithLabelValues("away").Inc()
			remember = left
			continue
		}
		found, err := s.Remote.Fetch(fetching, image)
		found = found[:min(budget, len(found))]
		budget -= len(found)
		if err := l.store(ctx, image, s, found); err != nil {
			l.c.Log.Warn("signatures of a lookaside could not be stored", "image", image.String(), "lookaside", s.Remote.String(), "error", err)
			remember = 0
		}
		if err != nil && !errors.Is(err, lookaside.ErrEndless) {
			remember = min(remember, left)
			l.failed(image, s, err)
			continue
		}
		l.asked.WithLabelValues("ok").Inc()
		if err != nil {
			l.c.Log.Warn("a lookaside has more signatures of an image than are read", "image", image.String(), "lookaside", s.Remote.String(), "error", err)
		}
	}
	l.known.put(image, l.c.Clock().Add(remember), l.c.Clock())
}

// failed leaves a lookaside alone that does not answer at all: else each image's first reader would
// wait for it. The log has a line each time that begins.
func (l *Lookasides) failed(image api.Image, s *source, err error) {
	answer := "failed"
	if errors.Is(err, lookaside.ErrAway) {
		answer = "away"
		s.leave(l.c.Clock().Add(left))
	}
	l.asked.WithLabelValues(answer).Inc()
	l.c.Log.Warn("a lookaside does not say what it has", "image", image.String(), "lookaside", s.Remote.String(), "error", err)
}

func (s *source) isAway(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.away)
}

func (s *source) leave(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = until
}

// store takes what was found through the door. Its error is of the store, or of a context that ended.
func (l *Lookasides) store(ctx context.Context, image api.Image, from *source, found []lookaside.Found) error {
	if len(found) == 0 {
		return nil
	}
	set, err := l.c.Store.Get(ctx, image)
	if err != nil {
		return err
	}
	for _, f := range found {
		outcome, err := l.admit(ctx, image, from, f, &set)
		if err != nil {
			return err
		}
		l.met.WithLabelValues(outcome).Inc()
	}
	return nil
}

func (l *Lookasides) admit(ctx context.Context, image api.Image, from *source, f lookaside.Found, set *store.Set) (outcome string, err error) {
	if f.Err != nil {
		l.refused(image, from, f, f.Err)
		return "refused", nil
	}
	admitted, err := l.c.Door.Admit(admission.Upload{
		Image: image, Content: f.Content, Origin: "lookaside",
		Caller: admission.Caller{Subject: "lookaside", Address: from.Remote.String()},
	})
	if err != nil {
		l.refused(image, from, f, err)
		return "refused", nil
	}
	for _, there := range set.Signatures {
		if there.Identity == admitted.Signature.Identity {
			return "known", nil
		}
	}
	if set.Stops(admitted.Signature) {
		return "withdrawn", nil
	}
	change := admitted.Change(0)
	change.Record.Action, change.Record.Reason = store.Imported, from.Remote.String()
	after, err := l.c.Store.Do(ctx, change)
	switch {
	case errors.Is(err, store.ErrWithdrawn):
		return "withdrawn", nil
	case errors.Is(err, store.ErrFull):
		l.refused(image, from, f, err)
		return "refused", nil
	case err != nil:
		return "", err
	}
	*set = after
	return "imported", nil
}

// refused logs who signed what is not admitted, and what would admit it. Nothing of it is recorded:
// nobody brought it.
func (l *Lookasides) refused(image api.Image, from *source, f lookaside.Found, reason error) {
	attrs := []any{"image", image.String(), "lookaside", from.Remote.String(), "index", f.Index, "error", reason}
	if message, err := signature.Parse(f.Content); err == nil {
		attrs = append(attrs, "signer", message.Issuer())
		if errors.Is(reason, signature.ErrUnknownKey) {
			attrs = append(attrs, "hint", "with its public key in a file, this would admit it: countersign keys trust "+message.Issuer()+".asc")
		}
	}
	l.c.Log.Warn("a signature of a lookaside is not admitted", attrs...)
}

// known are images that need not be asked for, and until when.
type known struct {
	mu    sync.Mutex
	until map[api.Image]time.Time
}

func (k *known) has(image api.Image, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.until[image])
}

// put forgets what is over when there is no room, and everything if that makes none: to be asked
// again costs a request, to be remembered costs memory.
func (k *known) put(image api.Image, until, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.until) >= maxKnown {
		for i, end := range k.until {
			if !now.Before(end) {
				delete(k.until, i)
			}
		}
		if len(k.until) >= maxKnown {
			clear(k.until)
		}
	}
	if now.Before(until) {
		k.until[image] = until
	}
}
