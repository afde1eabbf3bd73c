package signature

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A FileSigner signs with a private key that it has in memory. It is safe for concurrent use.
type FileSigner struct {
	entity *openpgp.Entity
	key    *Keyring
	clock  func() time.Time
}

// NewFileSigner reads a file with one private key, armored or binary; passphrase is for one that
// is encrypted. It refuses what not every client would accept the signatures of: a primary key
// other than RSA of 3072 bits or more, that may sign and is neither expired nor revoked.
func NewFileSigner(private, passphrase []byte, clock func() time.Time) (*FileSigner, error) {
	e, err := readPrivate(private, passphrase)
	if err != nil {
		return nil, err
	}
	bits, _ := e.PrimaryKey.BitLength()
	if a := e.PrimaryKey.PubKeyAlgo; a != pgppacket.PubKeyAlgoRSA && a != pgppacket.PubKeyAlgoRSASignOnly || bits < minSignerBits {
		return nil, fmt.Errorf("it is an %s key; the server signs with RSA primary keys of %d bits or more, which every client reads", algorithmName(e.PrimaryKey), minSignerBits)
	}
	now := clock()
	if _, err := e.VerifyPrimaryKey(now, verification(now)); err != nil {
		return nil, fmt.Errorf("it cannot sign now: %v", err)
	}
	if _, ok := e.SigningKeyById(now, e.PrimaryKey.KeyId, signing(now)); !ok {
		return nil, errors.New("its primary key may not sign; only subkeys may, and some clients reject what those sign")
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

// readPrivate reads exactly one private key and decrypts it.
func readPrivate(data, passphrase []byte) (*openpgp.Entity, error) {
	if len(data) > maxKeyring {
		return nil, fmt.Errorf("a key file of %d bytes", len(data))
	}
	list, err := readEntities(data)
	if err != nil {
		return nil, fmt.Errorf("it is no OpenPGP key: %v", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("it has %d keys, and one is wanted: gpg --export-secret-keys FINGERPRINT", len(list))
	}
	e := list[0]
	switch {
	case e.PrivateKey == nil:
		return nil, errors.New("it is a public key; the private one is wanted: gpg --export-secret-keys FINGERPRINT")
	case e.PrivateKey.Dummy():
		return nil, errors.New("its primary key is not in the file, only subkeys are; some clients reject what those sign")
	case e.PrivateKey.Encrypted && len(passphrase) == 0:
		return nil, errors.New("it is encrypted, and there is no passphrase for it")
	case e.PrivateKey.Encrypted:
		if err := e.DecryptPrivateKeys(passphrase); err != nil {
			return nil, errors.New("the passphrase does not open it")
		}
	}
	return e, nil
}

func readEntities(data []byte) (openpgp.EntityList, error) {
	if !bytes.Contains(data, []byte("-----BEGIN PGP ")) {
		return openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return openpgp.ReadKeyRing(block.Body)
}

// Key is the public part.
func (s *FileSigner) Key() *Keyring { return s.key }

// Sign makes a message of one literal, not compressed, with a SHA-512 signature by the primary key.
// It is made whole or not at all: go-crypto has written some of it already when it fails.
func (s *FileSigner) Sign(ctx context.Context, claim Claim) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	config := signing(s.clock())
	config.SigningKeyId = s.entity.PrimaryKey.KeyId
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, []*openpgp.Entity{s.entity}, &openpgp.FileHints{}, config)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, bytes.NewReader(claim.Payload())); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
