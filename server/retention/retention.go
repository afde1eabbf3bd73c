// Package retention says what becomes of signatures whose manifest or tag was deleted from the
// registry: they are dropped after a delay, unless it was pushed again meanwhile. Whoever wants
// them kept has no Retention.
package retention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/store"
)

// Kind is that of the tasks in the store's queue.
const Kind = "drop"

// How a push waits for a drop that has begun.
const (
	patience = 10 * time.Second
	between  = 50 * time.Millisecond
)

// A Config is what a Retention needs. All fields are required but After and Hides.
type Config struct {
	Hosts    []string      // what nodes call the registry; images are kept under the first
	After    time.Duration // from the deletion
	Registry registry.Registry
	Hides    bool // that it says of what it hides from this server that there is none, as registries of others do
	Store    store.Store
	Clock    func() time.Time
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// A Retention queues what is deleted, and drops it when it is due.
type Retention struct {
	c    Config
	done *prometheus.CounterVec
}

// New returns a Retention.
func New(c Config) (*Retention, error) {
	done := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "countersign_retention_total", Help: "Images whose manifest or tag was deleted, by what became of their signatures.",
	}, []string{"outcome"})
	if err := c.Metrics.Register(done); err != nil {
		return nil, err
	}
	return &Retention{c, done}, nil
}

// A detail is what a task says beside its image.
type detail struct {
	Tag string `json:"tag,omitempty"` // empty: all signatures of the image
}

func (r *Retention) task(image api.Image, tag string) store.Task {
	key := Kind + " " + image.String()
	if tag != "" {
		key += " " + tag
	}
	encoded, _ := json.Marshal(detail{tag}) // of a string there is no error
	return store.Task{Key: key, Kind: Kind, Image: image, Detail: encoded, Due: r.c.Clock().Add(r.c.After)}
}

// Deleted queues the signatures of a manifest, or those that name a tag of it.
func (r *Retention) Deleted(ctx context.Context, d registry.Delete) error {
	if d.Tag != "" {
		return r.tagDeleted(ctx, d)
	}
	image := api.Image{Host: r.c.Hosts[0], Repository: d.Repository, Digest: d.Digest}
	set, err := r.c.Store.Get(ctx, image)
	if err != nil || len(set.Signatures) == 0 {
		return err
	}
	return r.queue(ctx, image, "")
}

func (r *Retention) queue(ctx context.Context, image api.Image, tag string) error {
	_, err := r.c.Store.Do(ctx, store.Change{Image: image, Then: []store.Task{r.task(image, tag)}})
	return err
}

// tagDeleted looks through the repository: what the tag was, the registry does not know any more.
func (r *Retention) tagDeleted(ctx context.Context, d registry.Delete) error {
	f := store.Filter{Kind: store.Signatures, Host: r.c.Hosts[0], Repository: d.Repository}
	var last api.Image
	for after := store.Cursor(""); ; {
		entries, next, err := r.c.Store.List(ctx, f, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Image == last || !r.names(*e.Signature, d.Repository, d.Tag) {
				continue
			}
			last = e.Image
			if err := r.queue(ctx, e.Image, d.Tag); err != nil {
				return err
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}

// names says whether a signature is of this tag, under any name of the registry.
func (r *Retention) names(sig store.Signature, repository, tag string) bool {
	claim, err := reference.ParseNormalizedNamed(sig.Reference)
	if err != nil || !slices.Contains(r.c.Hosts, reference.Domain(claim)) || reference.Path(claim) != repository {
		return false
	}
	tagged, ok := claim.(reference.Tagged)
	return ok && tagged.Tag() == tag
}

// Pushed cancels what is queued of an image that is back, and of a list's instances.
func (r *Retention) Pushed(ctx context.Context, p registry.Push) error {
	instances, err := p.Manifest.Instances()
	if err != nil {
		return nil // it cannot be signed either
	}
	for _, d := range append(instances, p.Manifest.Digest) {
		if err := r.cancel(ctx, p, d); err != nil {
			return err
		}
	}
	return nil
}

func (r *Retention) cancel(ctx context.Context, p registry.Push, d digest.Digest) error {
	image := api.Image{Host: r.c.Hosts[0], Repository: p.Repository, Digest: d}
	tags := []string{""}
	if p.Tag != "" {
		tags = append(tags, p.Tag)
	}
	for _, tag := range tags {
		err := r.end(ctx, image, r.task(image, tag).Key)
		if errors.Is(err, store.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		r.done.WithLabelValues("cancelled").Inc()
	}
	return nil
}

// end ends a task. One that is being done is waited for: it may have asked the registry before this push,
// which must not rely on what is dropped then. Errors: store.ErrGone, store.ErrUnavailable.
func (r *Retention) end(ctx context.Context, image api.Image, key string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(between)
	defer again.Stop()
	for {
		_, err := r.c.Store.Do(ctx, store.Change{Image: image, Ends: &store.Task{Key: key, State: store.Done}})
		if !errors.Is(err, store.ErrLease) || errors.Is(err, store.ErrGone) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: task %s is being done all the time. hint: push again", store.ErrUnavailable, key)
		}
	}
}

// Keep ends a task and drops nothing.
func (r *Retention) Keep(ctx context.Context, t store.Task, ends *store.Task) error {
	_, err := r.c.Store.Do(ctx, store.Change{Image: t.Image, Ends: ends})
	return err
}

// Drop does a task, and ends it with ends. It asks the registry first: whatever has been pushed
// again stays.
func (r *Retention) Drop(ctx context.Context, t store.Task, ends *store.Task) error {
	var d detail
	if err := json.Unmarshal(t.Detail, &d); err != nil {
		return fmt.Errorf("the task does not read: %w", err)
	}
	set, err := r.c.Store.Get(ctx, t.Image)
	if err != nil {
		return err
	}
	there, err := r.there(ctx, t.Image, d.Tag)
	if err != nil {
		return err
	}
	c := store.Change{Image: t.Image, Ends: ends}
	outcome := "cancelled"
	if !there {
		outcome = "dropped"
		c.If = set.Version // what is pushed now is signed, and changes it
		c.Drop = r.dropped(set, t.Image, d.Tag)
		c.Record = store.Record{Time: r.c.Clock(), Action: store.Dropped, Subject: "countersign", Image: t.Image, Reason: reason(t, d.Tag)}
	}
	if len(c.Drop) == 0 {
		c.Record = store.Record{}
	}
	if _, err := r.c.Store.Do(ctx, c); err != nil {
		return err
	}
	r.done.WithLabelValues(outcome).Inc()
	r.c.Log.Info("retention", "image", t.Image.String(), "tag", d.Tag, "outcome", outcome, "signatures", len(c.Drop))
	return nil
}

func reason(t store.Task, tag string) string {
	what := "the manifest"
	if tag != "" {
		what = "tag " + tag
	}
	return fmt.Sprintf("%s was deleted from the registry on %s", what, t.Queued.UTC().Format(time.DateOnly))
}

// there says whether the registry has the manifest, or the tag leads to it or to a list of it.
func (r *Retention) there(ctx context.Context, image api.Image, tag string) (bool, error) {
	name := tag
	if name == "" {
		name = string(image.Digest)
	}
	m, err := r.c.Registry.Manifest(ctx, image.Repository, name)
	if errors.Is(err, registry.ErrUnknown) {
		return false, r.shown(ctx, image)
	}
	return err == nil && contains(m, image.Digest), err
}

// shown is an error unless the registry shows something of the repository: many answer for what they
// hide as for what they do not have. Errors: registry.ErrUnavailable.
func (r *Retention) shown(ctx context.Context, image api.Image) error {
	if !r.c.Hides {
		return nil
	}
	_, err := r.c.Registry.Manifest(ctx, image.Repository, string(image.Digest))
	if errors.Is(err, registry.ErrUnknown) {
		_, _, err = r.c.Registry.Tags(ctx, image.Repository, "")
	}
	if errors.Is(err, registry.ErrUnknown) {
		return fmt.Errorf("the registry shows nothing of the repository %s: that is gone, or hidden from this server. Its signatures stay. hint: give the server credentials to read there (registry.authFile) and countersign queue retry, or countersign queue drop to let them be",
			image.Repository)
	}
	return err
}

func contains(m registry.Manifest, d digest.Digest) bool {
	if m.Digest == d {
		return true
	}
	instances, err := m.Instances()
	return err == nil && slices.Contains(instances, d)
}

func (r *Retention) dropped(set store.Set, image api.Image, tag string) (names []string) {
	for _, sig := range set.Signatures {
		if tag == "" || r.names(sig, image.Repository, tag) {
			names = append(names, sig.Name)
		}
	}
	return names
}
