// Package signature is simple signing: the claim, the keyring that verifies, the signers
// that make. What comes from outside is Untrusted; Parse makes a Message of it that is well
// formed and still not believed; only Keyring.Verify makes a Signature.
//
// It is stricter than every client of containers/image, and admits only what all of them
// read: see protocol.md, section 5.
package signature

import (
	"context"
	"errors"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Everything that Parse, ParseClaim and Verify refuse wraps one of these. The message around
// it says what is wrong and what to do, and is meant for the person who uploads.
var (
	// ErrMalformed: not one binary OpenPGP message with one signature over one strict claim.
	ErrMalformed = errors.New("not a simple signing signature")
	// ErrUnknownKey: no key of the keyring made it. The message names the fingerprint.
	ErrUnknownKey = errors.New("key is not known")
	// ErrUnverified: the key is known and the signature does not count: it is bad, expired, dated
	// in the future, weak, or its key is expired or revoked.
	ErrUnverified = errors.New("signature does not verify")
	// ErrExpired is beside ErrUnverified where the signature or its key is expired.
	ErrExpired = errors.New("expired")
)

// MaxSize bounds a signature, in bytes, as it travels and inflated.
const MaxSize = 64 << 10

// Untrusted is what somebody says is a signature.
type Untrusted []byte

// A Claim is what is signed (containers-signature.5): this manifest digest may be called by
// this docker reference.
type Claim struct {
	Reference string        // docker-reference, as it stands there
	Digest    digest.Digest // docker-manifest-digest
	Creator   string        // optional.creator; empty: absent
	Timestamp time.Time     // optional.timestamp; zero: absent
}

// A Signature is a verified one. Only Keyring.Verify makes it.
type Signature struct {
	Claim       Claim
	Content     []byte    // the message, byte for byte
	Fingerprint string    // of the primary key, upper-case hex
	UserID      string    // the key's primary user id
	Algorithm   string    // of the key that signed: RSA 3072, ECDSA P-256, EdDSA Ed25519
	Subkey      bool      // signed by a signing subkey of that primary key
	Created     time.Time // by the OpenPGP signature
	Expires     time.Time // zero: never
	// Identity is the same for the same signer, signed bytes and signature value, whatever the
	// bytes around them are: OpenPGP messages are malleable, their hash tells nothing.
	Identity string
	KeyID    uint64 // of the key or subkey that signed
	named    reference.Named
}

// Named is the claimed reference, as ParseReference reads it.
func (s Signature) Named() (reference.Named, error) {
	if s.named != nil {
		return s.named, nil
	}
	return ParseReference(s.Claim.Reference)
}

// Clients says which versions of containers/image must be able to read a signature.
type Clients string

const (
	AllClients    Clients = "all"    // RSA primary keys of 2048 bits or more
	RecentClients Clients = "recent" // also ECDSA, EdDSA and signing subkeys
)

// A Signer makes signatures with one key. What it returns is verified before it is stored.
type Signer interface {
	// Sign returns a binary OpenPGP message around the claim.
	Sign(ctx context.Context, claim Claim) ([]byte, error)
	// Key is the public key, armored, that verifies what Sign returns.
	Key() *Keyring
}
