package signature_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"
	"time"

	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign-dev/countersign/signature"
)

// OpenPGP has the smaller prime of an RSA key first, whichever Go made first.
func TestSmallerPrimeFirst(t *testing.T) {
	t.Parallel()
	made, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other := &rsa.PrivateKey{PublicKey: made.PublicKey, D: made.D, Primes: []*big.Int{made.Primes[1], made.Primes[0]}}
	other.Precompute()
	for name, key := range map[string]*rsa.PrivateKey{"as made": made, "the other way": other} {
		var written bytes.Buffer
		if err := pgppacket.NewRSAPrivateKey(time.Unix(0, 0), signature.SmallerFirst(key)).Serialize(&written); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p, q := firstPrimes(t, written.Bytes())
		if p.Cmp(q) >= 0 || new(big.Int).Mul(p, q).Cmp(made.N) != 0 {
			t.Errorf("%s: OpenPGP has %x first, and then %x", name, p, q)
		}
	}
}

// firstPrimes reads p and q of a private RSA key that is not encrypted: version, time and algorithm, n and e,
// how it is encrypted, and d are in front (RFC 9580, 5.5.3).
func firstPrimes(t *testing.T, packet []byte) (p, q *big.Int) {
	t.Helper()
	opaque, err := pgppacket.NewOpaqueReader(bytes.NewReader(packet)).Next()
	if err != nil {
		t.Fatal(err)
	}
	rest := opaque.Contents[6:]
	next := func() *big.Int {
		size := (int(rest[0])<<8 + int(rest[1]) + 7) / 8
		n := new(big.Int).SetBytes(rest[2 : 2+size])
		rest = rest[2+size:]
		return n
	}
	next()
	next()
	rest = rest[1:]
	next()
	return next(), next()
}
