package signature

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A Token has a private RSA key that never leaves it, as a PKCS#11 token does. It signs digests, and
// may be used by several goroutines at a time.
type Token = crypto.Signer

// A TokenSigner signs with the key of a token. It is safe for concurrent use.
type TokenSigner struct {
	key   *Keyring
	id    pgppacket.PublicKey
	token Token
	clock func() time.Time
}

// NewTokenSigner returns the signer of a token's key. public is what CertifyToken made for it,
// armored or binary; another key's is refused.
func NewTokenSigner(public []byte, token Token, clock func() time.Time) (*TokenSigner, error) {
	key, err := ReadKeyring(public)
	if err != nil {
		return nil, err
	}
	e, err := readPublic(key)
	if err != nil {
		return nil, err
	}
	ours, ok := token.Public().(*rsa.PublicKey)
	theirs, isRSA := e.PrimaryKey.PublicKey.(*rsa.PublicKey)
	if !ok || !isRSA || !ours.Equal(theirs) {
		return nil, fmt.Errorf("the key of the token is not %X", e.PrimaryKey.Fingerprint)
	}
	return &TokenSigner{key: key, id: *e.PrimaryKey, token: token, clock: clock}, nil
}

func readPublic(key *Keyring) (*openpgp.Entity, error) {
	if len(key.Keys()) != 1 {
		return nil, errors.New("there is more than one key in the public file, and a signer has one")
	}
	return openpgp.ReadEntity(pgppacket.NewReader(bytes.NewReader(key.Binary())))
}

// Key is the public part.
func (s *TokenSigner) Key() *Keyring { return s.key }

// Sign makes the same message as a FileSigner with that key would.
func (s *TokenSigner) Sign(ctx context.Context, claim Claim) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.clock()
	if err := s.key.MaySign(now); err != nil {
		return nil, err
	}
	t := &telling{Token: s.token}
	content, err := signed(&pgppacket.PrivateKey{PublicKey: s.id, PrivateKey: t}, claim.Payload(), now)
	if err = errors.Join(t.err, err); err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	return content, nil
}

// A telling token keeps its error: go-crypto loses those of RSA keys.
type telling struct {
	Token
	err error
}

func (t *telling) Sign(random io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	signature, err := t.Token.Sign(random, digest, options)
	t.err = errors.Join(t.err, err)
	return signature, err
}

// CertifyToken makes a token's key an OpenPGP key with this user id, made at a time: the token signs
// that. What it returns is public and armored. The fingerprint depends on the time, so keep it:
// another call makes another key of the same token.
func CertifyToken(userID string, token Token, created time.Time) (public []byte, err error) {
	rsaKey, ok := token.Public().(*rsa.PublicKey)
	if !ok || rsaKey.N.BitLen() < minSignerBits {
		return nil, fmt.Errorf("the token has no RSA key of %d bits or more there, which every client reads", minSignerBits)
	}
	t := &telling{Token: token}
	primary := &pgppacket.PrivateKey{PublicKey: *pgppacket.NewRSAPublicKey(created.UTC().Truncate(time.Second), rsaKey), PrivateKey: t}
	e := &openpgp.Entity{PrimaryKey: &primary.PublicKey, PrivateKey: primary}
	err = selfSign(e, userID, nil)
	if err = errors.Join(t.err, err); err != nil {
		return nil, err
	}
	return armored(openpgp.PublicKeyType, e.Serialize)
}
