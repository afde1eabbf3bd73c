package signature_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A key of every algorithm signs, with a passphrase or without, and expires when it shall. What only
// recent clients read is said.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	name := map[signature.Algorithm]string{
		signature.RSA3072: "RSA 3072", signature.RSA4096: "RSA 4096", signature.P256: "ECDSA P-256", signature.P384: "ECDSA P-384", signature.Ed25519: "EdDSA Ed25519",
	}
	for _, algorithm := range signature.Algorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			private, public, err := signature.Spec{
				UserID: "countersign", Algorithm: algorithm, Lifetime: 24 * time.Hour, Passphrase: []byte("correct horse"),
			}.Generate(signerNow)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signature.NewFileSigner(private, nil, at(signerNow)); err == nil || !strings.Contains(err.Error(), "encrypted") {
				t.Errorf("without the passphrase: %v, want an error that says it is encrypted", err)
			}
			signer, err := signature.NewFileSigner(private, []byte("correct horse"), at(signerNow))
			if err != nil {
				t.Fatal(err)
			}
			ring, err := signature.ReadKeyring(public)
			if err != nil {
				t.Fatal(err)
			}
			key := ring.Keys()[0]
			if end := signerNow.Add(24 * time.Hour); key.Fingerprint != fingerprintOf(t, signer.Key()) || key.Algorithm != name[algorithm] || !key.Expires.Equal(end) {
				t.Errorf("made %+v, want %s that expires at %v", key, name[algorithm], end)
			}
			message, err := signer.Sign(t.Context(), claimOf("registry.example.com/app:1"))
			if err != nil {
				t.Fatal(err)
			}
			s := verified(t, ring, message, signerNow)
			all := signature.Clients(signature.AllClients)
			if rsa := strings.HasPrefix(string(algorithm), "rsa"); (ring.ReadableBy(all) == nil) != rsa || (s.ReadableBy(all) == nil) != rsa || ring.ReadableBy(signature.RecentClients) != nil {
				t.Errorf("all clients: %v and %v, recent ones: %v", ring.ReadableBy(all), s.ReadableBy(all), ring.ReadableBy(signature.RecentClients))
			}
			if err := ring.MaySign(signerNow); err != nil {
				t.Errorf("may sign now: %v", err)
			}
			if err := ring.MaySign(signerNow.Add(25 * time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("after its end: %v, want an error that says expired", err)
			}
		})
	}
}

func TestSpecRefuses(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]signature.Spec{
		"rsa2048":          {UserID: "a", Algorithm: "rsa2048"},
		"no algorithm":     {UserID: "a"},
		"no name":          {Algorithm: signature.Ed25519},
		"a past end":       {UserID: "a", Algorithm: signature.Ed25519, Lifetime: -time.Hour},
		"a distant end":    {UserID: "a", Algorithm: signature.Ed25519, Lifetime: 200 * 365 * 24 * time.Hour},
		"half of a second": {UserID: "a", Algorithm: signature.Ed25519, Lifetime: time.Second / 2},
	} {
		if _, _, err := spec.Generate(signerNow); err == nil {
			t.Errorf("%s: made, want an error", name)
		}
	}
}

// Nodes get the same messages whatever signs them; what an algorithm costs is in doc/operating.md.
func BenchmarkAlgorithms(b *testing.B) {
	for _, algorithm := range signature.Algorithms() {
		private, _, err := signature.Spec{UserID: "countersign", Algorithm: algorithm}.Generate(signerNow)
		if err != nil {
			b.Fatal(err)
		}
		signer := newSigner(b, private, at(signerNow))
		ring := signer.Key()
		message, err := signer.Sign(b.Context(), claimOf("registry.example.com/app:1"))
		if err != nil {
			b.Fatal(err)
		}
		b.Run("sign/"+string(algorithm), func(b *testing.B) {
			for b.Loop() {
				if _, err := signer.Sign(b.Context(), claimOf("registry.example.com/app:1")); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("verify/"+string(algorithm), func(b *testing.B) {
			for b.Loop() {
				verified(b, ring, message, signerNow)
			}
		})
	}
}
