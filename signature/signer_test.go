package signature_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgppacket "github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// signerNow is after everything that happened to the keys of testdata/signer.
var signerNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

// privateKey is a file of testdata/signer, see make.sh there.
func privateKey(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "signer", name+".asc"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// dearmored is the binary form of an armored file.
func dearmored(t testing.TB, data []byte) []byte {
	t.Helper()
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(block.Body); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func newSigner(t testing.TB, private []byte, clock func() time.Time) *signature.FileSigner {
	t.Helper()
	s, err := signature.NewFileSigner(private, nil, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claimOf(reference string) signature.Claim {
	return signature.Claim{
		Reference: reference, Digest: digest.FromString(reference),
		Creator: "countersign", Timestamp: signerNow,
	}
}

// fingerprintOf is the one of a signer's key.
func fingerprintOf(t testing.TB, ring *signature.Keyring) string {
	t.Helper()
	keys := ring.Keys()
	if len(keys) != 1 {
		t.Fatalf("%d keys, want one: %v", len(keys), keys)
	}
	return keys[0].Fingerprint
}

// verified is what a keyring says of a message, which has to verify.
func verified(t testing.TB, ring *signature.Keyring, message []byte, now time.Time) signature.Signature {
	t.Helper()
	m, err := signature.Parse(message)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	s, err := ring.Verify(m, now)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return s
}

// A signer signs with every form of key that people have, with the primary key.
func TestFileSigner(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, key, passphrase string
		binary                bool
	}{
		{name: "armored", key: "plain"},
		{name: "binary", key: "plain", binary: true},
		{name: "passphrase not needed", key: "plain", passphrase: "left over"},
		{name: "encrypted by gpg", key: "protected", passphrase: "correct horse"},
		{name: "newer signing subkey", key: "subkeys"},
		{name: "prefers SHA-1", key: "sha1"},
		{name: "expires later", key: "ends"},
		{name: "several self-signatures", key: "selfsigs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			private := privateKey(t, test.key)
			if test.binary {
				private = dearmored(t, private)
			}
			signer, err := signature.NewFileSigner(private, []byte(test.passphrase), at(signerNow))
			if err != nil {
				t.Fatal(err)
			}
			claim := claimOf("registry.example.com/app:1")
			message, err := signer.Sign(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			s := verified(t, signer.Key(), message, signerNow)
			if s.Claim != claim {
				t.Errorf("claim %+v, want %+v", s.Claim, claim)
			}
			if want := fingerprintOf(t, signer.Key()); s.Fingerprint != want || s.Subkey || s.Algorithm != "RSA 3072" {
				t.Errorf("by %s, subkey %v, %s; want %s, false, RSA 3072", s.Fingerprint, s.Subkey, s.Algorithm, want)
			}
			if s.UserID != test.key || !s.Created.Equal(signerNow) || !s.Expires.IsZero() {
				t.Errorf("by %q, made %v, expires %v; want %q, %v, never", s.UserID, s.Created, s.Expires, test.key, signerNow)
			}
			if err := s.ReadableBy(signature.AllClients); err != nil {
				t.Errorf("not every client reads it: %v", err)
			}
			checkPackets(t, message, claim)
		})
	}
}

// checkPackets says whether a message has the packets of protocol.md 5.2 that every client reads.
func checkPackets(t *testing.T, message []byte, claim signature.Claim) {
	t.Helper()
	packets := pgppacket.NewReader(bytes.NewReader(message))
	next := func() pgppacket.Packet {
		p, err := packets.Next()
		if err != nil {
			t.Fatalf("packet: %v", err)
		}
		return p
	}
	if p, ok := next().(*pgppacket.OnePassSignature); !ok || p.Version != 3 || p.SigType != pgppacket.SigTypeBinary {
		t.Errorf("packet 1 is %T %+[1]v, want a one-pass signature v3 of class 0", p)
	}
	literal, ok := next().(*pgppacket.LiteralData)
	if !ok {
		t.Fatal("packet 2 is no literal")
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(literal.Body); err != nil {
		t.Fatal(err)
	}
	if literal.Format != 'b' || literal.FileName != "" || !bytes.Equal(body.Bytes(), claim.Payload()) {
		t.Errorf("literal is mode %c, name %q, %s; want b, none, %s", literal.Format, literal.FileName, &body, claim.Payload())
	}
	s, ok := next().(*pgppacket.Signature)
	if !ok {
		t.Fatal("packet 3 is no signature")
	}
	if h := s.Hash.String(); s.Version != 4 || h != "SHA-512" && h != "SHA-256" || len(s.Notations) != 0 {
		t.Errorf("signature is v%d, %s, notations %v; want v4, SHA-256 or SHA-512, none", s.Version, h, s.Notations)
	}
	if p, err := packets.Next(); err == nil {
		t.Errorf("packet 4 is %T, want the end", p)
	}
}

// A key whose time is over does not stop a server that has more to do than sign. It signs nothing.
func TestFileSignerSpent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		key  string
		now  time.Time
		want string
	}{
		{"expired", signerNow, "--quick-set-expire"},
		{"ends", signerNow.AddDate(30, 0, 0), "expired"},
		{"revoked", signerNow, "revoked; sign with another key"},
		{"plain", signerNow.AddDate(-10, 0, 0), "from the future"},
	} {
		signer := newSigner(t, privateKey(t, test.key), at(test.now))
		message, err := signer.Sign(t.Context(), claimOf("a.example/b:1"))
		if message != nil || !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d bytes, %v; want nothing, and ErrSigner that says %q", test.key, len(message), err, test.want)
		}
		if err := signer.Key().MaySign(test.now); !errors.Is(err, signature.ErrSigner) {
			t.Errorf("%s: MaySign: %v, want ErrSigner", test.key, err)
		}
	}
}

// Whether a key may sign depends on the time alone, not on when it was asked before or by whom else.
func TestMaySignTogether(t *testing.T) {
	t.Parallel()
	ring := newSigner(t, privateKey(t, "ends"), at(signerNow)).Key()
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			if err := ring.MaySign(signerNow); err != nil {
				t.Errorf("%d: now: %v", n, err)
			}
			if err := ring.MaySign(signerNow.AddDate(30, 0, 0)); !errors.Is(err, signature.ErrSigner) {
				t.Errorf("%d: after its end: %v, want ErrSigner", n, err)
			}
			if err := ring.MaySign(signerNow.AddDate(-30, 0, 0)); !errors.Is(err, signature.ErrSigner) {
				t.Errorf("%d: before it was made: %v, want ErrSigner", n, err)
			}
		})
	}
	all.Wait()
}

// Key has nothing in it that should stay with the server.
func TestFileSignerKeyIsPublic(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "subkeys"} {
		ring := newSigner(t, privateKey(t, name), at(signerNow)).Key()
		packets := pgppacket.NewReader(bytes.NewReader(ring.Binary()))
		for p, err := packets.Next(); err == nil; p, err = packets.Next() {
			if _, private := p.(*pgppacket.PrivateKey); private {
				t.Errorf("%s: the public part has a private key in it", name)
			}
		}
		if strings.Contains(string(ring.Armored()), "PRIVATE") {
			t.Errorf("%s: armored as private: %s", name, ring.Armored())
		}
	}
}

// A key may end while the server runs. From then on it signs nothing, and says why.
func TestFileSignerKeyEnds(t *testing.T) {
	t.Parallel()
	now := signerNow
	signer := newSigner(t, privateKey(t, "ends"), func() time.Time { return now })
	if _, err := signer.Sign(t.Context(), claimOf("a.example/b:1")); err != nil {
		t.Fatalf("before its end: %v", err)
	}
	now = now.AddDate(30, 0, 0)
	message, err := signer.Sign(t.Context(), claimOf("a.example/b:1"))
	if err == nil || len(message) != 0 {
		t.Fatalf("behind its end: %d bytes, error %v; want none, and an error", len(message), err)
	}
	for _, want := range []string{fingerprintOf(t, signer.Key()), "expired"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestFileSignerCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	message, err := newSigner(t, privateKey(t, "plain"), at(signerNow)).Sign(ctx, claimOf("a.example/b:1"))
	if !errors.Is(err, context.Canceled) || message != nil {
		t.Errorf("%d bytes, error %v; want none, canceled", len(message), err)
	}
}

// go-crypto remembers inside a key which self-signatures it has checked. A clock that is set back
// makes it check another one, and all calls do so at once.
func TestFileSignerConcurrently(t *testing.T) {
	t.Parallel()
	for range 5 {
		now := signerNow
		signer := newSigner(t, privateKey(t, "selfsigs"), func() time.Time { return now })
		now = time.Date(2025, 2, 15, 0, 0, 0, 0, time.UTC) // of three self-signatures one is there
		start := make(chan struct{})
		var group sync.WaitGroup
		for worker := range 8 {
			group.Go(func() {
				<-start
				signAndVerify(t, signer, claimOf(fmt.Sprintf("registry.example.com/app:%d", worker)), now)
			})
		}
		close(start)
		group.Wait()
	}
}

func signAndVerify(t *testing.T, signer *signature.FileSigner, claim signature.Claim, now time.Time) {
	message, err := signer.Sign(t.Context(), claim)
	if err != nil {
		t.Errorf("Sign: %v", err)
		return
	}
	m, err := signature.Parse(message)
	if err != nil {
		t.Errorf("Parse: %v", err)
		return
	}
	if s, err := signer.Key().Verify(m, now); err != nil || s.Claim != claim {
		t.Errorf("claim %+v, error %v; want %+v", s.Claim, err, claim)
	}
}

func BenchmarkSign(b *testing.B) {
	signer := newSigner(b, privateKey(b, "plain"), at(signerNow))
	claim := claimOf("registry.example.com/app:1")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := signer.Sign(b.Context(), claim); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
