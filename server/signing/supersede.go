package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/store"
)

// supersede queues a look at what a pushed tag has left. Nobody knows what it was before: the look
// finds it by the server's signatures.
func (s *Signing) supersede(ctx context.Context, push registry.Push) error {
	if push.Tag == "" {
		return nil
	}
	j := job{image: api.Image{Host: s.c.Hosts[0], Repository: push.Repository, Digest: push.Manifest.Digest}, name: push.Tag}
	j.instances, _ = push.Manifest.Instances() // what is no list that can be signed has none
	ref, err := j.reference()
	if err != nil {
		return err
	}
	for _, j.rule = range s.rules.of(ref) {
		if j.rule.Supersede == 0 {
			continue
		}
		// Each push has a look of its own: the tag may come back to an image, and the delay begins again.
		now := s.c.Clock()
		key := fmt.Sprintf("%s %s %s %s %d", KindSupersede, j.image, j.name, j.rule.Key, now.UnixNano())
		look := taskOf(KindSupersede, key, j, now.Add(j.rule.Supersede))
		look.Queued = now
		_, err := s.c.Store.Do(ctx, store.Change{Image: j.image, Then: []store.Task{look}})
		if err != nil {
			return err
		}
	}
	return nil
}

// supersedeTask drops what the rule's key has signed under a tag and the tag has left. What a later
// push has brought, and left since, is that push's own to look at.
func (s *Signing) supersedeTask(ctx context.Context, t store.Task, ends *store.Task) error {
	j, err := s.supersedeOf(t)
	if err != nil {
		return err
	}
	ref, err := j.reference()
	if err != nil {
		return err
	}
	keep, err := s.kept(ctx, j, t.Queued)
	if err != nil {
		return err
	}
	filter := store.Filter{Kind: store.Signatures, Host: j.image.Host, Repository: j.image.Repository}
	for after := store.Cursor(""); ; {
		var entries []store.Entry
		if entries, after, err = s.c.Store.List(ctx, filter, after, 1000); err != nil {
			return err
		}
		for _, e := range entries {
			sig := e.Signature
			if !sig.Own || sig.Reference != ref.String() || !s.c.Keys[j.rule.Key].Key().Has(sig.Fingerprint) || slices.Contains(keep, e.Image.Digest) {
				continue
			}
			if err := s.drop(ctx, e.Image, *sig, j); err != nil {
				return err
			}
		}
		if after == "" {
			break
		}
	}
	_, err = s.c.Store.Do(ctx, store.Change{Image: t.Image, Ends: ends})
	return err
}

// supersedeOf reads a task whose rule may have changed: its delay is not what counts.
func (s *Signing) supersedeOf(t store.Task) (job, error) {
	j, d, err := readTask(t)
	if err != nil {
		return j, err
	}
	ref, err := j.reference()
	if err != nil {
		return j, err
	}
	for _, j.rule = range s.rules.of(ref) {
		if j.rule.Key == d.Key && j.rule.Supersede > 0 {
			return j, nil
		}
	}
	return j, fmt.Errorf("%w says any more that signatures of %s with key %s are superseded", ErrNoRule, ref, d.Key)
}

// kept are the manifests that keep their signature: what the tag is now, and what this push has
// brought and later ones whose look is still to come; instances included. Earlier pushes' looks do
// not count: several may be due at once, and then each would wait for the others. What they have
// brought is in the tasks: a tag may be pushed often, and the registry is asked for it alone. It is
// asked first: what is pushed meanwhile is then among the tasks.
func (s *Signing) kept(ctx context.Context, j job, pushed time.Time) (keep []digest.Digest, err error) {
	keep = append(j.instances, j.image.Digest)
	m, err := s.c.Registry.Manifest(ctx, j.image.Repository, j.name)
	switch {
	case err == nil:
		instances, _ := m.Instances() // as in supersede
		keep = append(append(keep, m.Digest), instances...)
	case !errors.Is(err, registry.ErrUnknown): // then the tag is gone
		return nil, err
	}
	filter := store.Filter{Kind: store.Tasks, Host: j.image.Host, Repository: j.image.Repository}
	for after := store.Cursor(""); ; {
		var entries []store.Entry
		if entries, after, err = s.c.Store.List(ctx, filter, after, 1000); err != nil {
			return nil, err
		}
		for _, e := range entries {
			other, d, err := readTask(*e.Task)
			if e.Task.Kind == KindSupersede && err == nil && other.name == j.name && d.Key == j.rule.Key && !e.Task.Queued.Before(pushed) {
				keep = append(append(keep, e.Image.Digest), d.Instances...)
			}
		}
		if after == "" {
			return keep, nil
		}
	}
}

// drop looks whether the tag is still elsewhere when the signature is gone, and not before: a push
// that brings it back may find the signature there until then. One that finds it gone has made another.
func (s *Signing) drop(ctx context.Context, image api.Image, sig store.Signature, j job) error {
	now := s.c.Clock()
	back := job{image: image, name: j.name, rule: j.rule, trigger: Trigger(sig.Origin)}
	if !j.rule.on(back.trigger) {
		back.trigger = j.rule.On[0]
	}
	key := fmt.Sprintf("%s %s %s %s %d", KindRestore, image, j.name, j.rule.Key, now.UnixNano())
	_, err := s.c.Store.Do(ctx, store.Change{Image: image, Drop: []string{sig.Name}, Then: []store.Task{taskOf(KindRestore, key, back, now)}, Record: store.Record{
		Time: now, Action: store.Dropped, Subject: subject, Image: image, Names: []string{sig.Name},
		Fingerprint: sig.Fingerprint, Reference: sig.Reference,
		Reason: fmt.Sprintf("superseded by %s: the tag has left it for %s or longer", j.rule, j.rule.Supersede.Round(time.Second)),
	}})
	if err == nil {
		s.nudge()
	}
	return err
}

// restoreTask signs again what was dropped, if the tag has come back to it.
func (s *Signing) restoreTask(ctx context.Context, t store.Task, ends *store.Task) error {
	j, _, err := readTask(t)
	if err != nil {
		return err
	}
	_, _, err = s.resolve(ctx, j, resolved{})
	if errors.Is(err, errLeft) || errors.Is(err, registry.ErrInvalid) {
		_, err = s.c.Store.Do(ctx, store.Change{Image: t.Image, Ends: ends})
		return err
	}
	if err != nil {
		return err
	}
	return s.signTask(ctx, t, ends)
}
