package calendar

import (
	"context"
	"hash/maphash"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A tally counts what keys have signed.
type tally struct {
	lasts  map[string]time.Time // how long a key verifies, by its fingerprint
	signed map[string]refs      // by fingerprint
	alone  map[string]refs      // those of them that no other key has signed which lasts longer
	leads  func(ctx context.Context, image api.Image, ref string) bool
	seed   maphash.Seed
}

// A refs is a set of references, by their hashes: there may be millions.
type refs map[uint64]struct{}

// forever is when keys end that never do.
var forever = time.Unix(1<<40, 0)

func newTally(ring *signature.Keyring, spent map[string]error, leads func(context.Context, api.Image, string) bool) *tally {
	t := &tally{lasts: map[string]time.Time{}, signed: map[string]refs{}, alone: map[string]refs{}, leads: leads, seed: maphash.MakeSeed()}
	for _, k := range ring.Keys() {
		switch {
		case spent[k.Fingerprint] != nil:
			t.lasts[k.Fingerprint] = time.Time{}
		case k.Expires.IsZero():
			t.lasts[k.Fingerprint] = forever
		default:
			t.lasts[k.Fingerprint] = k.Expires
		}
		t.signed[k.Fingerprint], t.alone[k.Fingerprint] = refs{}, refs{}
	}
	return t
}

// count goes through all signatures, an image at a time: the store lists them in that order.
func (t *tally) count(ctx context.Context, s store.Store) error {
	var image api.Image
	var of []*store.Signature
	for after := store.Cursor(""); ; {
		entries, next, err := s.List(ctx, store.Filter{Kind: store.Signatures}, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Image != image {
				t.image(ctx, image, of)
				image, of = e.Image, of[:0]
			}
			of = append(of, e.Signature)
		}
		if next == "" {
			t.image(ctx, image, of)
			return nil
		}
		after = next
	}
}

// image adds what one image has.
func (t *tally) image(ctx context.Context, image api.Image, signatures []*store.Signature) {
	for _, s := range signatures {
		signed, known := t.signed[s.Fingerprint]
		if !known {
			continue // by a key that is neither ours nor admitted any more
		}
		ref := maphash.String(t.seed, s.Reference)
		signed[ref] = struct{}{}
		if !t.stands(ctx, image, s, signatures) {
			t.alone[s.Fingerprint][ref] = struct{}{}
		}
	}
}

// stands reports whether nodes go on without one signature of an image: another key has signed the same
// reference. What a tag has left is pulled by its digest, and for that any reference will do.
func (t *tally) stands(ctx context.Context, image api.Image, s *store.Signature, all []*store.Signature) bool {
	others := false
	for _, other := range all {
		if t.outlasts(other.Fingerprint, s.Fingerprint) {
			if other.Reference == s.Reference {
				return true
			}
			others = true
		}
	}
	return others && !t.leads(ctx, image, s.Reference)
}

// outlasts reports whether a key verifies when another does not any more. Of two that never end each
// stands in for the other.
func (t *tally) outlasts(key, other string) bool {
	ends, known := t.lasts[key]
	return known && key != other && (ends.After(t.lasts[other]) || ends.Equal(forever))
}
