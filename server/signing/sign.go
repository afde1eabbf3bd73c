package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// contended is how often a signature is made anew because what the image has changed meanwhile.
const contended = 20

// sign stores the server's signature of one manifest under one reference, once. Where that depends
// on others' signatures it is stored only while the image still has exactly those that were looked at.
func (s *Signing) sign(ctx context.Context, j job, st step, known resolved) (Made, error) {
	var own store.Signature
	for range contended {
		set, err := s.c.Store.Get(ctx, st.image)
		if err != nil {
			return Made{}, err
		}
		if i := s.find(set, j.rule.Key, st.ref.String()); i >= 0 {
			return Made{st.image, set.Signatures[i], false}, s.end(ctx, st)
		}
		r, err := st.check(ctx, set)
		if err != nil {
			return Made{}, err
		}
		if !r.met {
			return Made{}, r.shut()
		}
		if !st.held {
			if _, err := s.c.Registry.Manifest(ctx, st.image.Repository, st.image.Digest.String()); err != nil {
				return Made{}, err
			}
			st.held = true
		}
		if own.Content == nil {
			if own, err = s.make(ctx, j, st); err != nil {
				return Made{}, err
			}
		}
		_, err = s.c.Store.Do(ctx, s.change(ctx, j, st, known, set, own, r))
		switch {
		case err == nil:
			s.metrics.made.WithLabelValues(string(j.trigger)).Inc()
			return Made{st.image, own, true}, nil
		case errors.Is(err, store.ErrChanged):
			continue
		case errors.Is(err, store.ErrLease) && st.ends.Lease == "":
			// Whoever has the task, or had it, may have found the gate shut: what is there now decides.
			if err := s.queue(ctx, j); err != nil {
				return Made{}, err
			}
			st.ends = nil
			continue
		case errors.Is(err, store.ErrLease):
			return s.other(ctx, j, st)
		}
		return Made{}, err
	}
	return Made{}, fmt.Errorf("%s changes all the time", st.image)
}

// other returns the signature of whoever ended the task meanwhile.
func (s *Signing) other(ctx context.Context, j job, st step) (Made, error) {
	set, err := s.c.Store.Get(ctx, st.image)
	if err != nil {
		return Made{}, err
	}
	if i := s.find(set, j.rule.Key, st.ref.String()); i >= 0 {
		return Made{st.image, set.Signatures[i], false}, nil
	}
	return Made{}, errElsewhere
}

// end finishes the task of what is signed already.
func (s *Signing) end(ctx context.Context, st step) error {
	if st.ends == nil {
		return nil
	}
	_, err := s.c.Store.Do(ctx, store.Change{Image: st.image, Ends: st.ends})
	if errors.Is(err, store.ErrLease) {
		return nil // somebody else has
	}
	return err
}

// change stores a signature, with a record of why it was made.
func (s *Signing) change(ctx context.Context, j job, st step, known resolved, set store.Set, own store.Signature, r readiness) store.Change {
	c := store.Change{
		Image: st.image,
		Add:   []store.Signature{own},
		Drop:  s.left(ctx, st.image, set, 1, known),
		Ends:  st.ends,
		Record: store.Record{
			Time: own.Added, Action: store.Signed, Subject: subject, Image: st.image, Names: []string{own.Name},
			Fingerprint: own.Fingerprint, Reference: own.Reference, Reason: because(j, r),
		},
	}
	if j.by.Subject != "" {
		c.Record.Subject, c.Record.Address = j.by.Subject, j.by.Address
	}
	if len(r.because) > 0 {
		c.If = set.Version
	}
	return c
}

// subject is who the server is in the audit trail.
const subject = "countersign"

// mostNamed bounds the signatures that one record names; the instances of a list have records of
// their own.
const mostNamed = 16

// because is the reason in a record: trigger, rule, and the signatures that led to it.
func because(j job, r readiness) string {
	if j.from != "" {
		return fmt.Sprintf("with key %s, as key %s has before", j.rule.Key, j.from)
	}
	reason := fmt.Sprintf("on %s, by %s", j.trigger, j.rule)
	if len(r.because) == 0 {
		return reason
	}
	var names []string
	for _, sig := range r.because[:min(len(r.because), mostNamed)] {
		names = append(names, sig.Name+" by "+sig.Fingerprint)
	}
	if more := len(r.because) - mostNamed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return reason + ", because of " + strings.Join(names, ", ")
}

// make asks the signer, and lets its answer through the door.
func (s *Signing) make(ctx context.Context, j job, st step) (store.Signature, error) {
	signer := s.c.Keys[j.rule.Key]
	claim := signature.Claim{Reference: st.ref.String(), Digest: st.image.Digest, Creator: subject, Timestamp: s.c.Clock()}
	content, err := signer.Sign(ctx, claim)
	if err != nil {
		return store.Signature{}, fmt.Errorf("signer %s: %w", j.rule.Key, err)
	}
	own, err := s.c.Door.Own(st.image, signer.Key(), claim, content)
	if err != nil {
		return store.Signature{}, fmt.Errorf("what signer %s returned is not used: %v", j.rule.Key, err)
	}
	own.Origin = string(j.trigger)
	return own, nil
}

// left returns those of our signatures whose tag no longer leads to the image, oldest first,
// as many as must go so that the image stays within its limit; the store drops the oldest of
// the rest. A tag that cannot be looked up is taken as still there.
func (s *Signing) left(ctx context.Context, image api.Image, set store.Set, adding int, known resolved) []string {
	excess := len(set.Signatures) + adding - s.c.Limits.All
	var names []string
	for _, sig := range set.Signatures {
		if s.c.Limits.All == 0 || len(names) >= excess {
			break
		}
		tag, tagged := strings.CutPrefix(sig.Reference, image.Host+"/"+image.Repository+":")
		if !sig.Own || !tagged {
			continue
		}
		m, err := known.manifest, error(nil)
		if tag != known.name {
			m, err = s.c.Registry.Manifest(ctx, image.Repository, tag)
		}
		if errors.Is(err, registry.ErrUnknown) || err == nil && !contains(m, image.Digest) {
			names = append(names, sig.Name)
		}
	}
	return names
}

// contains reports whether a manifest is the one of this digest, or a list that contains it.
func contains(m registry.Manifest, d digest.Digest) bool {
	if m.Digest == d {
		return true
	}
	instances, err := m.Instances()
	return err == nil && slices.Contains(instances, d)
}
