package signature_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/signature"
)

// away is a token that was pulled out.
type away struct{ signature.Token }

var errAway = errors.New("CKR_DEVICE_REMOVED")

func (away) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errAway }

// What a token signs is what a key file would. A token that fails says why.
func TestTokenSigner(t *testing.T) {
	t.Parallel()
	token, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signature.CertifyToken("Token <token@example.com>", token, signerNow.AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.NewTokenSigner(public, token, at(signerNow))
	if err != nil {
		t.Fatal(err)
	}
	claim := claimOf("registry.example.com/app:1")
	message, err := signer.Sign(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	s := verified(t, signer.Key(), message, signerNow)
	if s.Claim != claim || s.Subkey || s.UserID != "Token <token@example.com>" || s.Algorithm != "RSA 3072" {
		t.Errorf("signed %+v, want %+v with the primary key", s, claim)
	}
	checkPackets(t, message, claim)

	gone, err := signature.NewTokenSigner(public, away{token}, at(signerNow))
	if err != nil {
		t.Fatal(err)
	}
	if content, err := gone.Sign(t.Context(), claim); content != nil || !errors.Is(err, errAway) {
		t.Errorf("%d bytes, %v; want the token's own error", len(content), err)
	}
	if _, err := signature.CertifyToken("Token", away{token}, signerNow); !errors.Is(err, errAway) {
		t.Errorf("%v, want the token's own error", err)
	}
}

// A token's key has to be one that every client reads, and the one that was certified.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	short, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]signature.Token{"short": short, "ECDSA": curve} {
		if _, err := signature.CertifyToken("Token", token, signerNow); err == nil || !strings.Contains(err.Error(), "3072") {
			t.Errorf("%s: %v, want an error that says what is wanted", name, err)
		}
	}
	plain := newSigner(t, privateKey(t, "plain"), at(signerNow)).Key()
	if _, err := signature.NewTokenSigner(plain.Armored(), short, at(signerNow)); err == nil || !strings.Contains(err.Error(), plain.Keys()[0].Fingerprint) {
		t.Errorf("with the public part of another key: %v, want an error that names it", err)
	}
}
