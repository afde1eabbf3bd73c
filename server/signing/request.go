package signing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
)

// A Requested is what came of a request to sign: what there is now, and whether more follows.
type Requested struct {
	Reference reference.Named
	Made      []Made
	Queued    bool // some of it will be signed later: the registry lacks instances, or it takes long
}

// Request signs what a reference of ours leads to, in place, with every key that a rule has for
// requests. Its host counts for nothing: what is signed is for the first of ours. Errors:
// ErrNoRule, ErrShut, store.ErrWithdrawn, and those of registry.Registry.
func (s *Signing) Request(ctx context.Context, named reference.Named, by admission.Caller) (Requested, error) {
	until := time.Now().Add(patience)
	j, m, err := s.requested(ctx, named, by)
	if err != nil {
		return Requested{}, err
	}
	r := Requested{}
	if r.Reference, err = j.reference(); err != nil {
		return r, err
	}
	var refused error
	asked := 0
	for _, j.rule = range s.rules.of(r.Reference) {
		if !j.rule.on(OnRequest) {
			continue
		}
		asked++
		made, queued, err := s.request(ctx, until, j, resolved{j.name, m})
		r.Made, r.Queued = append(r.Made, made...), r.Queued || queued
		refused = errors.Join(refused, err)
	}
	switch {
	case asked == 0:
		return r, fmt.Errorf("%w signs %s on request. hint: a rule of signing.rules with on: [request], or -sign-on push,upload,request", ErrNoRule, r.Reference)
	case len(r.Made) == 0 && !r.Queued:
		return r, refused
	}
	return r, nil
}

// requested asks the registry what a reference is: a tag, a digest, or a tag that must be a digest.
func (s *Signing) requested(ctx context.Context, named reference.Named, by admission.Caller) (job, registry.Manifest, error) {
	j := job{image: api.Image{Host: s.c.Hosts[0], Repository: reference.Path(named)}, trigger: OnRequest, by: by}
	digested, isDigest := named.(reference.Digested)
	if isDigest {
		j.name = digested.Digest().String()
	}
	if tagged, ok := named.(reference.Tagged); ok {
		j.name = tagged.Tag()
	}
	m, err := s.c.Registry.Manifest(ctx, j.image.Repository, j.name)
	if err != nil {
		return j, m, err
	}
	if isDigest && digested.Digest() != m.Digest {
		return j, m, fmt.Errorf("%w: %s is %s now", registry.ErrUnknown, named, m.Digest)
	}
	j.image, err = api.NewImage(j.image.Host, j.image.Repository, m.Digest.String())
	return j, m, err
}

// request does a job for somebody who waits, and queues what is not done when they have waited
// long enough.
func (s *Signing) request(ctx context.Context, until time.Time, j job, known resolved) (made []Made, queued bool, err error) {
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	made, err = s.perform(within, j, known, nil)
	slow := within.Err() != nil && ctx.Err() == nil
	if err != nil && (slow || errors.Is(err, errWaiting)) {
		return made, true, s.queue(ctx, j)
	}
	return made, false, err
}
