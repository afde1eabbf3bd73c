package signature

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A FileSigner signs with a private key that it has in memory. It is safe for concurrent use.
type FileSigner struct {
	key   *Keyring
	clock func() time.Time

	mu     sync.Mutex // go-crypto remembers inside the entity what it has verified, without a lock
	entity *openpgp.Entity
}

// NewFileSigner reads a file with one private key, armored or binary; passphrase is for one that
// is encrypted, without the line end that its file may have. It wants a primary key, RSA of 3072 bits
// or more, ECDSA or Ed25519, that may sign. One that is expired or revoked makes a signer that signs
// nothing: what it signed in its time is still looked at. Which clients read what it signs
// Keyring.ReadableBy says.
func NewFileSigner(private, passphrase []byte, clock func() time.Time) (*FileSigner, error) {
	e, _, err := readSigner(private, passphrase, clock())
	if err != nil && !errors.Is(err, ErrSigner) {
		return nil, err
	}
	public, err := armored(openpgp.PublicKeyType, e.Serialize)
	if err != nil {
		return nil, err
	}
	key, err := ReadKeyring(public)
	if err != nil {
		return nil, err
	}
	return &FileSigner{entity: e, key: key, clock: clock}, nil
}

// Key is the public part.
func (s *FileSigner) Key() *Keyring { return s.key }

// Sign makes a message of one literal, not compressed, with a SHA-512 signature by the primary
// key. A key that has expired since the start signs nothing.
func (s *FileSigner) Sign(ctx context.Context, claim Claim) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := s.clock()
	if err := s.usable(now); err != nil {
		return nil, fmt.Errorf("key %s: %w", s.key.keys[0].Fingerprint, err)
	}
	return signed(s.entity.PrivateKey, claim.Payload(), now)
}

func (s *FileSigner) usable(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := usable(s.entity, now)
	return err
}

// signed is a message around content. It is made of packets: openpgp.Sign would follow the hash
// preferences of the key, which are for those who write to its owner, and fail on SHA-1.
func signed(key *pgppacket.PrivateKey, content []byte, now time.Time) ([]byte, error) {
	s := &pgppacket.Signature{
		Version: key.Version, SigType: pgppacket.SigTypeBinary, PubKeyAlgo: key.PubKeyAlgo, Hash: crypto.SHA512,
		CreationTime: now, IssuerKeyId: &key.KeyId, IssuerFingerprint: key.Fingerprint,
	}
	hash := s.Hash.New()
	hash.Write(content)
	if err := s.Sign(hash, key, signing(now)); err != nil {
		return nil, err
	}
	onePass := &pgppacket.OnePassSignature{
		Version: 3, SigType: s.SigType, Hash: s.Hash, PubKeyAlgo: s.PubKeyAlgo, KeyId: key.KeyId, IsLast: true,
	}
	var out bytes.Buffer
	if err := onePass.Serialize(&out); err != nil {
		return nil, err
	}
	literal, err := pgppacket.SerializeLiteral(bufferCloser{&out}, true, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := literal.Write(content); err != nil {
		return nil, err
	}
	if err := errors.Join(literal.Close(), s.Serialize(&out)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// A bufferCloser lets a packet end without what it is written to.
type bufferCloser struct{ *bytes.Buffer }

func (bufferCloser) Close() error { return nil }

// readSigner reads a private key with which a server signs, and the self-signature that holds now.
// Where the error is ErrSigner the key is read, too.
func readSigner(private, passphrase []byte, now time.Time) (*openpgp.Entity, *pgppacket.Signature, error) {
	e, err := readPrivate(private)
	if err != nil {
		return nil, nil, err
	}
	if err := strength(e.PrimaryKey); err != nil {
		return nil, nil, err
	}
	// Only what signs is decrypted: subkeys may have other passphrases.
	switch {
	case e.PrivateKey.Encrypted && len(passphrase) == 0:
		return nil, nil, errors.New("it is encrypted, and there is no passphrase for it; give the file of its passphrase")
	case e.PrivateKey.Encrypted:
		if err := e.PrivateKey.Decrypt(passphrase); err != nil {
			return nil, nil, errors.New("the passphrase does not open it; it is taken byte for byte, without a line end")
		}
	}
	self, err := usable(e, now)
	return e, self, err
}

// strength refuses keys that are weaker than those the server makes, or that gpg 2.2 cannot read.
func strength(k *pgppacket.PublicKey) error {
	bits, _ := k.BitLength()
	switch a := k.PubKeyAlgo; {
	case k.Version != 4:
	case a == pgppacket.PubKeyAlgoRSA || a == pgppacket.PubKeyAlgoRSASignOnly:
		if bits >= minSignerBits {
			return nil
		}
	case weakness(k) == nil:
		return nil
	}
	return fmt.Errorf("it is an %s key, version %d; the server signs with RSA primary keys of %d bits or more, version 4, which every client reads, or with ECDSA and Ed25519 ones: make one with countersign keys generate",
		algorithmName(k), k.Version, minSignerBits)
}

// usable says whether the primary key may sign at that time, and by which self-signature. What time
// or a person has done to the key is ErrSigner.
func usable(e *openpgp.Entity, now time.Time) (*pgppacket.Signature, error) {
	self, err := e.VerifyPrimaryKey(now, verification(now))
	switch {
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return nil, fmt.Errorf("%w: it is expired; extend it with gpg --quick-set-expire FINGERPRINT, or sign with another key", ErrSigner)
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return nil, fmt.Errorf("%w: it is revoked; sign with another key", ErrSigner)
	case err != nil && e.PrimaryKey.CreationTime.After(now):
		return nil, fmt.Errorf("%w: it is from the future, made at %s; set the clock", ErrSigner, e.PrimaryKey.CreationTime.UTC().Format(time.RFC3339))
	case err != nil:
		return nil, fmt.Errorf("it cannot sign now: %w; is the clock right, and a user id not revoked?", err)
	}
	if _, ok := e.SigningKeyById(now, e.PrimaryKey.KeyId, verification(now)); !ok {
		return nil, errors.New("its primary key may not sign, and some clients reject what subkeys sign; use another key, whose primary one signs")
	}
	return self, nil
}

// wanted is what to do about a file that is not one private key.
const wanted = "what is wanted is one private key, from gpg --export-secret-keys FINGERPRINT"

// readPrivate reads exactly one key whose private part is there, encrypted or not.
func readPrivate(data []byte) (*openpgp.Entity, error) {
	if len(data) > maxKeyring {
		return nil, fmt.Errorf("a key file of %d bytes, more than %d; %s", len(data), maxKeyring, wanted)
	}
	var in io.Reader = bytes.NewReader(data)
	if blocks := bytes.Count(data, []byte("-----BEGIN PGP ")); blocks > 0 {
		block, err := armor.Decode(in)
		if err != nil {
			return nil, fmt.Errorf("it is no OpenPGP key: %v; %s", err, wanted)
		}
		if blocks > 1 {
			return nil, fmt.Errorf("it has more than one key in it; %s", wanted)
		}
		in = block.Body
	}
	packets := pgppacket.NewReader(in)
	e, err := openpgp.ReadEntity(packets)
	if err != nil {
		return nil, fmt.Errorf("it is no OpenPGP key: %v; %s", err, wanted)
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("it has more than one key in it; %s", wanted)
	}
	switch {
	case e.PrivateKey == nil:
		return nil, fmt.Errorf("it is a public key; %s", wanted)
	case e.PrivateKey.Dummy():
		return nil, fmt.Errorf("its primary key is not in the file, only subkeys are, and some clients reject what those sign; %s", wanted)
	}
	return e, nil
}
