package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/store"
)

// What keeps a job from being done. ErrShut and ErrNoRule are told to whoever asked.
var (
	ErrNoRule    = errors.New("no signing rule")
	ErrShut      = errors.New("the gate is shut")
	errLeft      = errors.New("the reference does not lead to it")
	errWaiting   = errors.New("the registry lacks instances of the list")
	errElsewhere = errors.New("somebody else is at it")
)

// A job is one manifest to be signed under one reference by one rule: an image; an instance of the
// list that the reference leads to; or a list, and its instances first.
type job struct {
	rule    Rule
	trigger Trigger
	image   api.Image
	name    string           // what the registry is asked for: a tag, or a digest
	pushed  bool             // by a push, and not by what came later
	by      admission.Caller // who asked for it; empty: nobody, it was pushed or uploaded
	from    string           // the key whose signature is made again; "" but with onResign
	// admitted is the name of the upload that the door has just let in; "" where none is at hand
	admitted string
	// instances are, of a look at what a tag has left, those of the list that was pushed
	instances []digest.Digest
}

// reference is what the claim says: of ours, never of a request's.
func (j job) reference() (reference.Named, error) { return j.as(j.image.Digest) }

// as is the reference of a manifest that the job signs: without a tag everybody has their own.
func (j job) as(d digest.Digest) (reference.Named, error) {
	named, err := reference.WithName(j.image.Host + "/" + j.image.Repository)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", api.ErrName, err)
	}
	if strings.Contains(j.name, ":") {
		return reference.WithDigest(named, d)
	}
	return reference.WithTag(named, j.name)
}

// at is the image of another manifest in the same repository.
func (j job) at(d digest.Digest) api.Image {
	return api.Image{Host: j.image.Host, Repository: j.image.Repository, Digest: d}
}

// A resolved is a tag or digest whose manifest is known without asking the registry.
type resolved struct {
	name     string
	manifest registry.Manifest
}

// resolve asks the registry what the job's reference leads to: its manifest, or a list of it.
func (s *Signing) resolve(ctx context.Context, j job, known resolved) (registry.Manifest, []digest.Digest, error) {
	m, err := known.manifest, error(nil)
	if known.name != j.name {
		m, err = s.c.Registry.Manifest(ctx, j.image.Repository, j.name)
	}
	if errors.Is(err, registry.ErrUnknown) {
		return m, nil, fmt.Errorf("%w: %w", errLeft, err)
	}
	if err != nil {
		return m, nil, err
	}
	instances, err := m.Instances()
	if err != nil {
		return m, nil, err
	}
	if m.Digest != j.image.Digest && !slices.Contains(instances, j.image.Digest) {
		return m, nil, fmt.Errorf("%w: %s:%s is %s", errLeft, j.image.Repository, j.name, m.Digest)
	}
	return m, instances, nil
}

// A step signs one manifest.
type step struct {
	image api.Image
	ref   reference.Named
	held  bool        // the registry was asked already
	ends  *store.Task // finished by the same change
	// check says again whether it may be signed, with what the image has now.
	check func(ctx context.Context, set store.Set) (readiness, error)
}

// A Made is a signature that the server has for what it was asked.
type Made struct {
	Image     api.Image
	Signature store.Signature
	New       bool // made just now
}

// perform does a job. Everything that it depends on is looked at now. ends is finished together
// with the last signature.
func (s *Signing) perform(ctx context.Context, j job, known resolved, ends *store.Task) ([]Made, error) {
	m, instances, err := s.resolve(ctx, j, known)
	if err != nil {
		return nil, err
	}
	steps, err := s.plan(ctx, j, m, instances)
	if err != nil {
		return nil, err
	}
	var made []Made
	var missing []string
	var stopped error
	for i, st := range steps {
		if i == len(steps)-1 {
			if len(missing) > 0 {
				break
			}
			st.ends = ends
		}
		one, err := s.sign(ctx, j, st, resolved{j.name, m})
		switch {
		case err == nil:
			made = append(made, one)
		case errors.Is(err, registry.ErrUnknown):
			missing = append(missing, st.image.Digest.String())
		case errors.Is(err, store.ErrWithdrawn):
			stopped = err // a person decided about this one, and not about the others
		default:
			return made, err
		}
	}
	if len(missing) > 0 {
		return made, fmt.Errorf("%w: %s", errWaiting, strings.Join(missing, ", "))
	}
	return made, stopped
}

// plan says what a job signs, in its order.
func (s *Signing) plan(ctx context.Context, j job, m registry.Manifest, instances []digest.Digest) ([]step, error) {
	whole := func(ctx context.Context, _ store.Set) (readiness, error) {
		return s.readyList(ctx, j, m.Digest, instances, s.c.Store.Get)
	}
	alone, err := s.step(j, j.image.Digest, m.Digest == j.image.Digest)
	if err != nil || len(instances) == 0 {
		return []step{alone}, err
	}
	list, err := whole(ctx, store.Set{})
	switch {
	case err != nil:
		return nil, err
	case !list.met && j.rule.Require != nil:
		return nil, list.shut()
	case !list.met && m.Digest != j.image.Digest:
		return []step{alone}, nil // of the whole list nobody has said anything
	case !list.met:
		return s.planEach(ctx, j, instances, list)
	}
	var steps []step
	for _, d := range instances {
		st, err := s.step(j, d, false)
		if err != nil {
			return nil, err
		}
		if j.rule.Require == nil {
			st.check = func(context.Context, store.Set) (readiness, error) { return list, nil }
		}
		if _, ok := s.rules.find(st.ref, j.rule.Key, j.trigger); ok || j.trigger == OnUpload && s.ruled(st.ref, j.rule) {
			steps = append(steps, st)
		}
	}
	st, err := s.step(j, m.Digest, true)
	st.check = whole
	return append(steps, st), err
}

// planEach signs those instances that somebody has signed, where nobody has signed the list.
func (s *Signing) planEach(ctx context.Context, j job, instances []digest.Digest, list readiness) ([]step, error) {
	var steps []step
	for _, d := range instances {
		r, err := s.readyIn(ctx, j, d, s.c.Store.Get)
		if err != nil {
			return nil, err
		}
		if !r.met {
			continue
		}
		st, err := s.step(j, d, false)
		if err != nil {
			return nil, err
		}
		steps = append(steps, st)
	}
	if len(steps) == 0 {
		return nil, list.shut()
	}
	return steps, nil
}

// ruled reports whether the rule is one of a reference's: by digest an instance has its own, which
// a more precise scope may keep for other keys.
func (s *Signing) ruled(ref reference.Named, r Rule) bool {
	return slices.ContainsFunc(s.rules.of(ref), func(other Rule) bool { return other.Key == r.Key && other.Scope == r.Scope })
}

func (s *Signing) step(j job, d digest.Digest, held bool) (step, error) {
	ref, err := j.as(d)
	image := j.at(d)
	return step{image: image, ref: ref, held: held, check: func(_ context.Context, set store.Set) (readiness, error) {
		return s.ready(j, image, ref, set)
	}}, err
}
