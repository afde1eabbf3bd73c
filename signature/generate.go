package signature

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// minSignerBits is what a server's key has at least; every client version accepts such keys.
const minSignerBits = 3072

// maxUserID bounds a user id, in bytes.
const maxUserID = 1024

// Generate makes an RSA key of at least 3072 bits that can sign and certify and has no subkey: the
// only form that every client accepts (protocol.md 5.2). Both parts are armored; the private one is
// not encrypted.
func Generate(userID string, bits int, now time.Time) (private, public []byte, err error) {
	if bits < minSignerBits {
		return nil, nil, fmt.Errorf("a key of %d bits is too short; %d are the least", bits, minSignerBits)
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, nil, err
	}
	created := now.UTC().Truncate(time.Second) // OpenPGP has whole seconds
	return certify(pgppacket.NewRSAPrivateKey(created, key), userID, created)
}

// Rename gives a private key another user id in place of those it has. Its fingerprint, and so
// everything it has signed, stays good.
func Rename(private []byte, userID string, now time.Time) (renamed, public []byte, err error) {
	e, err := readPrivate(private, nil)
	if err != nil {
		return nil, nil, err
	}
	return certify(e.PrivateKey, userID, now.UTC().Truncate(time.Second))
}

// certify makes a key of this primary key and one user id.
func certify(primary *pgppacket.PrivateKey, userID string, now time.Time) (private, public []byte, err error) {
	if userID = strings.TrimSpace(userID); userID == "" || len(userID) > maxUserID || strings.ContainsFunc(userID, func(r rune) bool { return r < ' ' }) {
		return nil, nil, fmt.Errorf("%q cannot be a user id: one line is wanted, as in Name <address>", userID)
	}
	isPrimary := true
	self := &pgppacket.Signature{
		Version: primary.PublicKey.Version, SigType: pgppacket.SigTypePositiveCert,
		PubKeyAlgo: primary.PubKeyAlgo, Hash: crypto.SHA512, CreationTime: now,
		IssuerKeyId: &primary.KeyId, IssuerFingerprint: primary.Fingerprint,
		IsPrimaryId: &isPrimary, FlagsValid: true, FlagCertify: true, FlagSign: true,
	}
	if err := self.SignUserId(userID, &primary.PublicKey, primary, signing(now)); err != nil {
		return nil, nil, err
	}
	e := &openpgp.Entity{PrimaryKey: &primary.PublicKey, PrivateKey: primary, Identities: map[string]*openpgp.Identity{}}
	e.Identities[userID] = &openpgp.Identity{
		Primary: e, Name: userID, UserId: &pgppacket.UserId{Id: userID},
		SelfCertifications: []*pgppacket.VerifiableSignature{pgppacket.NewVerifiableSig(self)},
	}
	private, err = armored(openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, signing(now)) })
	if err != nil {
		return nil, nil, err
	}
	public, err = armored(openpgp.PublicKeyType, e.Serialize)
	return private, public, err
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
		Time: func() time.Time { return now }, DefaultHash: crypto.SHA512, MinRSABits: minSignerBits,
		DefaultCompressionAlgo: pgppacket.CompressionNone, NonDeterministicSignaturesViaNotation: &salted,
	}
}
