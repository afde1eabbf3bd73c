package signer

import (
	"context"
	"fmt"

	"github.com/countersign-dev/countersign/signature"
)

// A Retired key has signed once, and its private part is gone. It is there to be published.
type Retired struct{ key *signature.Keyring }

// NewRetired returns the signer of a key that signs nothing any more.
func NewRetired(key *signature.Keyring) (Retired, error) { return Retired{key}, one(key) }

// one refuses a public file that has more than the key of one signer.
func one(key *signature.Keyring) error {
	if n := len(key.Keys()); n != 1 {
		return fmt.Errorf("there are %d keys in its public file, and a signer has one", n)
	}
	return nil
}

// Key is the public key.
func (r Retired) Key() *signature.Keyring { return r.key }

// Sign says no.
func (r Retired) Sign(context.Context, signature.Claim) ([]byte, error) {
	return nil, fmt.Errorf("%w: key %s is retired: its private part is not here", signature.ErrSigner, fingerprint(r.key))
}
