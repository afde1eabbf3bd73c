package signature

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// minRSABits is what every client that checks at all asks for.
const minRSABits = 2048

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

// verify returns the key that signed: the primary key or a subkey of it.
func (k *ringKey) verify(m *Message, now time.Time) (*openpgp.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	config := verification(now)
	details, err := openpgp.ReadMessage(bytes.NewReader(m.content), openpgp.EntityList{k.entity}, nil, config)
	if err != nil {
		return nil, malformed("%v", err)
	}
	body, err := io.ReadAll(details.UnverifiedBody)
	if err != nil {
		return nil, malformed("%v", err)
	}
	// What was checked here must be what Parse saw.
	if details.IsEncrypted || !details.IsVerified || len(details.SignatureCandidates) != 1 || !bytes.Equal(body, m.signed) {
		return nil, malformed("it reads in two ways")
	}
	candidate := details.SignatureCandidates[0]
	if candidate.SignatureError != nil {
		return nil, k.unverified(candidate, now)
	}
	if details.SignatureError != nil || details.Signature == nil || details.SignedBy == nil {
		return nil, fmt.Errorf("%w: %v", ErrUnverified, details.SignatureError)
	}
	// go-crypto judges a key by the time of the signature; nodes pull now.
	if _, good := k.entity.SigningKeyById(now, m.keyID, config); !good {
		return nil, fmt.Errorf("%w: key %s was good when it signed and is not now: it is expired or revoked", ErrUnverified, k.Fingerprint)
	}
	return details.SignedBy, nil
}

// unverified says in words of ours why a signature does not count.
func (k *ringKey) unverified(c *openpgp.SignatureCandidate, now time.Time) error {
	say := func(format string, args ...any) error {
		return fmt.Errorf("%w: key %s: %s", ErrUnverified, k.Fingerprint, fmt.Sprintf(format, args...))
	}
	err := c.SignatureError
	switch {
	case errors.Is(err, pgperrors.ErrSignatureExpired) && c.CorrespondingSig != nil && c.CorrespondingSig.CreationTime.After(now):
		return say("the signature is dated %s, in the future; set the signer's clock", c.CorrespondingSig.CreationTime.UTC().Format(time.RFC3339))
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return say("the signature is expired; sign again")
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return say("it is expired; extend it, and bring its public part here again")
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return say("it is revoked; sign with another")
	case errors.Is(err, pgperrors.ErrSignatureOlderThanKey):
		return say("the signature is older than the key")
	}
	return say("%v", err)
}

// verified makes a Signature of a message that k made with the key used.
func (m *Message) verified(k *ringKey, used *openpgp.Key) (Signature, error) {
	claim, err := ParseClaim(m.signed)
	if err != nil {
		return Signature{}, err
	}
	s := Signature{
		Claim: claim, Content: bytes.Clone(m.content),
		Fingerprint: k.Fingerprint, UserID: k.UserID,
		Algorithm: algorithmName(used.PublicKey), Subkey: !used.IsPrimary(),
		Identity: m.identity(used.PublicKey),
	}
	s.Created, s.Expires = m.times()
	return s, nil
}

// identity is a hash of who signed, what was signed, and the value of the signature.
func (m *Message) identity(key *pgppacket.PublicKey) string {
	signed := m.signed
	if m.text {
		signed = bytes.ReplaceAll(signed, []byte("\r\n"), []byte("\n"))
	}
	h := sha256.New()
	for _, part := range append([][]byte{key.Fingerprint, signed, m.hashed}, m.values...) {
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
	for area := m.hashed[6:]; len(area) > 0; {
		length, _, rest, err := newLength(area)
		if err != nil || length == 0 || uint64(length) > uint64(len(rest)) {
			break
		}
		if length == 5 {
			seconds[rest[0]&0x7f] = binary.BigEndian.Uint32(rest[1:5])
		}
		area = rest[length:]
	}
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
