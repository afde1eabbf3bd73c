package signature_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A revoked key signs nothing any more, and what it signed before no longer verifies, by its new
// public part, whatever the reason.
func TestRevoke(t *testing.T) {
	t.Parallel()
	for _, why := range []signature.Revocation{signature.Compromised, signature.Superseded, signature.Retired} {
		for key, passphrase := range map[string]string{"plain": "", "protected": "correct horse", "subkeys": ""} {
			if key == "protected" && why != signature.Compromised {
				continue // a passphrase takes its time, and asks for no reason
			}
			private := privateKey(t, key)
			before, err := signature.NewFileSigner(private, []byte(passphrase), at(signerNow))
			if err != nil {
				t.Fatal(err)
			}
			message, err := before.Sign(t.Context(), claimOf("registry.example.com/app:1"))
			if err != nil {
				t.Fatal(err)
			}
			later := signerNow.Add(time.Hour)
			revoked, public, err := signature.Revoke(private, []byte(passphrase), why, later)
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			after, err := signature.NewFileSigner(revoked, []byte(passphrase), at(later))
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			if got, err := after.Sign(t.Context(), claimOf("registry.example.com/app:1")); got != nil || !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("%s, %s: %d bytes, %v; want ErrSigner that says revoked", key, why, len(got), err)
			}
			if passphrase != "" {
				if _, err := signature.NewFileSigner(revoked, nil, at(later)); err == nil {
					t.Errorf("%s: the revoked key lost its passphrase", key)
				}
			}
			m, err := signature.Parse(message)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readRing(t, public).Verify(m, later); err == nil || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("%s, %s: what it signed verifies: %v", key, why, err)
			}
		}
	}
	if _, _, err := signature.Revoke(privateKey(t, "plain"), nil, "because", signerNow); err == nil {
		t.Error("revoked without a reason that there is")
	}
	if _, _, err := signature.Revoke(privateKey(t, "expired"), nil, signature.Retired, signerNow); err != nil {
		t.Errorf("a key that is expired: %v", err)
	}
}
