package signing

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A readiness says whether something may be signed: because of which signatures, or what is missing.
type readiness struct {
	met     bool
	because []store.Signature
	missing []string
}

// mostMissing bounds what one message lists.
const mostMissing = 3

func (r readiness) shut() error {
	missing := r.missing
	if len(missing) > mostMissing {
		missing = append(slices.Clone(missing[:mostMissing]), fmt.Sprintf("and %d more", len(missing)-mostMissing))
	}
	return fmt.Errorf("%w: %s", ErrShut, strings.Join(missing, "; "))
}

// sets reads what images have.
type sets func(context.Context, api.Image) (store.Set, error)

// ready says whether a job's rule lets this manifest be signed under this reference, with what it
// has: the gate must be met; without one, where uploads are the trigger, there must be one. What
// counts is for exactly this reference, any of our hosts being as good as the first, and by a key that
// is good now.
func (s *Signing) ready(j job, image api.Image, ref reference.Named, set store.Set) (readiness, error) {
	if j.rule.Require == nil && j.trigger != OnUpload {
		return readiness{met: true}, nil
	}
	var uploaded []store.Signature
	for _, sig := range set.Signatures {
		if !sig.Own && s.exact(image, ref, sig.Reference) {
			uploaded = append(uploaded, sig)
		}
	}
	if j.rule.Require == nil {
		return s.standing(j, image, ref, uploaded), nil
	}
	contents := make([]signature.Untrusted, len(uploaded))
	for i, sig := range uploaded {
		contents[i] = signature.Untrusted(sig.Content)
	}
	g := j.rule.Require().Gate(ref, image.Digest, contents, func(claimed string) bool { return s.exact(image, ref, claimed) }, s.c.Clock())
	r := readiness{met: g.Met}
	for _, i := range g.By {
		r.because = append(r.because, uploaded[i])
	}
	for _, what := range g.Missing {
		r.missing = append(r.missing, fmt.Sprintf("for %s: %s", image.Digest, what))
	}
	return r, nil
}

// standing wants one upload that the door would admit now, which has just said so of the job's own.
func (s *Signing) standing(j job, image api.Image, ref reference.Named, uploaded []store.Signature) readiness {
	own := func(sig store.Signature) bool { return sig.Name == j.admitted }
	if i := slices.IndexFunc(uploaded, own); i >= 0 {
		return readiness{met: true, because: uploaded[i : i+1]}
	}
	r := readiness{missing: []string{fmt.Sprintf("nobody has uploaded a signature of %s for %s", ref, image.Digest)}}
	for i, sig := range uploaded {
		err := s.c.Door.Stands(image, sig)
		if err == nil {
			return readiness{met: true, because: uploaded[i : i+1]}
		}
		r.missing = []string{fmt.Sprintf("%s of %s for %s counts no more: %v", sig.Name, ref, image.Digest, err)}
	}
	return r
}

// exact reports whether a claimed reference is this one, but for which of our hosts it names.
func (s *Signing) exact(image api.Image, ref reference.Named, claimed string) bool {
	claim, err := signature.ParseReference(claimed)
	if err != nil || !slices.Contains(s.c.Hosts, reference.Domain(claim)) || reference.Path(claim) != image.Repository {
		return false
	}
	return strings.TrimPrefix(claim.String(), claim.Name()) == strings.TrimPrefix(ref.String(), ref.Name())
}

// readyList says whether the whole list may be signed: every instance may. Nobody need have signed
// the list: podman image sign never does. Without a gate a signature of the list itself is enough,
// since it names its instances; a client that has just pushed the list is about to send one.
func (s *Signing) readyList(ctx context.Context, j job, list digest.Digest, instances []digest.Digest, get sets) (readiness, error) {
	if j.rule.Require == nil && j.trigger != OnUpload {
		return readiness{met: true}, nil
	}
	if j.rule.Require == nil || len(instances) == 0 {
		r, err := s.readyIn(ctx, j, list, get)
		if err != nil || r.met || len(instances) == 0 || j.pushed {
			return r, err
		}
	}
	all := readiness{met: true}
	for _, d := range instances {
		r, err := s.readyIn(ctx, j, d, get)
		if err != nil {
			return readiness{}, err
		}
		all.met = all.met && r.met
		if r.met {
			all.because = append(all.because, r.because...)
		} else {
			all.missing = append(all.missing, r.missing...)
		}
	}
	return all, nil
}

func (s *Signing) readyIn(ctx context.Context, j job, d digest.Digest, get sets) (readiness, error) {
	ref, err := j.as(d)
	if err != nil {
		return readiness{}, err
	}
	set, err := get(ctx, j.at(d))
	if err != nil {
		return readiness{}, err
	}
	return s.ready(j, j.at(d), ref, set)
}
