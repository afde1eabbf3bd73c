package signature_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// door reads a file of testdata/door, see make.sh there.
func door(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "door", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ringOf reads keyrings of testdata/door.
func ringOf(t testing.TB, names ...string) *signature.Keyring {
	t.Helper()
	var all []byte
	for _, name := range names {
		all = append(all, door(t, name+".gpg")...)
	}
	return readRing(t, all)
}

func parseAndVerify(ring *signature.Keyring, blob []byte, now time.Time) (signature.Signature, error) {
	m, err := signature.Parse(blob)
	if err != nil {
		return signature.Signature{}, err
	}
	return ring.Verify(m, now)
}

// zipped is a compressed packet as gpg writes it: until the end of the file.
func zipped(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write([]byte{0xa3, 1})
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever gpg makes of a good key comes in, and what is known of it is right.
func TestVerify(t *testing.T) {
	t.Parallel()
	signed := time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		key, algorithm string
		subkey         bool
		clients        signature.Clients
	}{
		"by-good": {"good", "RSA 2048", false, signature.AllClients}, "zlib": {"good", "RSA 2048", false, signature.AllClients},
		"zip": {"good", "RSA 2048", false, signature.AllClients}, "bzip2": {"good", "RSA 2048", false, signature.AllClients},
		"plain": {"good", "RSA 2048", false, signature.AllClients}, "text": {"good", "RSA 2048", false, signature.AllClients},
		"parts": {"good", "RSA 2048", false, signature.AllClients}, "ends-late": {"good", "RSA 2048", false, signature.AllClients},
		"sha224": {"good", "RSA 2048", false, signature.AllClients}, "sha384": {"good", "RSA 2048", false, signature.AllClients},
		"sha512": {"good", "RSA 2048", false, signature.AllClients}, "by-rsa3072": {"rsa3072", "RSA 3072", false, signature.AllClients},
		"by-rsa4096": {"rsa4096", "RSA 4096", false, signature.AllClients},
		// Its self-signature is of SHA-1, as the release key of RHEL 6 to 9 is; what it signs is not.
		"by-sha1": {"sha1", "RSA 2048", false, signature.AllClients}, "by-many": {"many", "RSA 2048", false, signature.AllClients},
		"by-ed25519": {"ed25519", "EdDSA Ed25519", false, signature.RecentClients}, "by-p256": {"p256", "ECDSA P-256", false, signature.RecentClients},
		"by-p384": {"p384", "ECDSA P-384", false, signature.RecentClients}, "by-p521": {"p521", "ECDSA P-521", false, signature.RecentClients},
		"by-subkey": {"subkeys", "RSA 2048", true, signature.RecentClients}, "by-subkey-of-many": {"many", "RSA 2048", true, signature.RecentClients},
		"by-subkey-of-certifies": {"certifies", "RSA 2048", true, signature.RecentClients},
	} {
		blob, ring := door(t, name+".sig"), ringOf(t, test.key)
		s, err := parseAndVerify(ring, blob, signerNow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Fingerprint != fingerprintOf(t, ring) || !strings.HasPrefix(s.UserID, test.key) || s.Algorithm != test.algorithm || s.Subkey != test.subkey || !bytes.Equal(s.Content, blob) {
			t.Errorf("%s: got %+v", name, s)
		}
		if s.Claim.Reference != doorReference || s.Claim.Digest != doorDigest || !s.Created.Equal(signed) || s.Expires.IsZero() == (name == "ends-late") || len(s.Identity) != 64 {
			t.Errorf("%s: got %+v", name, s)
		}
		if all := s.ReadableBy(signature.AllClients) == nil; all != (test.clients == signature.AllClients) || s.ReadableBy(signature.RecentClients) != nil {
			t.Errorf("%s: readable by all clients is %v, want readable by %s", name, all, test.clients)
		}
	}
}

// A refused is a hostile or mistaken upload, and the sentence that its sender gets.
type refused struct {
	keys []string // of testdata/door; good if empty
	blob []byte
	err  error
	says string
}

// refusedForms are messages that no key makes good.
func refusedForms(t testing.TB) map[string]refused {
	sig := func(name string) []byte { return door(t, name+".sig") }
	plain, good, key := sig("plain"), sig("by-good"), door(t, "good.gpg")
	malformed := func(blob []byte, says string) refused { return refused{nil, blob, signature.ErrMalformed, says} }
	weak := func(blob []byte, says string) refused { return refused{nil, blob, signature.ErrUnverified, says} }
	return map[string]refused{
		"empty":                                 malformed(nil, "it is empty"),
		"text":                                  malformed([]byte("hello"), "it does not begin as a binary OpenPGP message does"),
		"armored":                               malformed(sig("armored"), "it is armored; sign without --armor"),
		"armored after blank lines":             malformed(slices.Concat([]byte("\r\n \n"), sig("armored")), "it is armored"),
		"clearsigned":                           malformed(sig("clearsigned"), "it is clearsigned; sign with gpg --sign"),
		"detached":                              malformed(sig("detached"), "it is a detached signature"),
		"detached in front of its data":         malformed(slices.Concat(sig("detached"), sig("literal-plain")), "it is a detached signature"),
		"unsigned literal":                      malformed(sig("literal"), "it has data and no signature"),
		"unsigned literal, not compressed":      malformed(sig("literal-plain"), "it has data and no signature"),
		"encrypted":                             malformed(sig("encrypted"), "it is encrypted; sign without encrypting"),
		"encrypted and signed":                  malformed(sig("encrypted-signed"), "it is encrypted"),
		"encrypted to a key":                    malformed(sig("encrypted-to-key"), "it is encrypted"),
		"a key":                                 malformed(key, "it is a key, not a signature"),
		"two signatures":                        malformed(sig("by-two"), "more than one signature"),
		"two signatures, not compressed":        malformed(sig("by-two-plain"), "more than one signature"),
		"two messages":                          malformed(slices.Concat(plain, plain), "there is more in it than one signed message"),
		"two compressed messages":               malformed(slices.Concat(good, good), "behind the compressed data"),
		"two messages in one compressed packet": malformed(zipped(t, slices.Concat(plain, plain)), "there is more in it than one signed message"),
		"bytes behind":                          malformed(slices.Concat(plain, []byte("x")), "there is more in it than one signed message"),
		"bytes behind the compressed message":   malformed(slices.Concat(good, []byte("x")), "there are 1 bytes behind the compressed data"),
		"bytes behind inside the compressed packet": malformed(zipped(t, slices.Concat(plain, []byte{0})), "there is more in it than one signed message"),
		"bytes behind a packet with its length":     malformed(slices.Concat([]byte{0xc8, 255, 0, 0, byte(len(good) >> 8), byte(len(good) - 1)}, good[1:], []byte("x")), "there is something behind the compressed message"),
		"compressed twice":                          malformed(zipped(t, good), "it is compressed twice"),
		"oversized":                                 malformed(sig("long"), "bytes, more than 65536"),
		"oversized inflated":                        malformed(sig("long-zip"), "it inflates to more than 65536 bytes"),
		"cut":                                       malformed(plain[:len(plain)-1], "it ends in the middle of a packet"),
		"cut, compressed":                           malformed(good[:len(good)-40], "it does not inflate"),
		"of an unknown compression":                 malformed([]byte{0xa3, 9, 1, 2}, "compressed by algorithm 9"),
		"a marker in front":                         malformed(slices.Concat([]byte{0xca, 3, 'P', 'G', 'P'}, plain), "it begins with a marker or padding"),
		"a one-pass packet of another key":          malformed(changedAt(plain, 8, 1), "its one-pass packet announces another signature than follows"),
		"text of other line ends":                   malformed(bytes.Replace(sig("text"), []byte("\r\n"), []byte("\n\n"), 1), "do not end as signed text does"),
		"no claim":                                  malformed(sig("hello"), "what is signed is not one JSON value"),
		"digest SHA-1":                              weak(sig("sha1"), "its digest is SHA-1, which is weak"),
		"digest MD5":                                weak(sig("md5"), "its digest is MD5, which is weak"),
		"digest RIPEMD-160":                         weak(sig("ripemd160"), "its digest is RIPEMD-160, which is weak"),
		"digest unknown":                            weak(digestOf(plain, 14), "its digest is of algorithm 14"),
		"algorithm weak":                            {[]string{"dsa"}, sig("by-dsa"), signature.ErrUnverified, "it is by a DSA key, which is weak"},
		"algorithm unknown":                         weak(algorithmOf(plain, 27), "it is of public-key algorithm 27"),
	}
}

// refusedKeys are good messages, of a time or a key for which they do not count.
func refusedKeys(t testing.TB) map[string]refused {
	with := func(keys, blob, says string) refused {
		return refused{strings.Fields(keys), door(t, blob+".sig"), signature.ErrUnverified, says}
	}
	stranger := with("good p256 many", "by-unknown", fingerprintOf(t, ringOf(t, "unknown")))
	stranger.err = signature.ErrUnknownKey
	changed := with("good", "plain", "the signature is bad")
	changed.blob = bytes.Replace(changed.blob, []byte("app:v1"), []byte("app:v2"), 1)
	return map[string]refused{
		"key unknown":                 stranger,
		"content changed":             changed,
		"signature expired":           with("good", "ended", "the signature is expired; sign again"),
		"signature in the future":     with("good", "future", "in the future; set the signer's clock"),
		"signature older than key":    with("good", "before-key", "the signature is dated before all that the key says of itself"),
		"signature with a condition":  with("good", "critical", "unknown critical notation"),
		"key expired":                 with("expired", "by-expired", "it is expired; extend it"),
		"key revoked":                 with("revoked0", "by-revoked0", "it is revoked; sign with another"),
		"key revoked, compromised":    with("revoked1", "by-revoked1", "it is revoked; sign with another"),
		"key revoked, superseded":     with("revoked2", "by-revoked2", "it is revoked; sign with another"),
		"key revoked, retired":        with("revoked3", "by-revoked3", "it is revoked; sign with another"),
		"key revoked, in a copy":      with("before-revoked2 revoked2", "by-revoked2", "it is revoked; sign with another"),
		"key revoked, the copy first": with("revoked2 before-revoked2", "by-revoked2", "it is revoked; sign with another"),
		"key revoked, in gpg's ring":  with("pubring-revoked2", "by-revoked2", "it is revoked; sign with another"),
		"key revoked by another":      with("designated", "by-designated", "which it names as its revoker"),
		"user ids revoked":            with("renamed", "by-renamed", "it has no user id that it signed itself and did not revoke"),
		"subkey expired":              with("subkeys", "by-expired-subkey", "it is expired; extend it"),
		"subkey revoked":              with("subkeys", "by-revoked-subkey", "the subkey that signed is revoked"),
		"key short":                   with("short", "by-short", "RSA 1024 is too short to be safe: 2048 bits are the least"),
		"curve secp256k1":             with("secp256k1", "by-secp256k1", "ECDSA SecP256k1 has a curve that not every recent client knows"),
		"curve brainpool":             with("brainpool", "by-brainpool", "ECDSA BrainpoolP256 has a curve"),
	}
}

// changedAt flips bits of a byte.
func changedAt(b []byte, i int, bits byte) []byte {
	b = bytes.Clone(b)
	b[i] ^= bits
	return b
}

// digestOf writes another digest algorithm into a message that is not compressed: in its one-pass
// packet and in its signature, which gpg writes in the old format, the last packet.
func digestOf(plain []byte, algorithm byte) []byte { return changedHead(plain, 4, 3, algorithm) }

// algorithmOf writes another public-key algorithm.
func algorithmOf(plain []byte, algorithm byte) []byte { return changedHead(plain, 5, 2, algorithm) }

func changedHead(plain []byte, inOnePass, inSignature int, value byte) []byte {
	b := bytes.Clone(plain)
	head := bytes.LastIndex(b, []byte{0x89, 1}) + 3
	b[inOnePass], b[head+inSignature] = value, value
	return b
}

// Each mistake and each attack is refused with a sentence of its own.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	all := refusedKeys(t)
	for name, test := range refusedForms(t) {
		all[name] = test
	}
	for name, test := range all {
		if len(test.keys) == 0 {
			test.keys = []string{"good"}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := parseAndVerify(ringOf(t, test.keys...), test.blob, signerNow)
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %+v and %v, want %v and %q", s.Claim, err, test.err, test.says)
			}
			if expired := strings.Contains(test.says, "expired;"); errors.Is(err, signature.ErrExpired) != expired {
				t.Errorf("it is ErrExpired: %v, want %v", !expired, expired)
			}
		})
	}
}

// Time passes: what was good is not any more.
func TestVerifyLater(t *testing.T) {
	t.Parallel()
	for name, day := range map[string]string{"expired": "2021-06-01", "subkeys": "2021-06-01"} {
		blob := "by-expired.sig"
		if name == "subkeys" {
			blob = "by-expired-subkey.sig"
		}
		ends, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		for offset, good := range map[time.Duration]bool{-24 * time.Hour: true, 48 * time.Hour: false} {
			if s, err := parseAndVerify(ringOf(t, name), door(t, blob), ends.Add(offset)); (err == nil) != good {
				t.Errorf("%s, %v from its end: got %+v and %v, want good is %v", name, offset, s, err, good)
			}
		}
	}
	if _, err := parseAndVerify(ringOf(t, "good"), door(t, "by-good.sig"), time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)); !errors.Is(err, signature.ErrUnverified) {
		t.Errorf("before the key was made: got %v, want ErrUnverified", err)
	}
}
