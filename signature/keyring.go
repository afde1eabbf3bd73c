package signature

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A Keyring is a set of public keys that verify. It is immutable, safe for concurrent use, and
// indexed: ten thousand keys cost what one does. The zero Keyring has no key.
type Keyring struct {
	keys    []*ringKey // by fingerprint
	byID    map[uint64][]*ringKey
	skipped []string

	own      sync.Mutex
	entities openpgp.EntityList // MaySign's: go-crypto writes into them what self-signatures it has verified
}

// A Key is what is known of one key of a keyring.
type Key struct {
	Fingerprint string // of the primary key, upper-case hex
	UserID      string // the primary one, what does not print replaced
	Algorithm   string // of the primary key: RSA 3072
	Created     time.Time
	Expires     time.Time // zero: never
}

// newKeyring merges copies of a key as gpg --import does: a revocation in one of them, or a later
// expiry, counts for all.
func newKeyring(keys []*ringKey, skipped []string) *Keyring {
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b *ringKey) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	r := &Keyring{byID: make(map[uint64][]*ringKey, len(keys)), skipped: slices.Clone(skipped)}
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].Fingerprint == keys[0].Fingerprint {
			n++
		}
		k, err := mergeKeys(keys[:n])
		if err != nil {
			r.skipped = append(r.skipped, fmt.Sprintf("key %s: its copies do not fit together: %v", keys[0].Fingerprint, err))
		} else {
			r.add(k)
		}
		keys = keys[n:]
	}
	return r
}

func (r *Keyring) add(k *ringKey) {
	r.keys = append(r.keys, k)
	ids := slices.Clone(k.ids)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		r.byID[id] = append(r.byID[id], k)
	}
}

// Join returns a keyring of all keys of these, copies of a key merged. With none it has no key.
func Join(rings ...*Keyring) *Keyring {
	var keys []*ringKey
	var skipped []string
	for _, r := range rings {
		if r != nil {
			keys, skipped = append(keys, r.keys...), append(skipped, r.skipped...)
		}
	}
	return newKeyring(keys, skipped)
}

// Skipped says of every key or block that is left out, or never verifies, why.
func (r *Keyring) Skipped() []string {
	skipped := slices.Clone(r.skipped)
	for _, k := range r.keys {
		if err := k.ready().useless[k.entity.PrimaryKey.KeyId]; err != nil {
			skipped = append(skipped, fmt.Sprintf("key %s (%s) never counts: %v", k.Fingerprint, k.UserID, err))
		}
	}
	return skipped
}

// Keys returns what is known of the keys, ordered by fingerprint.
func (r *Keyring) Keys() []Key {
	keys := make([]Key, len(r.keys))
	for i, k := range r.keys {
		keys[i] = k.ready().Key
	}
	return keys
}

// Len is the number of keys.
func (r *Keyring) Len() int { return len(r.keys) }

// Fingerprints yields those of the primary keys, upper-case hex, in their order.
func (r *Keyring) Fingerprints() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, k := range r.keys {
			if !yield(k.Fingerprint) {
				return
			}
		}
	}
}

// Has reports whether a primary key of this fingerprint, upper-case hex, is among them.
func (r *Keyring) Has(fingerprint string) bool {
	_, ok := slices.BinarySearchFunc(r.keys, fingerprint, func(k *ringKey, f string) int { return cmp.Compare(k.Fingerprint, f) })
	return ok
}

// Binary returns the public keys, one behind the other, as every client reads them. The same
// keys give the same bytes.
func (r *Keyring) Binary() []byte {
	var out []byte
	for _, k := range r.keys {
		out = appendPackets(out, k.packets)
	}
	return out
}

// Armored returns the public keys in one armored block: clients without gpg read only the first.
func (r *Keyring) Armored() []byte {
	// A buffer never fails, and bytes are all that is written.
	out, _ := armored(openpgp.PublicKeyType, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(r.Binary()))
		return err
	})
	return out
}
