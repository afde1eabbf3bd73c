package signature

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// verification is go-crypto's configuration for verifying at a time. It is never nil: without one
// messages inflate without limit.
func verification(now time.Time) *pgppacket.Config {
	limit, strict := int64(MaxSize), true
	return &pgppacket.Config{
		Time: func() time.Time { return now }, MinRSABits: minRSABits,
		MaxDecompressedMessageSize: &limit, CheckPacketSequence: &strict,
		InsecureAllowAllKeyFlagsWhenMissing: true, // as gpg: keys of old tools have none
	}
}

// Verify believes the message if a key of the ring made it, and the key is good now and was when
// it signed. Its errors wrap ErrUnknownKey, ErrUnverified, or ErrMalformed where what is signed
// is no claim.
func (r *Keyring) Verify(m *Message, now time.Time) (Signature, error) {
	keys := r.byID[m.keyID]
	if len(keys) == 0 {
		return Signature{}, fmt.Errorf("%w: %s", ErrUnknownKey, m.Issuer())
	}
	var err error
	for _, k := range keys { // key IDs collide, fingerprints do not
		var used *openpgp.Key
		if used, err = k.verify(m, now); err == nil {
			return m.verified(k, used)
		}
	}
	return Signature{}, err
}

// Made reports whether the key of the ring that has this primary key has the very key or subkey that
// signed, too: a copy of before a subkey was added knows nothing of it.
func (r *Keyring) Made(s Signature) bool {
	return slices.ContainsFunc(r.byID[s.KeyID], func(k *ringKey) bool { return k.Fingerprint == s.Fingerprint })
}

// Stands says why a verified signature would not count by this ring's own copy of the key, which may
// be revoked, or end otherwise than another. Nothing is verified again; a ring without the key has
// nothing to say.
func (r *Keyring) Stands(s Signature, now time.Time) error {
	for _, k := range r.byID[s.KeyID] {
		if k.Fingerprint != s.Fingerprint {
			continue
		}
		err := k.goodAt(now, s.KeyID)
		if err == nil {
			err = k.goodAt(s.Created, s.KeyID)
		}
		if err != nil {
			return k.unverified(err)
		}
	}
	return nil
}

// verify returns the key that signed: the primary key or a subkey of it.
func (k *ringKey) verify(m *Message, now time.Time) (*openpgp.Key, error) {
	if err := k.goodAt(now, m.keyID); err != nil {
		return nil, k.unverified(err)
	}
	details, err := openpgp.ReadMessage(bytes.NewReader(m.content), openpgp.EntityList{k.entity}, nil, verification(now))
	if err != nil {
		return nil, malformed("it does not read: %v", err)
	}
	body, err := io.ReadAll(details.UnverifiedBody)
	if err != nil {
		return nil, malformed("it does not read: %v", err)
	}
	// What was checked here must be what Parse saw.
	if details.IsEncrypted || !details.IsVerified || len(details.SignatureCandidates) != 1 || !bytes.Equal(body, m.signed) {
		return nil, malformed("it reads in two ways")
	}
	candidate := details.SignatureCandidates[0]
	if candidate.CorrespondingSig == nil {
		return nil, malformed("it does not read: %v", candidate.SignatureError)
	}
	if candidate.SignatureError != nil {
		return nil, k.unverified(inWords(candidate, now))
	}
	if details.SignatureError != nil || details.Signature == nil || details.SignedBy == nil {
		return nil, k.unverified(errors.New("the signature is bad"))
	}
	return details.SignedBy, nil
}

// goodAt says why a key, or a subkey of it, is not good at that time. go-crypto judges keys by the
// time of the signature; nodes pull now.
func (k *ringKey) goodAt(now time.Time, id uint64) error {
	k.ready()
	for _, id := range []uint64{k.entity.PrimaryKey.KeyId, id} {
		if err := k.useless[id]; err != nil {
			return err
		}
	}
	config := verification(now)
	if _, good := k.entity.SigningKeyById(now, id, config); good {
		return nil
	}
	_, err := k.entity.VerifyPrimaryKey(now, config)
	for _, s := range k.entity.Subkeys {
		if err == nil && s.PublicKey.KeyId == id {
			_, err = s.Verify(now, config)
		}
	}
	switch {
	case k.Created.After(now):
		return fmt.Errorf("it is dated %s, in the future; set the clock", k.Created.Format(time.RFC3339))
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return fmt.Errorf("it is %w; extend it, and bring its public part here again", ErrExpired)
	case err != nil:
		return fmt.Errorf("it is not good now: %w", err)
	}
	return errors.New("it may not sign, by its usage flags")
}

func (k *ringKey) unverified(err error) error {
	return fmt.Errorf("%w: key %s: %w", ErrUnverified, k.Fingerprint, err)
}

// inWords says why a signature does not count.
func inWords(c *openpgp.SignatureCandidate, now time.Time) error {
	err, s := c.SignatureError, c.CorrespondingSig
	switch {
	case s != nil && s.CreationTime.After(now):
		return fmt.Errorf("the signature is dated %s, in the future; set the signer's clock", s.CreationTime.UTC().Format(time.RFC3339))
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return fmt.Errorf("the signature is %w; sign again", ErrExpired)
	case errors.Is(err, pgperrors.ErrSignatureOlderThanKey):
		return errors.New("the signature is older than the key")
	case c.SignedBy == nil:
		return errors.New("the signature is dated before all that the key says of itself, or when it was not good; sign again")
	}
	return fmt.Errorf("the signature is bad: %w", err)
}

// verified makes a Signature of a message that k made with the key used.
func (m *Message) verified(k *ringKey, used *openpgp.Key) (Signature, error) {
	claim, named, err := parseClaim(m.signed)
	if err != nil {
		return Signature{}, err
	}
	s := Signature{
		Claim: claim, Content: bytes.Clone(m.content),
		Fingerprint: k.Fingerprint, UserID: k.UserID,
		Algorithm: algorithmName(used.PublicKey), Subkey: !used.IsPrimary(),
		Identity: m.identity(used.PublicKey), KeyID: m.keyID, named: named,
	}
	s.Created, s.Expires = m.times()
	return s, nil
}

// identity is a hash of who signed, what was signed, and the value of the signature.
func (m *Message) identity(key *pgppacket.PublicKey) string {
	h := sha256.New()
	for _, part := range append([][]byte{key.Fingerprint, m.signed, m.hashed}, m.values...) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// times are those of the hashed subpackets: when it was made, and when it ends.
func (m *Message) times() (created, expires time.Time) {
	const subCreated, subLifetime = 2, 3
	seconds := map[byte]uint32{}
	_ = eachSubpacket(m.hashed[6:], func(kind byte, b []byte) error { // Parse has been through them
		if len(b) == 4 {
			seconds[kind] = binary.BigEndian.Uint32(b)
		}
		return nil
	})
	created = time.Unix(int64(seconds[subCreated]), 0).UTC()
	if seconds[subLifetime] != 0 {
		expires = created.Add(time.Duration(seconds[subLifetime]) * time.Second)
	}
	return created, expires
}

// ReadableBy says whether all those clients read such a signature (protocol.md 5.2).
func (s Signature) ReadableBy(c Clients) error {
	if c == RecentClients {
		return nil
	}
	if s.Subkey {
		return fmt.Errorf("it is by a subkey of %s, which clients before containers/image 5.37 reject; sign with the primary key, or set admission.clients: recent", s.Fingerprint)
	}
	if !strings.HasPrefix(s.Algorithm, "RSA ") {
		return fmt.Errorf("it is by an %s key, which some clients cannot read; sign with an RSA key, or set admission.clients: recent", s.Algorithm)
	}
	return nil
}
