// Package signing says when the server signs: rules, gates, and the worker that finishes what was
// queued. It signs a digest only if its registry holds it, and under a tag only if that tag
// resolves to it, or to a list that contains it, at that moment; for a push that is the tag
// being written. The reference is always <our host>/<repository>: never a name from a request.
package signing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/prometheus/client_golang/prometheus"
)

// patience is how long a push, an upload or a request waits for its signatures. Then it is answered,
// and the queue finishes. Of a push's, last is kept for what comes after its tag.
const (
	patience = 10 * time.Second
	last     = 2 * time.Second
)

// A Config is what a Signing signs with, and when.
type Config struct {
	Hosts    []string                    // what nodes call this registry; signatures name the first
	Keys     map[string]signature.Signer // by the name that rules have for them; those no rule names sign nothing. Each bounds itself
	Rules    []Rule
	Registry registry.Registry
	Store    store.Store
	Door     *admission.Door
	Limits   store.Limits // All: when an image has so many, those of ours whose tag left it are dropped first
	Clock    func() time.Time
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Others do tasks of other kinds, each ending its task with ends, which a nil error says it has.
	Others map[string]func(ctx context.Context, t store.Task, ends *store.Task) error
}

// own is the public part of all keys.
func (c Config) own() *signature.Keyring {
	var rings []*signature.Keyring
	for _, k := range c.Keys {
		rings = append(rings, k.Key())
	}
	return signature.Join(rings...)
}

// A Signing signs what its rules say.
type Signing struct {
	c       Config
	rules   rules
	metrics *metrics
	wake    chan struct{} // something is due
	unread  outage
}

// New returns a Signing. What is queued is finished while Run runs.
func New(c Config) (*Signing, error) {
	all, err := newRules(c)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics, c.Store)
	if err != nil {
		return nil, err
	}
	return &Signing{c: c, rules: all, metrics: m, wake: make(chan struct{}, 1)}, nil
}

// Pushed signs what is being pushed, before its tag exists: a list's instances first, then the
// list, all under its tag, because clients look for signatures of the instance they choose
// (protocol.md 1.2). Its error fails the push: a tag that nodes would refuse never appears. What
// takes too long is queued.
func (s *Signing) Pushed(ctx context.Context, push registry.Push) error {
	return s.pushed(ctx, push, patience-last, func(Rule, Trigger) bool { return true })
}

// Tagged looks once more at what depends on others' signatures: they may have come before their
// image. It comes after the tag, as Uploaded comes after the upload, so of two that race at least
// one sees the other. It looks again at what supersede may have dropped before the tag came back, too.
func (s *Signing) Tagged(ctx context.Context, push registry.Push) error {
	err := s.pushed(ctx, push, last, func(r Rule, t Trigger) bool { return r.Require != nil || t == OnUpload || r.Supersede > 0 })
	return errors.Join(err, s.supersede(ctx, push))
}

func (s *Signing) pushed(ctx context.Context, push registry.Push, patience time.Duration, wanted func(Rule, Trigger) bool) error {
	until := time.Now().Add(patience)
	j := job{image: api.Image{Host: s.c.Hosts[0], Repository: push.Repository, Digest: push.Manifest.Digest}, name: push.Tag, pushed: true}
	if j.name == "" {
		j.name = push.Manifest.Digest.String()
	}
	ref, err := j.reference()
	if err != nil {
		return err
	}
	for _, j.rule = range s.rules.of(ref) {
		switch {
		case j.rule.on(OnPush):
			j.trigger = OnPush
		case j.rule.on(OnUpload):
			j.trigger = OnUpload
		default:
			continue
		}
		if !wanted(j.rule, j.trigger) {
			continue
		}
		if _, err := s.now(ctx, until, j, resolved{j.name, push.Manifest}, nil); err != nil {
			return fmt.Errorf("sign %s as %s: %w", push.Manifest.Digest, ref, err)
		}
	}
	return ctx.Err()
}

// Awaits says whether a rule waits for the upload that a change stores.
func (s *Signing) Awaits(change store.Change) bool {
	return len(s.uploads(change)) > 0
}

// Uploading adds to a change that stores an upload what is to be signed because of it. What the image has
// is asked of current, where a rule depends on it.
func (s *Signing) Uploading(ctx context.Context, change *store.Change, current func(context.Context, api.Image) (store.Set, error)) error {
	jobs := s.uploads(*change)
	if len(jobs) == 0 {
		return nil
	}
	before, err := current(ctx, change.Image)
	if err != nil {
		return err
	}
	with := before
	with.Signatures = append(slices.Clone(before.Signatures), change.Add...)
	sets := func(ctx context.Context, image api.Image) (store.Set, error) {
		if image == change.Image {
			return with, nil
		}
		return s.c.Store.Get(ctx, image)
	}
	for _, j := range jobs {
		due, err := s.due(ctx, j, with, sets)
		if err != nil {
			return err
		}
		if due {
			change.Then = append(change.Then, j.task(s.c.Clock().Add(patience)))
		}
	}
	return nil
}

// Uploaded signs what Uploading has queued, and looks once more: what it waited for may have come
// while the upload was being stored. The upload is in order whatever becomes of that.
func (s *Signing) Uploaded(ctx context.Context, change store.Change) error {
	until := time.Now().Add(patience)
	for _, j := range s.uploads(change) {
		if !slices.ContainsFunc(change.Then, func(t store.Task) bool { return t.Key == j.key() }) {
			due, err := s.queueDue(ctx, j)
			if err != nil {
				return err
			}
			if !due {
				continue
			}
		}
		if _, err := s.now(ctx, until, j, resolved{}, &store.Task{Key: j.key(), State: store.Done}); err != nil {
			return fmt.Errorf("sign %s: %w", change.Image, err)
		}
	}
	return nil
}

// queueDue queues a job that is due, and reports whether it was.
func (s *Signing) queueDue(ctx context.Context, j job) (bool, error) {
	set, err := s.c.Store.Get(ctx, j.image)
	if err != nil {
		return false, err
	}
	due, err := s.due(ctx, j, set, s.c.Store.Get)
	if err != nil || !due {
		return false, err
	}
	_, err = s.c.Store.Do(ctx, store.Change{Image: j.image, Then: []store.Task{j.task(s.c.Clock().Add(patience))}})
	return true, err
}

// uploads are the jobs that the upload which a change stores could be what was missing for.
func (s *Signing) uploads(change store.Change) (jobs []job) {
	if !s.rules.on(OnUpload) {
		return nil
	}
	image, upload := change.Image, change.Add[0]
	name := s.claimed(image, upload.Reference)
	if image.Host != s.c.Hosts[0] || name == "" {
		return nil
	}
	j := job{image: image, name: name, trigger: OnUpload, admitted: upload.Name}
	ref, err := j.reference()
	if err != nil {
		return nil
	}
	for _, j.rule = range s.rules.of(ref) {
		if j.rule.on(OnUpload) {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// due reports whether a job could be done now, as far as the store knows; a registry that is away
// is asked again by the queue.
func (s *Signing) due(ctx context.Context, j job, set store.Set, sets sets) (bool, error) {
	ref, err := j.reference()
	if err != nil {
		return false, err
	}
	if r, err := s.ready(j, j.image, ref, set); err != nil || !r.met {
		return false, err
	}
	m, instances, err := s.resolve(ctx, j, resolved{})
	switch {
	case errors.Is(err, registry.ErrUnavailable):
		return true, nil
	case errors.Is(err, errLeft) || errors.Is(err, registry.ErrInvalid):
		return false, nil
	case err != nil:
		return false, err
	}
	list, err := s.readyList(ctx, j, m.Digest, instances, sets)
	if err != nil || j.rule.Require != nil && !list.met {
		return false, err
	}
	signed := s.has(set, j.rule.Key, ref.String())
	if signed && list.met && m.Digest != j.image.Digest {
		above, err := sets(ctx, j.at(m.Digest))
		return err == nil && !s.has(above, j.rule.Key, ref.String()), err
	}
	return !signed, nil
}

// now does a job while somebody waits for it; what is not done until then is queued. What is not to
// be signed is no error. ends is the job's own task, if it is queued.
func (s *Signing) now(ctx context.Context, until time.Time, j job, known resolved, ends *store.Task) ([]Made, error) {
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	made, err := s.perform(within, j, known, ends)
	slow := within.Err() != nil && ctx.Err() == nil
	switch {
	case err == nil:
		return made, nil
	case errors.Is(err, errLeft), errors.Is(err, ErrShut):
		return made, nil
	case errors.Is(err, store.ErrWithdrawn):
		s.c.Log.Warn("not signed: withdrawn", "image", j.image.String(), "reference", j.name, "rule", j.rule.String())
		return made, nil
	case ends != nil:
		s.c.Log.Warn("the queue will sign", "image", j.image.String(), "reference", j.name, "cause", err)
		return made, nil
	case errors.Is(err, registry.ErrInvalid):
		return made, err
	}
	s.c.Log.Warn("queued, to be signed", "image", j.image.String(), "reference", j.name, "cause", err)
	if queueErr := s.queue(ctx, j); queueErr != nil {
		return made, errors.Join(err, queueErr)
	}
	if slow || errors.Is(err, errWaiting) {
		return made, nil
	}
	return made, err
}

// claimed returns the tag, or the digest, that a claimed reference says of an image; "" where the
// claim is of another host than ours, another repository or digest.
func (s *Signing) claimed(image api.Image, claimed string) string {
	claim, err := reference.ParseNormalizedNamed(claimed)
	if err != nil || !slices.Contains(s.c.Hosts, reference.Domain(claim)) || reference.Path(claim) != image.Repository {
		return ""
	}
	if tagged, ok := claim.(reference.Tagged); ok {
		return tagged.Tag()
	}
	return image.Digest.String()
}

// has reports whether the image has a key's signature of this reference.
func (s *Signing) has(set store.Set, key, ref string) bool { return s.find(set, key, ref) >= 0 }

func (s *Signing) find(set store.Set, key, ref string) int {
	return slices.IndexFunc(set.Signatures, func(sig store.Signature) bool {
		return sig.Own && sig.Reference == ref && s.c.Keys[key].Key().Has(sig.Fingerprint)
	})
}
