package signature_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/countersign-dev/countersign/signature"
)

// manyKeys are n good keys, Ed25519: one pair with as many dates, and so as many fingerprints.
func manyKeys(t testing.TB, n int) []byte {
	t.Helper()
	config := &pgppacket.Config{Algorithm: pgppacket.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Unix(1600000000, 0) }}
	e, err := openpgp.NewEntity("many", "", "", config)
	if err != nil {
		t.Fatal(err)
	}
	e.Subkeys = nil
	var ring bytes.Buffer
	for i := range n {
		at := time.Unix(1500000000+int64(i), 0)
		private := pgppacket.NewEdDSAPrivateKey(at, e.PrivateKey.PrivateKey.(*eddsa.PrivateKey))
		self := &pgppacket.Signature{
			Version: 4, SigType: pgppacket.SigTypePositiveCert, PubKeyAlgo: private.PubKeyAlgo, Hash: config.Hash(),
			CreationTime: at, IssuerKeyId: &private.KeyId, FlagsValid: true, FlagSign: true,
		}
		id := &pgppacket.UserId{Id: fmt.Sprintf("key %d", i)}
		if err := self.SignUserId(id.Id, &private.PublicKey, private, config); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(private.PublicKey.Serialize(&ring), id.Serialize(&ring), self.Serialize(&ring)); err != nil {
			t.Fatal(err)
		}
	}
	return ring.Bytes()
}

// By key type, alone in its ring, and by the size of the ring.
func BenchmarkVerify(b *testing.B) {
	for _, key := range []string{"good", "rsa3072", "rsa4096", "p256", "p384", "p521", "ed25519", "many"} {
		b.Run("key="+key, func(b *testing.B) { benchmarkVerify(b, ringOf(b, key), door(b, "by-"+key+".sig")) })
	}
	for _, size := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("ring=%d", size), func(b *testing.B) {
			ring := signature.Join(readRing(b, manyKeys(b, size)), ringOf(b, "rsa3072"))
			benchmarkVerify(b, ring, door(b, "by-rsa3072.sig"))
		})
	}
}

func benchmarkVerify(b *testing.B, ring *signature.Keyring, blob []byte) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseAndVerify(ring, blob, signerNow); err != nil {
			b.Fatal(err)
		}
	}
}

// What a reload costs.
func BenchmarkReadKeyring(b *testing.B) {
	for _, size := range []int{1, 100, 10_000} {
		keys := manyKeys(b, size)
		b.Run(fmt.Sprintf("keys=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ring, err := signature.ReadKeyring(keys); err != nil || ring.Len() != size {
					b.Fatal(err)
				}
			}
		})
	}
}
