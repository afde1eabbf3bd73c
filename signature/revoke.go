package signature

import (
	"fmt"
	"io"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// A Revocation is why a key is revoked.
type Revocation string

const (
	Compromised Revocation = "compromised" // somebody else may have it
	Superseded  Revocation = "superseded"  // another has taken its place
	Retired     Revocation = "retired"     // nobody needs it any more
)

// Revoke ends a key for good. Both parts come back with the revocation in them, the private one
// encrypted as it was. Clients that are given the public one reject what the key has signed, also
// before, whatever the reason.
func Revoke(private, passphrase []byte, why Revocation, now time.Time) (revoked, public []byte, err error) {
	reason, ok := map[Revocation]pgppacket.ReasonForRevocation{
		Compromised: pgppacket.KeyCompromised, Superseded: pgppacket.KeySuperseded, Retired: pgppacket.KeyRetired,
	}[why]
	if !ok {
		return nil, nil, fmt.Errorf("a key is revoked because it is %s, %s or %s, not %q", Compromised, Superseded, Retired, why)
	}
	// One that is expired can be revoked, too, and one that is revoked already for a graver reason.
	e, _, err := readSigner(private, passphrase, now)
	if e == nil {
		return nil, nil, err
	}
	if err := e.Revoke(reason, "", signing(now)); err != nil {
		return nil, nil, err
	}
	public, err = armored(openpgp.PublicKeyType, e.Serialize)
	if err != nil {
		return nil, nil, err
	}
	if len(passphrase) > 0 {
		if err := e.PrivateKey.Encrypt(passphrase); err != nil {
			return nil, nil, err
		}
	}
	revoked, err = armored(openpgp.PrivateKeyType, func(w io.Writer) error { return e.SerializePrivateWithoutSigning(w, signing(now)) })
	return revoked, public, err
}
