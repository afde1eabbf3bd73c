package signature

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// ErrSigner: one of the server's keys cannot sign now. What is wrong is in the message, which is
// for whoever runs the server.
var ErrSigner = errors.New("the key cannot sign now")

// MaySign says why one of the keys may not sign at this time: it is expired, revoked, from the
// future, or its primary key is not for signing. Nil: all of them may.
func (r *Keyring) MaySign(now time.Time) error {
	r.own.Lock()
	defer r.own.Unlock()
	if r.entities == nil {
		entities, err := openpgp.ReadKeyRing(bytes.NewReader(r.Binary()))
		if err != nil {
			return err
		}
		r.entities = entities
	}
	for _, e := range r.entities {
		if _, err := usable(e, now); err != nil {
			return fmt.Errorf("key %X: %w", e.PrimaryKey.Fingerprint, err)
		}
	}
	return nil
}

// ReadableBy says whether all those clients read what these keys sign (protocol.md 5.2).
func (r *Keyring) ReadableBy(c Clients) error {
	for _, k := range r.keys {
		if err := (Signature{Fingerprint: k.Fingerprint, Algorithm: k.Algorithm}).ReadableBy(c); err != nil {
			return err
		}
	}
	return nil
}

// Spent says why keys verify nothing any more at this time, by their fingerprints: they are expired or
// revoked. Those that it does not name are good, or will be.
func (r *Keyring) Spent(now time.Time) (map[string]error, error) {
	entities, err := openpgp.ReadKeyRing(bytes.NewReader(r.Binary())) // its own: go-crypto writes into them
	if err != nil {
		return nil, err
	}
	spent := map[string]error{}
	for _, e := range entities {
		// The last one first: once go-crypto has seen that it is expired, it takes it for none.
		last, _ := e.PrimarySelfSignature(time.Time{}, verification(time.Time{}))
		_, err := e.VerifyPrimaryKey(now, verification(now))
		switch {
		case e.Revoked(now):
			err = errors.New("revoked")
		case errors.Is(err, pgperrors.ErrKeyExpired), err != nil && last != nil && !last.CreationTime.After(now) && last.SigExpired(now):
			err = errors.New("expired")
		default:
			continue
		}
		spent[fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)] = err
	}
	return spent, nil
}
