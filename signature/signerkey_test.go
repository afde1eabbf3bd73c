package signature_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// What a server cannot sign with is refused when it starts, and the refusal says what to do.
func TestNewFileSignerRefuses(t *testing.T) {
	t.Parallel()
	plain, protected := privateKey(t, "plain"), privateKey(t, "protected")
	public := newSigner(t, plain, at(signerNow)).Key()
	both := append(dearmored(t, plain), dearmored(t, privateKey(t, "sha1"))...)
	for _, test := range []struct {
		name       string
		data       []byte
		passphrase string
		now        time.Time
		want       []string
	}{
		{name: "empty", data: []byte{}, want: []string{"no OpenPGP key", "--export-secret-keys"}},
		{name: "text", data: []byte("hunter2\n"), want: []string{"no OpenPGP key", "--export-secret-keys"}},
		{name: "armored message", data: []byte("-----BEGIN PGP MESSAGE-----\n\nowE=\n-----END PGP MESSAGE-----\n"), want: []string{"no OpenPGP key"}},
		{name: "armored, cut", data: plain[:len(plain)/2], want: []string{"no OpenPGP key"}},
		{name: "armored, changed", data: changed(plain, len(plain)/2), want: []string{"no OpenPGP key"}},
		{name: "binary, cut", data: dearmored(t, plain)[:1000], want: []string{"no OpenPGP key"}},
		{name: "too large", data: make([]byte, 33<<20), want: []string{"bytes"}},
		{name: "public, armored", data: public.Armored(), want: []string{"public", "--export-secret-keys"}},
		{name: "public, binary", data: public.Binary(), want: []string{"public", "--export-secret-keys"}},
		{name: "two keys", data: both, want: []string{"more than one", "--export-secret-keys FINGERPRINT"}},
		{name: "a key and rubbish", data: append(dearmored(t, plain), "rubbish"...), want: []string{"no OpenPGP key"}},
		{name: "two armored blocks", data: append(bytes.Clone(plain), privateKey(t, "sha1")...), want: []string{"more than one", "--export-secret-keys FINGERPRINT"}},
		{name: "public part behind", data: append(bytes.Clone(plain), public.Armored()...), want: []string{"more than one"}},
		{name: "no passphrase", data: protected, want: []string{"encrypted", "passphrase"}},
		{name: "wrong passphrase", data: protected, passphrase: "battery staple", want: []string{"passphrase does not open it", "line end"}},
		{name: "line end in the passphrase", data: protected, passphrase: "correct horse\n", want: []string{"passphrase does not open it", "line end"}},
		{name: "RSA 2048", data: privateKey(t, "short"), want: []string{"RSA 2048", "RSA primary keys of 3072 bits"}},
		{name: "certifies only", data: privateKey(t, "certifies"), want: []string{"primary key may not sign", "another key"}},
		{name: "primary key elsewhere", data: privateKey(t, "stub"), want: []string{"primary key is not in the file", "--export-secret-keys"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			now := test.now
			if now.IsZero() {
				now = signerNow
			}
			_, err := signature.NewFileSigner(test.data, []byte(test.passphrase), at(now))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if p := test.passphrase; p != "" && strings.Contains(err.Error(), p) {
				t.Errorf("error %q tells the passphrase", err)
			}
		})
	}
}

// A damaged file makes no signer, or one with the same key whose signatures are good.
func TestNewFileSignerDamaged(t *testing.T) {
	t.Parallel()
	plain := privateKey(t, "plain")
	ring := newSigner(t, plain, at(signerNow)).Key()
	body := bytes.Index(plain, []byte("\n\n")) + 2
	refused := 0
	for i := body; i < len(plain)-60; i += 11 {
		signer, err := signature.NewFileSigner(changed(plain, i), nil, at(signerNow))
		if err != nil {
			refused++
			continue
		}
		message, err := signer.Sign(t.Context(), claimOf("a.example/b:1"))
		if err != nil {
			t.Fatalf("letter %d: Sign: %v", i, err)
		}
		verified(t, ring, message, signerNow)
	}
	if refused < 100 {
		t.Errorf("%d damaged files refused, want nearly all", refused)
	}
}

// changed is an armored file with another letter at or behind i.
func changed(armored []byte, i int) []byte {
	armored = bytes.Clone(armored)
	if armored[i] == '\n' {
		i++
	}
	armored[i] = map[bool]byte{true: 'B', false: 'A'}[armored[i] == 'A']
	return armored
}

// Whatever a file has in it, the answer is an error or a signer with one key.
func FuzzNewFileSigner(f *testing.F) {
	for _, name := range []string{"plain", "protected", "stub", "ed25519", "revoked", "selfsigs"} {
		f.Add(privateKey(f, name))
		f.Add(dearmored(f, privateKey(f, name)))
	}
	f.Fuzz(func(t *testing.T, private []byte) {
		s, err := signature.NewFileSigner(private, nil, at(signerNow))
		if (s == nil) == (err == nil) {
			t.Fatalf("signer %v, error %v: want exactly one", s, err)
		}
		if err == nil {
			fingerprintOf(t, s.Key())
		}
	})
}
