package calendar

import (
	"context"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A tally counts what keys have signed.
type tally struct {
	lasts  map[string]time.Time       // how long a key verifies, by its fingerprint
	signed map[string]map[string]bool // references by fingerprint
	alone  map[string]map[string]bool // those of them that no key has signed which lasts longer
}

// forever is when keys end that never do.
var forever = time.Unix(1<<40, 0)

func newTally(ring *signature.Keyring, spent map[string]error) *tally {
	t := &tally{lasts: map[string]time.Time{}, signed: map[string]map[string]bool{}, alone: map[string]map[string]bool{}}
	for _, k := range ring.Keys() {
		switch {
		case spent[k.Fingerprint] != nil:
			t.lasts[k.Fingerprint] = time.Time{}
		case k.Expires.IsZero():
			t.lasts[k.Fingerprint] = forever
		default:
			t.lasts[k.Fingerprint] = k.Expires
		}
		t.signed[k.Fingerprint], t.alone[k.Fingerprint] = map[string]bool{}, map[string]bool{}
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
				t.image(of)
				image, of = e.Image, of[:0]
			}
			of = append(of, e.Signature)
		}
		if next == "" {
			t.image(of)
			return nil
		}
		after = next
	}
}

// image adds what one image has.
func (t *tally) image(signatures []*store.Signature) {
	longest := map[string]time.Time{} // by reference
	for _, s := range signatures {
		if end := t.lasts[s.Fingerprint]; end.After(longest[s.Reference]) {
			longest[s.Reference] = end
		}
	}
	for _, s := range signatures {
		signed, known := t.signed[s.Fingerprint]
		if !known {
			continue // by a key that is neither ours nor admitted any more
		}
		signed[s.Reference] = true
		if !longest[s.Reference].After(t.lasts[s.Fingerprint]) {
			t.alone[s.Fingerprint][s.Reference] = true
		}
	}
}
