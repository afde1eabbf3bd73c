package signature

import (
	"bytes"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A ringKey is one key with all its copies. Nothing in it changes but once, in ready: what needs its
// self-signatures verified asks that first.
type ringKey struct {
	Key
	packets []packet        // see mergePackets
	ids     []uint64        // key IDs, also of subkeys that are weak
	entity  *openpgp.Entity // without those

	once    sync.Once
	useless map[uint64]error // by key ID: why what it signs never counts, whatever its date
}

// newRingKey reads the packets of one key.
func newRingKey(packets []packet) (*ringKey, error) {
	e, err := openpgp.ReadEntity(pgppacket.NewReader(bytes.NewReader(appendPackets(nil, packets))))
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is of a kind that cannot be read")
	case err != nil:
		return nil, err
	case e.PrimaryKey.Version != 4:
		return nil, fmt.Errorf("it is of version %d; signatures of such keys are not simple signing", e.PrimaryKey.Version)
	}
	k := &ringKey{packets: packets, entity: e, useless: map[uint64]error{}, Key: Key{
		Fingerprint: strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint)),
		Algorithm:   algorithmName(e.PrimaryKey),
		Created:     e.PrimaryKey.CreationTime.UTC(),
	}}
	k.ids = []uint64{e.PrimaryKey.KeyId}
	for _, s := range e.Subkeys {
		k.ids = append(k.ids, s.PublicKey.KeyId)
	}
	k.dropWeakSubkeys()
	k.identify(false)
	return k, nil
}

// ready returns the key with its self-signatures verified. That costs, so it is done when somebody
// asks: of most keys nothing ever comes.
func (k *ringKey) ready() *ringKey {
	k.once.Do(func() { k.useless[k.entity.PrimaryKey.KeyId] = k.settle() })
	return k
}

// settle does once what would otherwise be done again and again, and says why the key never counts.
// Weak keys cost nothing: those of any length would.
func (k *ringKey) settle() error {
	if err := weakness(k.entity.PrimaryKey); err != nil {
		return err
	}
	if n := selfSignatures(k.entity); n > maxSelfSignatures {
		return fmt.Errorf("it has %d signatures of its own, more than %d; export it with --export-options export-minimal", n, maxSelfSignatures)
	}
	checkSelfSignatures(k.entity)
	if slices.ContainsFunc(k.entity.Revocations, isValid) {
		return errRevoked
	}
	if by := k.designated(); by != "" {
		return fmt.Errorf("it is revoked by %s, which it names as its revoker; sign with another", by)
	}
	for _, s := range k.entity.Subkeys {
		if slices.ContainsFunc(s.Revocations, isValid) {
			k.useless[s.PublicKey.KeyId] = errors.New("the subkey that signed is revoked; sign with another")
		}
	}
	return k.identify(true)
}

var errRevoked = errors.New("it is revoked; sign with another")

// dropWeakSubkeys forgets subkeys that cannot sign anything that counts.
func (k *ringKey) dropWeakSubkeys() {
	k.entity.Subkeys = slices.DeleteFunc(k.entity.Subkeys, func(s openpgp.Subkey) bool {
		err := weakness(s.PublicKey)
		if err != nil {
			k.useless[s.PublicKey.KeyId] = err
		}
		return err != nil
	})
}

// identify takes user id and expiry from the self-signatures, if they are settled.
func (k *ringKey) identify(settled bool) error {
	var newest *pgppacket.Signature
	for _, name := range slices.Sorted(maps.Keys(k.entity.Identities)) {
		if !settled {
			k.UserID = printable(name)
			return nil
		}
		self, err := k.entity.Identities[name].Verify(time.Time{}, verification(time.Time{}))
		if err == nil && (newest == nil || preferred(self, newest)) {
			newest, k.UserID = self, printable(name)
		}
	}
	if newest == nil {
		return errors.New("it has no user id that it signed itself and did not revoke")
	}
	if s := newest.KeyLifetimeSecs; s != nil && *s != 0 {
		k.Expires = k.Created.Add(time.Duration(*s) * time.Second)
	}
	return nil
}

func preferred(a, b *pgppacket.Signature) bool {
	first, second := isPrimary(a), isPrimary(b)
	return first && !second || first == second && a.CreationTime.After(b.CreationTime)
}

// Lengths of RSA keys: every client that checks at all asks for the least, and gpg makes none
// longer than the most. A verification costs the square of the length.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// weakness says why nothing that a key signs can count.
func weakness(k *pgppacket.PublicKey) error {
	name := algorithmName(k)
	switch k.PubKeyAlgo {
	case pgppacket.PubKeyAlgoRSA, pgppacket.PubKeyAlgoRSASignOnly:
		switch bits := rsaBits(k); {
		case bits < minRSABits:
			return fmt.Errorf("%s is too short to be safe: %d bits are the least", name, minRSABits)
		case bits > maxRSABits:
			return fmt.Errorf("%s is longer than gpg makes them: %d bits are the most", name, maxRSABits)
		}
		return nil
	case pgppacket.PubKeyAlgoECDSA, pgppacket.PubKeyAlgoEdDSA:
		curve, err := k.Curve()
		if err == nil && slices.Contains([]pgppacket.Curve{pgppacket.CurveNistP256, pgppacket.CurveNistP384, pgppacket.CurveNistP521, pgppacket.Curve25519}, curve) {
			return nil
		}
		return fmt.Errorf("%s has a curve that not every recent client knows; RSA keys are for all", name)
	}
	return fmt.Errorf("%s is weak, or not known to every client; RSA keys are for all", name)
}

// rsaBits is the length of the modulus, whatever its encoding says.
func rsaBits(k *pgppacket.PublicKey) int {
	if public, ok := k.PublicKey.(*rsa.PublicKey); ok {
		return public.N.BitLen()
	}
	return 0
}

func algorithmName(k *pgppacket.PublicKey) string {
	switch k.PubKeyAlgo {
	case pgppacket.PubKeyAlgoRSA, pgppacket.PubKeyAlgoRSASignOnly, pgppacket.PubKeyAlgoRSAEncryptOnly:
		return fmt.Sprintf("RSA %d", rsaBits(k))
	case pgppacket.PubKeyAlgoDSA:
		return "DSA"
	case pgppacket.PubKeyAlgoECDSA:
		curve, _ := k.Curve()
		name := string(curve)
		if size, ok := strings.CutPrefix(name, "P"); ok {
			name = "P-" + size
		}
		return "ECDSA " + name
	case pgppacket.PubKeyAlgoEdDSA:
		curve, _ := k.Curve()
		if curve == pgppacket.Curve25519 {
			return "EdDSA Ed25519"
		}
		return "EdDSA " + string(curve)
	}
	return fmt.Sprintf("algorithm %d", k.PubKeyAlgo)
}

// printable is a user id for terminals and logs.
func printable(userID string) string {
	if len(userID) > maxUserID {
		userID = userID[:maxUserID]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, userID)
}
