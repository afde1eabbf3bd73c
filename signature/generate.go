package signature

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// minSignerBits is what a server's key has at least; every client version accepts such keys.
const minSignerBits = 3072

// maxUserID bounds a user id, in bytes.
const maxUserID = 1024

// An Algorithm is what a key is made for.
type Algorithm string

const (
	RSA3072 Algorithm = "rsa3072" // every client reads what it signs
	RSA4096 Algorithm = "rsa4096" // so it does, and to sign costs several times as much
	P256    Algorithm = "p256"    // ECDSA: for recent clients
	P384    Algorithm = "p384"
	Ed25519 Algorithm = "ed25519" // EdDSA as gpg 2.2 writes it: for recent clients
)

// Algorithms returns all there are; the first is the one to choose.
func Algorithms() []Algorithm { return []Algorithm{RSA3072, RSA4096, P256, P384, Ed25519} }

// A Spec says what key to make.
type Spec struct {
	UserID     string // as OpenPGP writes it: Name <address>
	Algorithm  Algorithm
	Lifetime   time.Duration // 0: it never expires
	Passphrase []byte        // empty: the private part is not encrypted
}

// Generate makes a key that can sign and certify and has no subkey, the only form that every client
// accepts (protocol.md 5.2). Both parts are armored.
func (s Spec) Generate(now time.Time) (private, public []byte, err error) {
	e, err := s.entity(now.UTC().Truncate(time.Second)) // OpenPGP has whole seconds
	if err != nil {
		return nil, nil, err
	}
	var lifetime *uint32
	if s.Lifetime != 0 {
		if s.Lifetime < time.Second || s.Lifetime > maxLifetime {
			return nil, nil, fmt.Errorf("a key cannot expire after %v", s.Lifetime)
		}
		seconds := uint32(s.Lifetime / time.Second)
		lifetime = &seconds
	}
	if err := selfSign(e, s.UserID, lifetime); err != nil {
		return nil, nil, err
	}
	if public, err = armored(openpgp.PublicKeyType, e.Serialize); err != nil {
		return nil, nil, err
	}
	if len(s.Passphrase) > 0 {
		if err := e.PrivateKey.Encrypt(s.Passphrase); err != nil {
			return nil, nil, err
		}
	}
	private, err = armored(openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, signing(now)) })
	return private, public, err
}

// Generate makes an RSA key of 3072 or 4096 bits that never expires and is not encrypted.
func Generate(userID string, bits int, now time.Time) (private, public []byte, err error) {
	return Spec{UserID: userID, Algorithm: Algorithm(fmt.Sprintf("rsa%d", bits))}.Generate(now)
}

// maxLifetime is a hundred years; OpenPGP has four bytes for the seconds.
const maxLifetime = 100 * 365 * 24 * time.Hour

func (s Spec) entity(created time.Time) (*openpgp.Entity, error) {
	config := signing(created)
	switch s.Algorithm {
	case RSA3072, RSA4096:
		key, err := rsa.GenerateKey(rand.Reader, map[Algorithm]int{RSA3072: 3072, RSA4096: 4096}[s.Algorithm])
		if err != nil {
			return nil, err
		}
		primary := pgppacket.NewRSAPrivateKey(created, smallerFirst(key))
		return &openpgp.Entity{PrimaryKey: &primary.PublicKey, PrivateKey: primary}, nil
	case P256:
		config.Algorithm, config.Curve = pgppacket.PubKeyAlgoECDSA, pgppacket.CurveNistP256
	case P384:
		config.Algorithm, config.Curve = pgppacket.PubKeyAlgoECDSA, pgppacket.CurveNistP384
	case Ed25519:
		config.Algorithm, config.Curve = pgppacket.PubKeyAlgoEdDSA, pgppacket.Curve25519
	default:
		return nil, fmt.Errorf("there is no algorithm %q; there are %v", s.Algorithm, Algorithms())
	}
	e, err := openpgp.NewEntity("unused", "", "", config) // only its primary key is taken
	if err != nil {
		return nil, err
	}
	return &openpgp.Entity{PrimaryKey: e.PrimaryKey, PrivateKey: e.PrivateKey}, nil
}

// smallerFirst orders the primes of a key. OpenPGP wants the smaller one first (RFC 9580, 5.5.5.1), go-crypto
// writes the second first, and Go has them in any order. From a key with the larger one first libgcrypt
// 1.10 makes up to one bad signature in twenty, and does not notice.
func smallerFirst(key *rsa.PrivateKey) *rsa.PrivateKey {
	if key.Primes[0].Cmp(key.Primes[1]) > 0 {
		return key
	}
	ordered := &rsa.PrivateKey{PublicKey: key.PublicKey, D: key.D, Primes: []*big.Int{key.Primes[1], key.Primes[0]}}
	ordered.Precompute()
	return ordered
}

// Rename gives a private key that is not encrypted another user id in place of those it has. Its
// fingerprint, and so everything it has signed, stays good, and its end, if it has one, what it is.
// It refuses what NewFileSigner refuses: a name makes no key good that is expired or revoked.
func Rename(private []byte, userID string, now time.Time) (renamed, public []byte, err error) {
	e, self, err := readSigner(private, nil, now)
	if err != nil {
		return nil, nil, err
	}
	return certify(e, userID, self.KeyLifetimeSecs)
}

// certify makes the user id the only one of a key, which ends after lifetime seconds, if not nil.
func certify(e *openpgp.Entity, userID string, lifetime *uint32) (private, public []byte, err error) {
	if err := selfSign(e, userID, lifetime); err != nil {
		return nil, nil, err
	}
	private, err = armored(openpgp.PrivateKeyType, func(w io.Writer) error {
		return e.SerializePrivateWithoutSigning(w, signing(e.PrimaryKey.CreationTime))
	})
	if err != nil {
		return nil, nil, err
	}
	public, err = armored(openpgp.PublicKeyType, e.Serialize)
	return private, public, err
}

// selfSign has a key sign its only user id. That is dated as the key is: from an earlier signature
// clients in Go would otherwise look for a user id of that time, find none, and reject it.
func selfSign(e *openpgp.Entity, userID string, lifetime *uint32) error {
	userID, err := checkUserID(userID)
	if err != nil {
		return err
	}
	primary := e.PrivateKey
	isPrimary := true
	self := &pgppacket.Signature{
		Version: primary.PublicKey.Version, SigType: pgppacket.SigTypePositiveCert,
		PubKeyAlgo: primary.PubKeyAlgo, Hash: crypto.SHA512, CreationTime: primary.CreationTime,
		IssuerKeyId: &primary.KeyId, IssuerFingerprint: primary.Fingerprint,
		IsPrimaryId: &isPrimary, FlagsValid: true, FlagCertify: true, FlagSign: true, KeyLifetimeSecs: lifetime,
	}
	if err := self.SignUserId(userID, &primary.PublicKey, primary, signing(primary.CreationTime)); err != nil {
		return err
	}
	e.Identities = map[string]*openpgp.Identity{userID: {
		Primary: e, Name: userID, UserId: &pgppacket.UserId{Id: userID},
		SelfCertifications: []*pgppacket.VerifiableSignature{pgppacket.NewVerifiableSig(self)},
	}}
	return nil
}

// checkUserID returns a user id without the space around it. Many programs show user ids, so it has
// to be one line that shows as it is.
func checkUserID(id string) (string, error) {
	id = strings.TrimSpace(id)
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	if id == "" || len(id) > maxUserID || !utf8.ValidString(id) || strings.ContainsFunc(id, hidden) {
		return "", fmt.Errorf("%.80q cannot be a user id: one line of at most %d bytes is wanted, as in Name <address>", id, maxUserID)
	}
	return id, nil
}

func armored(kind string, serialize func(io.Writer) error) ([]byte, error) {
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(serialize(w), w.Close()); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// signing is go-crypto's configuration for signing at a time. Without the salt it would add, RSA
// signatures stay as gpg makes them.
func signing(now time.Time) *pgppacket.Config {
	salted := false
	return &pgppacket.Config{
		Time: func() time.Time { return now }, MinRSABits: minSignerBits,
		NonDeterministicSignaturesViaNotation: &salted,
	}
}
