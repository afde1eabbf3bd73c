package signature

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// maxKeyring bounds a file of keys, in bytes: ten thousand keys have about five million.
const maxKeyring = 32 << 20

// A Keyring is a set of public keys that verify. It is immutable, safe for concurrent use, and
// indexed: ten thousand keys cost what one does. The zero Keyring has no key.
type Keyring struct {
	keys    []*ringKey // by fingerprint
	byID    map[uint64][]*ringKey
	skipped []string
}

// A Key is what is known of one key of a keyring.
type Key struct {
	Fingerprint string // of the primary key, upper-case hex
	UserID      string // the primary one
	Algorithm   string // of the primary key: RSA 3072
	Created     time.Time
}

// A ringKey keeps go-crypto's entity from being used twice at a time: it remembers what it has
// verified inside, without a lock.
type ringKey struct {
	Key
	mu     sync.Mutex
	entity *openpgp.Entity
}

// ReadKeyring reads public keys, binary or in any number of armored blocks with text between.
// What cannot be used is left out, see Skipped; no key at all, or a private one, is an error.
func ReadKeyring(data []byte) (*Keyring, error) {
	if len(data) > maxKeyring {
		return nil, fmt.Errorf("a keyring of %d bytes, more than %d", len(data), maxKeyring)
	}
	r := &ringReader{}
	var err error
	if bytes.Contains(data, []byte("-----BEGIN PGP ")) {
		err = r.armored(data)
	} else {
		err = r.binary(bytes.NewReader(data))
	}
	if err != nil {
		return nil, err
	}
	if len(r.keys) == 0 {
		return nil, fmt.Errorf("no usable public key in it; export one with gpg --export (%s)", cmp.Or(strings.Join(r.skipped, "; "), "not an OpenPGP file"))
	}
	return newKeyring(r.keys, r.skipped), nil
}

type ringReader struct {
	keys    []*ringKey
	skipped []string
}

func (r *ringReader) armored(data []byte) error {
	in := bufio.NewReader(bytes.NewReader(data))
	for n := 1; ; n++ {
		block, err := armor.Decode(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			r.skipped = append(r.skipped, fmt.Sprintf("armored block %d: %v", n, err))
			return nil
		case block.Type == openpgp.PrivateKeyType:
			return errPrivate
		case block.Type != openpgp.PublicKeyType:
			r.skipped = append(r.skipped, fmt.Sprintf("armored block %d is a %s", n, block.Type))
		default:
			if err := r.binary(block.Body); err != nil {
				return err
			}
		}
		if _, err := io.Copy(io.Discard, block.Body); err != nil {
			r.skipped = append(r.skipped, fmt.Sprintf("armored block %d: %v", n, err))
		}
	}
}

var errPrivate = errors.New("this is a private key; what is wanted is its public part, from gpg --export")

// binary reads key after key. After one that does not read it goes on with the next.
func (r *ringReader) binary(in io.Reader) error {
	packets := pgppacket.NewReader(in)
	for {
		entity, err := openpgp.ReadEntity(packets)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			r.skipped = append(r.skipped, err.Error())
			if !toNextKey(packets) {
				return nil
			}
		case entity.PrivateKey != nil:
			return errPrivate
		default:
			r.keys = append(r.keys, newRingKey(entity))
		}
	}
}

func toNextKey(packets *pgppacket.Reader) bool {
	for {
		p, err := packets.Next()
		if _, unsupported := errors.AsType[pgperrors.UnsupportedError](err); unsupported {
			continue
		}
		if err != nil {
			return false
		}
		if key, ok := p.(*pgppacket.PublicKey); ok && !key.IsSubkey {
			packets.Unread(p)
			return true
		}
	}
}

func newRingKey(e *openpgp.Entity) *ringKey {
	k := &ringKey{entity: e, Key: Key{
		Fingerprint: strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint)),
		Algorithm:   algorithmName(e.PrimaryKey),
		Created:     e.PrimaryKey.CreationTime,
	}}
	if _, identity := e.PrimaryIdentity(time.Time{}, verification(time.Time{})); identity != nil {
		k.UserID = identity.Name
	}
	return k
}

func algorithmName(k *pgppacket.PublicKey) string {
	switch k.PubKeyAlgo {
	case pgppacket.PubKeyAlgoRSA, pgppacket.PubKeyAlgoRSASignOnly:
		bits, _ := k.BitLength()
		return fmt.Sprintf("RSA %d", bits)
	case pgppacket.PubKeyAlgoDSA:
		return "DSA"
	case pgppacket.PubKeyAlgoECDSA:
		curve, _ := k.Curve()
		return "ECDSA " + string(curve)
	case pgppacket.PubKeyAlgoEdDSA:
		return "EdDSA Ed25519"
	}
	return fmt.Sprintf("algorithm %d", k.PubKeyAlgo)
}

func newKeyring(keys []*ringKey, skipped []string) *Keyring {
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b *ringKey) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	keys = slices.CompactFunc(keys, func(a, b *ringKey) bool { return a.Fingerprint == b.Fingerprint })
	r := &Keyring{keys: keys, byID: make(map[uint64][]*ringKey, len(keys)), skipped: skipped}
	for _, k := range keys {
		r.byID[k.entity.PrimaryKey.KeyId] = append(r.byID[k.entity.PrimaryKey.KeyId], k)
		for _, s := range k.entity.Subkeys {
			r.byID[s.PublicKey.KeyId] = append(r.byID[s.PublicKey.KeyId], k)
		}
	}
	return r
}

// Join returns a keyring of all keys of these, each once. With none it has no key.
func Join(rings ...*Keyring) *Keyring {
	var keys []*ringKey
	var skipped []string
	for _, r := range rings {
		keys, skipped = append(keys, r.keys...), append(skipped, r.skipped...)
	}
	return newKeyring(keys, skipped)
}

// Skipped says of every key that was left out why.
func (r *Keyring) Skipped() []string { return slices.Clone(r.skipped) }

// Keys returns what is known of the keys, ordered by fingerprint.
func (r *Keyring) Keys() []Key {
	keys := make([]Key, len(r.keys))
	for i, k := range r.keys {
		keys[i] = k.Key
	}
	return keys
}

// Has reports whether a primary key of this fingerprint, upper-case hex, is among them.
func (r *Keyring) Has(fingerprint string) bool {
	_, ok := slices.BinarySearchFunc(r.keys, fingerprint, func(k *ringKey, f string) int { return cmp.Compare(k.Fingerprint, f) })
	return ok
}

// Binary returns the public keys, one behind the other, as every client reads them.
func (r *Keyring) Binary() []byte {
	var out bytes.Buffer
	for _, k := range r.keys {
		_ = k.entity.Serialize(&out) // what was read serializes, and a buffer never fails
	}
	return out.Bytes()
}

// Armored returns the public keys in one armored block: clients without gpg read only the first.
func (r *Keyring) Armored() []byte {
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err == nil {
		_, _ = w.Write(r.Binary()) // a buffer never fails
		_ = w.Close()
	}
	out.WriteByte('\n')
	return out.Bytes()
}
