// Package calendar says when keys stop verifying, and what nodes would refuse from that day on: for
// the keys that the server signs with, and for those that may upload.
package calendar

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// ahead is how long before the end of a key it is warned of.
var ahead = [...]time.Duration{7 * day, 30 * day, 90 * day}

const (
	day = 24 * time.Hour
	// every is how often Watch looks.
	every = time.Hour
)

// A Config is what a Calendar looks at.
type Config struct {
	Own      func() *signature.Keyring // what the server signs with
	Admitted func() *signature.Keyring // what may upload
	Store    store.Store
	// Leads returns what says whether a reference leads to an image now. It is asked for each look anew.
	Leads   func() func(ctx context.Context, image api.Image, ref string) bool
	Clock   func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// A Calendar knows when keys end.
type Calendar struct {
	c      Config
	ends   *prometheus.GaugeVec
	usable *prometheus.GaugeVec
	refs   *prometheus.GaugeVec
	again  chan struct{}

	mu     sync.Mutex
	warned map[string]time.Duration // the last warning of each key, by its fingerprint
	next   time.Duration            // until Watch looks again
}

// New returns a Calendar. It looks by itself while Watch runs.
func New(c Config) (*Calendar, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"fingerprint", "use"})
	}
	cal := &Calendar{
		c:      c,
		ends:   gauge("countersign_key_end_timestamp_seconds", "When a key stops verifying, in Unix time: the server's, and those that end within 90 days."),
		usable: gauge("countersign_key_usable", "1 while a key verifies; 0 since it is expired or revoked."),
		refs:   gauge("countersign_key_references", "References that nodes accept by this key alone, of those keys that end."),
		again:  make(chan struct{}, 1),
		warned: map[string]time.Duration{},
	}
	for _, m := range []prometheus.Collector{cal.ends, cal.usable, cal.refs} {
		if err := c.Metrics.Register(m); err != nil {
			return nil, err
		}
	}
	return cal, nil
}

// Watch looks every hour, and when a key ends, until ctx ends. It logs what is about to end, and keeps the
// metrics.
func (c *Calendar) Watch(ctx context.Context) {
	for {
		if err := c.Look(ctx); err != nil && ctx.Err() == nil {
			c.c.Log.Warn("which keys are about to end cannot be told", "error", err)
		}
		timer := time.NewTimer(c.wait())
		select {
		case <-timer.C:
		case <-c.again:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// wait is how long Watch waits before it looks again.
func (c *Calendar) wait() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.next, every)
}

// Again has Watch look before its hour is over: a key has changed.
func (c *Calendar) Again() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// Look does once what Watch does every hour.
func (c *Calendar) Look(ctx context.Context) error {
	now, err := c.Read(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range []*prometheus.GaugeVec{c.ends, c.usable, c.refs} {
		v.Reset()
	}
	c.next = every
	for _, k := range now.Keys {
		if k.Ends != nil && k.Spent == "" {
			// OpenPGP has whole seconds: it is good in this one. What is past and still good has a self-signature of another end.
			if left := k.Ends.Sub(now.AsOf) + time.Second; left > 0 {
				c.next = min(c.next, left)
			}
		}
		c.measure(k, now.AsOf)
		c.warn(k, now.AsOf)
	}
	return nil
}

// measure shows the server's keys, and of the others those that concern somebody: there may be
// ten thousand.
func (c *Calendar) measure(k api.CalendarKey, now time.Time) {
	soon := k.Ends != nil && k.Ends.Sub(now) <= ahead[len(ahead)-1]
	if !k.Own && !soon && k.Spent == "" {
		return
	}
	use := "admitted"
	if k.Own {
		use = "own"
	}
	usable := 1.0
	if k.Spent != "" {
		usable = 0
	}
	c.usable.WithLabelValues(k.Fingerprint, use).Set(usable)
	if k.Ends != nil {
		c.ends.WithLabelValues(k.Fingerprint, use).Set(float64(k.Ends.Unix()))
	}
	if soon || k.Spent != "" {
		c.refs.WithLabelValues(k.Fingerprint, use).Set(float64(k.Alone))
	}
}

// warn says once that a key ends within 90, 30 and 7 days, and that it has ended.
func (c *Calendar) warn(k api.CalendarKey, now time.Time) {
	stage, what := time.Duration(0), ""
	switch {
	case k.Spent != "":
		stage, what = -1, "a key verifies nothing any more: nodes refuse what it alone has signed"
	case k.Ends == nil:
		return
	default:
		for _, a := range ahead {
			if k.Ends.Sub(now) <= a {
				stage, what = a, "a key is about to expire: nodes will refuse what it alone has signed"
				break
			}
		}
	}
	if what == "" || c.warned[k.Fingerprint] == stage {
		return
	}
	c.warned[k.Fingerprint] = stage
	hint := "extend it with gpg --quick-set-expire and trust it again, or have its images signed by another"
	switch {
	case k.Own && k.Spent == "revoked":
		hint = "let another key sign in its place and countersign resign -from " + k.Fingerprint
	case k.Own:
		hint = "extend it, or let another key sign beside it and countersign resign -from " + k.Fingerprint
	}
	attributes := []any{"key", k.Fingerprint, "userID", k.UserID, "own", k.Own, "references", k.References, "alone", k.Alone, "hint", hint}
	if k.Spent != "" {
		attributes = append(attributes, "because", k.Spent)
	} else {
		attributes = append(attributes, "ends", k.Ends.Format(time.DateOnly), "days", int(k.Ends.Sub(now)/day))
	}
	c.c.Log.Warn(what, attributes...)
}

// Read looks at all keys, and at every signature that is kept.
func (c *Calendar) Read(ctx context.Context) (api.Calendar, error) {
	own, admitted, now := c.c.Own(), c.c.Admitted(), c.c.Clock()
	all := signature.Join(own, admitted)
	spent, err := all.Spent(now)
	if err != nil {
		return api.Calendar{}, err
	}
	t := newTally(all, spent, c.c.Leads())
	if err := t.count(ctx, c.c.Store); err != nil {
		return api.Calendar{}, err
	}
	cal := api.Calendar{AsOf: now.UTC(), Keys: []api.CalendarKey{}}
	for _, k := range all.Keys() {
		entry := api.CalendarKey{
			Fingerprint: k.Fingerprint, UserID: k.UserID, Algorithm: k.Algorithm,
			Own: own.Has(k.Fingerprint), Admitted: admitted.Has(k.Fingerprint),
			References: len(t.signed[k.Fingerprint]), Alone: len(t.alone[k.Fingerprint]),
		}
		if !k.Expires.IsZero() {
			end := k.Expires.UTC()
			entry.Ends = &end
		}
		if why := spent[k.Fingerprint]; why != nil {
			entry.Spent = why.Error()
		}
		cal.Keys = append(cal.Keys, entry)
	}
	slices.SortStableFunc(cal.Keys, order)
	return cal, nil
}

// order has what stopped first, then what will, then the rest.
func order(a, b api.CalendarKey) int {
	never := func(k api.CalendarKey) int {
		switch {
		case k.Spent != "":
			return 0
		case k.Ends != nil:
			return 1
		}
		return 2
	}
	if n := cmp.Compare(never(a), never(b)); n != 0 {
		return n
	}
	if a.Ends != nil && b.Ends != nil {
		return a.Ends.Compare(*b.Ends)
	}
	return 0
}
