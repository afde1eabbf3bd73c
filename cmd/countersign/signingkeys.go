package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// ownKey is what rules call the key that the server has made itself.
const ownKey = "server"

// openKeys opens the keys that the settings name, or else the server's own.
func (h *house) openKeys(ctx context.Context, s settings) (err error) {
	if len(s.Signing.Keys) > 0 {
		if err := keepSecret(); err != nil {
			return err
		}
		h.keys, err = openKeys(s, time.Now)
		return err
	}
	h.signer, h.made, err = keyIn(s.Data).open(ctx, h.mayMakeKey(s), s.controlled(), time.Now)
	if err != nil {
		return err
	}
	h.keys = map[string]signature.Signer{}
	switch {
	case h.signer == nil && s.Store.remote():
		h.log.Warn("nothing is signed: with a database the server makes itself no key; name keys in signing.keys", "data", s.Data)
		return nil
	case h.signer == nil:
		h.log.Warn("nothing is signed: there are signatures, and the key in keys/server.key is gone; bring it back from a backup", "data", s.Data)
		return nil
	}
	h.keys[ownKey] = h.signer
	return nil
}

// openKeys publishes the public parts beside where a key of the server's own would be, whether a
// rule names them or not: what they signed once is still served.
func openKeys(s settings, clock func() time.Time) (map[string]signature.Signer, error) {
	keys := map[string]signature.Signer{}
	for name, at := range s.Signing.Keys {
		signer, err := at.open(clock)
		if err != nil {
			return nil, fmt.Errorf("signing.keys.%s: %w", name, err)
		}
		for other, has := range keys {
			if shared := signature.Shared(signer.Key(), has.Key()); len(shared) > 0 {
				return nil, fmt.Errorf("signing.keys: %s and %s are the same key, %s", name, other, shared[0])
			}
		}
		keys[name] = signer
		published := keyFile{public: filepath.Join(s.Data, "keys", name+".asc")}
		if err := published.publish(signer.Key().Armored()); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (at keyAt) open(clock func() time.Time) (*signature.FileSigner, error) {
	private, err := keyFile{private: at.File}.read()
	if err != nil {
		return nil, err
	}
	var passphrase []byte
	if at.PassphraseFile != "" {
		if passphrase, err = readPassphrase(at.PassphraseFile); err != nil {
			return nil, err
		}
	}
	signer, err := signature.NewFileSigner(private, passphrase, clock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.File, err)
	}
	return signer, nil
}
