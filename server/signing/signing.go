// Package signing says when the server signs: on a push, and on an admitted upload of the same
// reference. It signs a digest only if its registry holds it, and under a tag only if that tag
// resolves to it, or to a list that contains it, at that moment; for a push that is the tag
// being written. The reference is always <our host>/<repository>: never a name from a request.
package signing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A Trigger is what makes the server sign.
type Trigger string

const (
	OnPush   Trigger = "push"   // whatever is pushed
	OnUpload Trigger = "upload" // a reference that has an admitted uploaded signature
)

// A Config is what a Signing signs with, and when.
type Config struct {
	Hosts    []string         // what nodes call this registry; signatures name the first
	Signer   signature.Signer // nil: nothing is signed
	On       []Trigger
	Registry registry.Registry
	Store    store.Store
	Door     *admission.Door
	Limits   store.Limits // All: when an image has so many, those of ours whose tag left it are dropped first
	Clock    func() time.Time
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// A Signing signs what its rules say.
type Signing struct {
	c    Config
	made *prometheus.CounterVec
}

// New returns a Signing.
func New(c Config) (*Signing, error) {
	made := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "countersign_signatures_made_total", Help: "Signatures the server made and stored, by what made it sign.",
	}, []string{"trigger"})
	if err := c.Metrics.Register(made); err != nil {
		return nil, err
	}
	return &Signing{c, made}, nil
}

func (s *Signing) on(t Trigger) bool { return s.c.Signer != nil && slices.Contains(s.c.On, t) }

// Pushed signs what is being pushed, before its tag exists: a list's instances first, then the
// list, all under its tag, because clients look for signatures of the instance they choose
// (protocol.md 1.2). Its error fails the push: a tag that nodes would refuse never appears.
func (s *Signing) Pushed(ctx context.Context, push registry.Push) error {
	if !s.on(OnPush) {
		return nil
	}
	return s.each(ctx, push, func(image api.Image, ref string) error {
		return s.sign(ctx, image, ref, OnPush, resolved{push.Tag, push.Manifest})
	})
}

// Tagged signs what has just been pushed where an admitted upload asked for it: the upload may
// have come before its image. It comes after the tag, as Uploaded comes after the upload, so of
// two that race at least one sees the other.
func (s *Signing) Tagged(ctx context.Context, push registry.Push) error {
	if !s.on(OnUpload) {
		return nil
	}
	return s.each(ctx, push, func(image api.Image, ref string) error {
		set, err := s.c.Store.Get(ctx, image)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(set.Signatures, func(sig store.Signature) bool { return !sig.Own && s.reference(image, sig.Reference) == ref }) {
			return nil
		}
		return s.sign(ctx, image, ref, OnUpload, resolved{push.Tag, push.Manifest})
	})
}

// each calls do with the images of a push and the reference each is signed under.
func (s *Signing) each(ctx context.Context, push registry.Push, do func(image api.Image, ref string) error) error {
	instances, err := push.Manifest.Instances()
	if err != nil {
		return err
	}
	for _, d := range append(instances, push.Manifest.Digest) {
		image := api.Image{Host: s.c.Hosts[0], Repository: push.Repository, Digest: d}
		ref := image.String()
		if push.Tag != "" {
			ref = image.Host + "/" + image.Repository + ":" + push.Tag
		}
		if err := do(image, ref); err != nil {
			return fmt.Errorf("sign %s as %s: %w", d, ref, err)
		}
	}
	return ctx.Err()
}

// Countersign adds to a change that stores an upload the server's own signature of the same
// reference, where a rule says so and the registry holds the image under it.
func (s *Signing) Countersign(ctx context.Context, change *store.Change, before store.Set) error {
	ref, known, err := s.due(ctx, change, before)
	if err != nil || ref == "" {
		return err
	}
	own, err := s.make(ctx, change.Image, ref, OnUpload)
	if err != nil {
		return err
	}
	if before.Stops(own) {
		s.c.Log.Warn("not countersigned: withdrawn", "image", change.Image.String(), "reference", ref)
		return nil
	}
	change.Add = append(change.Add, own)
	change.Drop = append(change.Drop, s.left(ctx, change.Image, before, len(change.Add), known)...)
	change.Record.Reason = "countersigned as " + ref
	return nil
}

// Uploaded counts what Countersign added, or looks once more: the image may have been pushed
// while its signature was being stored.
func (s *Signing) Uploaded(ctx context.Context, change store.Change, after store.Set) error {
	if len(change.Add) > 1 {
		s.made.WithLabelValues(string(OnUpload)).Inc()
		return nil
	}
	ref, known, err := s.due(ctx, &change, after)
	if err != nil || ref == "" {
		return err
	}
	return s.sign(ctx, change.Image, ref, OnUpload, known)
}

// due returns the reference to countersign for an upload, or "" when there is none: no rule,
// not our host, signed already, or not what the registry has under that reference.
func (s *Signing) due(ctx context.Context, change *store.Change, set store.Set) (string, resolved, error) {
	image := change.Image
	if !s.on(OnUpload) || image.Host != s.c.Hosts[0] {
		return "", resolved{}, nil
	}
	ref := s.reference(image, change.Add[0].Reference)
	if ref == "" || s.has(set, ref) {
		return "", resolved{}, nil
	}
	name := strings.TrimPrefix(strings.TrimPrefix(ref, image.Host+"/"+image.Repository), ":")
	if name[0] == '@' {
		name = name[1:]
	}
	m, err := s.c.Registry.Manifest(ctx, image.Repository, name)
	if errors.Is(err, registry.ErrUnknown) || err == nil && !contains(m, image.Digest) {
		return "", resolved{}, nil
	}
	return ref, resolved{name, m}, err
}

// reference returns what the server would sign for a claimed reference: the same under the
// first of our hosts; "" where the claim is of another host, another repository or digest.
func (s *Signing) reference(image api.Image, claimed string) string {
	claim, err := reference.ParseNormalizedNamed(claimed)
	if err != nil || !slices.Contains(s.c.Hosts, reference.Domain(claim)) || reference.Path(claim) != image.Repository {
		return ""
	}
	if tagged, ok := claim.(reference.Tagged); ok {
		return image.Host + "/" + image.Repository + ":" + tagged.Tag()
	}
	return image.String()
}

// has reports whether the image has our signature of this reference.
func (s *Signing) has(set store.Set, ref string) bool {
	return slices.ContainsFunc(set.Signatures, func(sig store.Signature) bool {
		return sig.Own && sig.Reference == ref && s.c.Signer.Key().Has(sig.Fingerprint)
	})
}

// sign stores our signature of one image under one reference, once.
func (s *Signing) sign(ctx context.Context, image api.Image, ref string, trigger Trigger, known resolved) error {
	set, err := s.c.Store.Get(ctx, image)
	if err != nil || s.has(set, ref) {
		return err
	}
	own, err := s.make(ctx, image, ref, trigger)
	if err != nil {
		return err
	}
	_, err = s.c.Store.Do(ctx, store.Change{
		Image: image,
		Add:   []store.Signature{own},
		Drop:  s.left(ctx, image, set, 1, known),
		Record: store.Record{
			Time: own.Added, Action: store.Signed, Subject: "countersign", Image: image, Names: []string{own.Name},
			Fingerprint: own.Fingerprint, Reference: ref, Reason: "on " + string(trigger),
		},
	})
	if errors.Is(err, store.ErrWithdrawn) {
		s.c.Log.Warn("not signed: withdrawn", "image", image.String(), "reference", ref)
		return nil
	}
	if err == nil {
		s.made.WithLabelValues(string(trigger)).Inc()
	}
	return err
}

// make asks the signer, and lets its answer through the door.
func (s *Signing) make(ctx context.Context, image api.Image, ref string, trigger Trigger) (store.Signature, error) {
	claim := signature.Claim{Reference: ref, Digest: image.Digest, Creator: "countersign", Timestamp: s.c.Clock()}
	content, err := s.c.Signer.Sign(ctx, claim)
	if err != nil {
		return store.Signature{}, fmt.Errorf("signer: %w", err)
	}
	own, err := s.c.Door.Own(image, s.c.Signer.Key(), claim, content)
	if err != nil {
		return store.Signature{}, fmt.Errorf("what the signer returned is not used: %v", err)
	}
	own.Origin = string(trigger)
	return own, nil
}

// A resolved is a tag or digest whose manifest is known without asking the registry.
type resolved struct {
	name     string
	manifest registry.Manifest
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
