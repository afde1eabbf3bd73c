package signing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// onResign is what makes the server sign with one key what another has signed. It is in no rule.
const onResign Trigger = "resign"

// What a request to sign again lacks.
var (
	ErrNoKey   = errors.New("no such key")
	ErrNoScope = errors.New("no such scope")
)

// A Resigning says what to sign again: whatever From has signed below Scope, with To. Keys are
// fingerprints, or names of Config.Keys; From may be a key that the server no longer has.
type Resigning struct {
	From, To string
	Scope    string           // of references, as a rule's; "" is everything
	By       admission.Caller // who asked for it
	Look     bool             // only count
}

// A Resigned is what came of one page.
type Resigned struct {
	From, To string // fingerprints
	Signed   int    // by both keys already
	Lacking  int    // by the old one alone; queued unless Look
}

// Resign goes through a page of the store's signatures, and queues what is to be signed again. To do
// it twice is to do it once. Nothing of the old key goes: what nodes accept grows. What the old
// key has vouched for is not judged again; what was withdrawn stays out. Errors: ErrNoKey,
// ErrNoScope, signature.ErrSigner, store.ErrCursor.
func (s *Signing) Resign(ctx context.Context, r Resigning, after store.Cursor) (Resigned, store.Cursor, error) {
	if err := checkScope(s.c.Hosts[0], r.Scope); err != nil {
		return Resigned{}, "", fmt.Errorf("%w: %v", ErrNoScope, err)
	}
	done, to, err := s.resigning(r)
	if err != nil {
		return done, "", err
	}
	filter := store.Filter{Kind: store.Signatures, Host: s.c.Hosts[0], Key: done.From}
	entries, next, err := s.c.Store.List(ctx, filter, after, resignPage)
	if err != nil {
		return done, "", err
	}
	tasks, leads := map[api.Image][]store.Task{}, s.Leading()
	var order []api.Image
	for _, e := range entries {
		if !e.Signature.Own || !within(e.Signature.Reference, r.Scope) {
			continue
		}
		set, err := s.c.Store.Get(ctx, e.Image)
		if err != nil {
			return done, "", err
		}
		j := job{image: e.Image, name: s.claimed(e.Image, e.Signature.Reference), rule: Rule{Key: to}, trigger: onResign, by: r.By, from: done.From}
		if j.name == "" || s.has(set, to, e.Signature.Reference) || s.has(set, to, e.Image.String()) && !leads(ctx, e.Image, e.Signature.Reference) {
			done.Signed++
			continue
		}
		done.Lacking++
		if tasks[e.Image] == nil {
			order = append(order, e.Image)
		}
		key := fmt.Sprintf("%s %s %s %s", KindResign, j.image, j.name, to)
		tasks[e.Image] = append(tasks[e.Image], taskOf(KindResign, key, j, s.c.Clock()))
	}
	if r.Look {
		return done, next, nil
	}
	for _, image := range order {
		if _, err := s.c.Store.Do(ctx, store.Change{Image: image, Then: tasks[image]}); err != nil {
			return done, "", err
		}
	}
	s.nudge()
	return done, next, nil
}

// resignPage is how many signatures one call looks at: queueing each is durable.
const resignPage = 200

// resigning finds both keys.
func (s *Signing) resigning(r Resigning) (done Resigned, to string, err error) {
	names := slices.Sorted(maps.Keys(s.c.Keys))
	named := func(key string) (name, fingerprint string) {
		for _, name := range names {
			fingerprint := s.c.Keys[name].Key().Keys()[0].Fingerprint
			if key == name || strings.EqualFold(key, fingerprint) {
				return name, fingerprint
			}
		}
		return "", ""
	}
	to, done.To = named(r.To)
	if to == "" {
		return done, "", fmt.Errorf("%w: the server does not sign with %.100q. hint: put it into signing.keys; there are %s", ErrNoKey, r.To, strings.Join(names, ", "))
	}
	if _, done.From = named(r.From); done.From == "" {
		done.From = strings.ToUpper(r.From)
		if !isFingerprint(done.From) {
			return done, "", fmt.Errorf("%w: %.100q is neither a name in signing.keys nor a fingerprint of 40 digits", ErrNoKey, r.From)
		}
	}
	if done.From == done.To {
		return done, "", fmt.Errorf("%w: both are %s", ErrNoKey, done.To)
	}
	return done, to, s.c.Keys[to].Key().MaySign(s.c.Clock())
}

func isFingerprint(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789ABCDEF") == ""
}

// within reports whether a reference of ours is below a scope.
func within(ref, scope string) bool {
	named, err := signature.ParseReference(ref)
	return err == nil && (scope == "" || slices.Contains(policy.Scopes(named), scope))
}

// resignTask signs one image again, while it still has the old key's signature. A tag that has left
// the image is not claimed a second time: nodes pull that image by its digest, and as that it is signed.
func (s *Signing) resignTask(ctx context.Context, t store.Task, ends *store.Task) error {
	j, d, err := readTask(t)
	if err != nil {
		return err
	}
	j.rule, j.from = Rule{Key: d.Key}, d.From
	if _, ok := s.c.Keys[d.Key]; !ok {
		return fmt.Errorf("%w says any more which key %s is", ErrNoRule, d.Key)
	}
	set, err := s.c.Store.Get(ctx, j.image)
	if err != nil {
		return err
	}
	old, err := j.reference()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(set.Signatures, func(sig store.Signature) bool {
		return sig.Own && sig.Fingerprint == j.from && sig.Reference == old.String()
	}) {
		return fmt.Errorf("%w: key %s has not signed it any more", errLeft, j.from)
	}
	if most := s.c.Limits.All; most > 0 && len(set.Signatures) >= most {
		return fmt.Errorf("%w: it has %d signatures, and one more would drop one that nodes may need: raise limits.all, or withdraw some", store.ErrFull, len(set.Signatures))
	}
	ref, err := s.stillLeads(ctx, &j, old)
	if err != nil {
		return err
	}
	_, err = s.sign(ctx, j, step{image: j.image, ref: ref, held: true, ends: ends, check: func(context.Context, store.Set) (readiness, error) {
		return readiness{met: true}, nil
	}}, resolved{})
	return err
}

// stillLeads returns the reference to sign now, and makes it the job's.
func (s *Signing) stillLeads(ctx context.Context, j *job, old reference.Named) (reference.Named, error) {
	_, _, err := s.resolve(ctx, *j, resolved{})
	if err == nil {
		return old, nil
	}
	if !errors.Is(err, errLeft) {
		return nil, err
	}
	if _, err := s.c.Registry.Manifest(ctx, j.image.Repository, j.image.Digest.String()); errors.Is(err, registry.ErrUnknown) {
		return nil, fmt.Errorf("%w: %w", errLeft, err)
	} else if err != nil {
		return nil, err
	}
	j.name = j.image.Digest.String()
	return j.reference()
}

// detail is what a task says beside its image.
func (j job) detail() []byte {
	b, _ := json.Marshal(Detail{ // strings always marshal
		Name: j.name, Key: j.rule.Key, Scope: j.rule.Scope, Trigger: j.trigger, Pushed: j.pushed,
		Subject: j.by.Subject, Address: j.by.Address, From: j.from, Instances: j.instances,
	})
	return b
}
