package signature

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// maxSelfSignatures bounds those of one key: each costs a verification when the key is used first.
const maxSelfSignatures = 1000

// selfSignatures counts what checkSelfSignatures verifies.
func selfSignatures(e *openpgp.Entity) int {
	n := len(e.Revocations) + len(e.DirectSignatures)
	for _, id := range e.Identities {
		n += len(id.SelfCertifications) + len(id.Revocations)
	}
	for _, sub := range e.Subkeys {
		n += len(sub.Bindings) + len(sub.Revocations)
	}
	return n
}

// checkSelfSignatures settles which signatures in the key are good. go-crypto would do so when it
// first looks at each, in memory that is shared without a lock, and for good: a message with a
// made-up date, which it believes that early, could make it drop one that is good today. Nothing
// else in an entity is written after it was read.
func checkSelfSignatures(e *openpgp.Entity) {
	primary := e.PrimaryKey
	settle(e.Revocations, primary.VerifyRevocationSignature)
	settle(e.DirectSignatures, strong(primary.VerifyDirectKeySignature))
	for _, id := range e.Identities {
		ofUserID := strong(func(s *pgppacket.Signature) error { return primary.VerifyUserIdSignature(id.Name, primary, s) })
		settle(id.SelfCertifications, ofUserID)
		settle(id.Revocations, ofUserID)
	}
	breakTies(e)
	for _, sub := range e.Subkeys {
		settle(sub.Bindings, strong(func(s *pgppacket.Signature) error { return primary.VerifyKeySignature(sub.PublicKey, s) }))
		settle(sub.Revocations, func(s *pgppacket.Signature) error {
			return primary.VerifySubkeyRevocationSignature(s, sub.PublicKey)
		})
	}
}

func settle(signatures []*pgppacket.VerifiableSignature, verify func(*pgppacket.Signature) error) {
	for _, s := range signatures {
		valid := verify(s.Packet) == nil
		s.Valid = &valid
	}
}

// breakTies leaves one of all user ids that a key has signed in the same second: the one that allows
// least. Clients take from a user id how long the key is good and what for, and those in Go take any
// of several that are as new: what is admitted must be good for each.
func breakTies(e *openpgp.Entity) {
	var all []*pgppacket.VerifiableSignature
	revoked := map[*pgppacket.VerifiableSignature]int{}
	for _, name := range slices.Sorted(maps.Keys(e.Identities)) {
		id := e.Identities[name]
		for _, s := range id.SelfCertifications {
			if isValid(s) {
				all = append(all, s)
				revoked[s] = ordinal(slices.ContainsFunc(id.Revocations, isValid))
			}
		}
	}
	tied := func(a, b *pgppacket.VerifiableSignature) int {
		return cmp.Or(
			cmp.Compare(ordinal(isPrimary(a.Packet)), ordinal(isPrimary(b.Packet))),
			cmp.Compare(a.Packet.CreationTime.Unix(), b.Packet.CreationTime.Unix()),
		)
	}
	slices.SortStableFunc(all, func(a, b *pgppacket.VerifiableSignature) int {
		return cmp.Or(
			tied(a, b),
			cmp.Compare(revoked[a], revoked[b]), // what nobody goes by stands for nothing
			cmp.Compare(ordinal(maySign(a.Packet)), ordinal(maySign(b.Packet))),
			cmp.Compare(lifetime(a.Packet.KeyLifetimeSecs), lifetime(b.Packet.KeyLifetimeSecs)),
			cmp.Compare(lifetime(a.Packet.SigLifetimeSecs), lifetime(b.Packet.SigLifetimeSecs)),
		)
	})
	for i := 1; i < len(all); i++ {
		if tied(all[i-1], all[i]) == 0 {
			*all[i].Valid = false
		}
	}
}

func ordinal(b bool) int {
	if b {
		return 1
	}
	return 0
}

func isPrimary(s *pgppacket.Signature) bool { return s.IsPrimaryId != nil && *s.IsPrimaryId }

func maySign(s *pgppacket.Signature) bool { return !s.FlagsValid || s.FlagSign }

// lifetime is how many seconds something is good; OpenPGP writes none, or 0, for ever.
func lifetime(seconds *uint32) uint32 {
	if seconds == nil || *seconds == 0 {
		return math.MaxUint32
	}
	return *seconds
}

func isValid(s *pgppacket.VerifiableSignature) bool { return s.Valid != nil && *s.Valid }

// strong adds what go-crypto asks of a self-signature, save its time. SHA-1 is good enough: keys
// that are in wide use have nothing else.
func strong(verify func(*pgppacket.Signature) error) func(*pgppacket.Signature) error {
	config := verification(time.Time{})
	return func(s *pgppacket.Signature) error {
		if config.RejectHashAlgorithm(s.Hash) {
			return errors.New("weak digest")
		}
		for _, n := range s.Notations {
			if n.IsCritical && !config.KnownNotation(n.Name) {
				return errors.New("critical notation")
			}
		}
		return verify(s)
	}
}

// Types of a signature over a key, and the subpacket that names who else may revoke it
// (RFC 4880, 5.2.1 and 5.2.3.15).
const (
	typeDirect        = 0x1f
	typeKeyRevocation = 0x20
	subRevocationKey  = 12
)

// designated returns the fingerprint of a revoker whom the key names and who did revoke it; "" if
// none did. go-crypto knows no such revokers. Their key need not be here, so nothing is verified:
// who can write into a keyring can as well take a key out.
func (k *ringKey) designated() string {
	named, issuers := map[string]bool{}, [][]byte{}
	for _, p := range k.packets {
		if p.tag != tagSignature || len(p.body) < 6 || p.body[0] != 4 {
			continue
		}
		hashed, rest, _ := cutArea(p.body[4:])
		unhashed, _, _ := cutArea(rest)
		visit := func(kind byte, b []byte) error {
			switch {
			case p.body[1] == typeDirect && kind == subRevocationKey && len(b) == 22:
				named[string(b[2:])] = true
			case p.body[1] == typeKeyRevocation && kind == subIssuer && len(b) == 8:
				issuers = append(issuers, b)
			case p.body[1] == typeKeyRevocation && kind == subIssuerFingerprint && len(b) == 21:
				issuers = append(issuers, b[13:])
			}
			return nil
		}
		_ = errors.Join(eachSubpacket(hashed, visit), eachSubpacket(unhashed, visit)) // a cut one names nobody
	}
	for fingerprint := range named {
		for _, issuer := range issuers {
			if bytes.HasSuffix([]byte(fingerprint), issuer) {
				return strings.ToUpper(hex.EncodeToString([]byte(fingerprint)))
			}
		}
	}
	return ""
}
