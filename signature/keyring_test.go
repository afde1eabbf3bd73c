package signature_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/countersign-dev/countersign/signature"
)

// inArmor is one block of keys.
func inArmor(t testing.TB, keys ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, "PGP PUBLIC KEY BLOCK", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, err := w.Write(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

func fingerprints(ring *signature.Keyring) (all []string) {
	for _, k := range ring.Keys() {
		all = append(all, k.Fingerprint)
	}
	return all
}

// Two keys are read from every form that people have them in.
func TestReadKeyring(t *testing.T) {
	t.Parallel()
	good, p256 := door(t, "good.gpg"), door(t, "p256.gpg")
	want := fingerprints(ringOf(t, "good", "p256"))
	blocks := slices.Concat(inArmor(t, good), inArmor(t, p256))
	for name, data := range map[string][]byte{
		"binary":                             slices.Concat(good, p256),
		"binary, each twice":                 slices.Concat(good, p256, p256, good),
		"one block":                          inArmor(t, good, p256),
		"two blocks":                         blocks,
		"two blocks, text between":           slices.Concat([]byte("Keys of ours, see below.\n\n"), inArmor(t, p256), []byte("\nand\n"), inArmor(t, good), []byte("that is all")),
		"two blocks, with CR LF":             bytes.ReplaceAll(blocks, []byte("\n"), []byte("\r\n")),
		"a block of something else between":  slices.Concat(inArmor(t, good), door(t, "armored.sig"), inArmor(t, p256)),
		"as handed out, binary":              readRing(t, blocks).Binary(),
		"as handed out, armored":             readRing(t, blocks).Armored(),
		"with trust and a marker in between": slices.Concat(good, []byte{0xcc, 2, 0, 0, 0xca, 3, 'P', 'G', 'P'}, p256),
	} {
		ring, err := signature.ReadKeyring(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fingerprints(ring); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		for _, blob := range []string{"by-good.sig", "by-p256.sig"} {
			if _, err := parseAndVerify(ring, door(t, blob), signerNow); err != nil {
				t.Errorf("%s: %s: %v", name, blob, err)
			}
		}
	}
}

// What is damaged is refused as a whole: what does not read may be a revocation.
func TestReadKeyringRefuses(t *testing.T) {
	t.Parallel()
	good, p256 := door(t, "good.gpg"), door(t, "p256.gpg")
	block := inArmor(t, p256)
	for name, test := range map[string]struct {
		data []byte
		says string
	}{
		"nothing":              {nil, "no usable public key in it; export one with gpg --export (there is no key in it)"},
		"text":                 {[]byte("hello"), "it is not OpenPGP"},
		"a signature":          {door(t, "by-good.sig"), "no usable public key in it"},
		"cut":                  {slices.Concat(good, p256[:len(p256)-9]), "what follows the beginning of key 2 does not read"},
		"garbage behind":       {slices.Concat(good, []byte("garbage")), "what follows the beginning of key 1 does not read"},
		"armor behind":         {slices.Concat(good, block), "what follows the beginning of key 1 does not read"},
		"block cut":            {slices.Concat(inArmor(t, good), block[:len(block)/2]), "armored block 2, what follows the beginning of key 1 does not read"},
		"block without end":    {[]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----"), "armored block 1 does not read"},
		"block without header": {bytes.Replace(block, []byte("BLOCK-----\n\n"), []byte("BLOCK-----\n"), 1), "armored block 1 does not read"},
		"a private key":        {privateKey(t, "plain"), "there is a private key in it"},
		"a private key, binary, behind a public one": {slices.Concat(good, dearmored(t, privateKey(t, "plain"))), "there is a private key in it"},
		"a private subkey":                           {dearmored(t, privateKey(t, "stub")), "there is a private key in it"},
		"too large":                                  {make([]byte, 33<<20), "more than 33554432"},
	} {
		ring, err := signature.ReadKeyring(test.data)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v and %v, want an error with %q", name, ring, err, test.says)
		}
	}
}

// A key that cannot be used is left out alone, and said.
func TestReadKeyringSkips(t *testing.T) {
	t.Parallel()
	good := door(t, "good.gpg")
	later := []byte{0xc6, 6, 9, 0, 0, 0, 0, 1} // of version 9
	nameless := good[:bytes.Index(good, []byte("\xb4\x04good"))]
	for name, test := range map[string]struct {
		data []byte
		says string
	}{
		"of a later version":     {slices.Concat(later, good), "key 1: it is of a kind that cannot be read"},
		"without a user id":      {slices.Concat(door(t, "p256.gpg"), nameless), "key 2: "},
		"a block of a signature": {slices.Concat(inArmor(t, good), door(t, "armored.sig")), `armored block 2 is a "PGP MESSAGE", not a public key`},
		"of DSA":                 {slices.Concat(door(t, "dsa.gpg"), good), "never counts: DSA is weak"},
		"revoked":                {slices.Concat(door(t, "revoked1.gpg"), good), "never counts: it is revoked"},
	} {
		ring, err := signature.ReadKeyring(test.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(ring.Skipped(), "\n"); !strings.Contains(got, test.says) {
			t.Errorf("%s: skipped is %q, want %q in it", name, got, test.says)
		}
	}
}

// Copies of a key are one key, with all that any of them says.
func TestJoin(t *testing.T) {
	t.Parallel()
	before, after := ringOf(t, "before-revoked2"), ringOf(t, "revoked2")
	if _, err := parseAndVerify(before, door(t, "by-revoked2.sig"), signerNow); err != nil {
		t.Fatalf("before the revocation: %v", err)
	}
	for name, ring := range map[string]*signature.Keyring{
		"the revocation last": signature.Join(before, after), "the revocation first": signature.Join(after, before),
		"again and again": signature.Join(before, signature.Join(after, before), nil, after),
	} {
		if _, err := parseAndVerify(ring, door(t, "by-revoked2.sig"), signerNow); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s: got %v, want it revoked", name, err)
		}
		if got := ring.Keys(); len(got) != 1 {
			t.Errorf("%s: got %d keys, want 1", name, len(got))
		}
		if !bytes.Equal(ring.Binary(), readRing(t, ring.Binary()).Binary()) {
			t.Errorf("%s: what is handed out does not read as what it was", name)
		}
	}
	if got := signature.Join().Keys(); len(got) != 0 {
		t.Errorf("of nothing: got %v", got)
	}
}

// A later end counts for all copies, and a copy that has the earlier one says so.
func TestStands(t *testing.T) {
	t.Parallel()
	expired, extended := ringOf(t, "expired"), ringOf(t, "extended")
	blob := door(t, "by-expired.sig")
	s, err := parseAndVerify(signature.Join(expired, extended), blob, signerNow)
	if err != nil {
		t.Fatalf("with a copy that was extended: %v", err)
	}
	if err := expired.Stands(s, signerNow); !errors.Is(err, signature.ErrUnverified) || !errors.Is(err, signature.ErrExpired) {
		t.Errorf("by the copy that ended: got %v, want it expired", err)
	}
	if err := expired.Stands(s, s.Created.Add(time.Hour)); err != nil {
		t.Errorf("by that copy, in time: %v", err)
	}
	// The copy that was extended has only the later self-signature, as gpg leaves it.
	if err := extended.Stands(s, signerNow); err == nil {
		t.Error("by a copy whose self-signature is later than the signature: it stands, and clients in Go reject it")
	}
	revoked, err := parseAndVerify(ringOf(t, "before-revoked2"), door(t, "by-revoked2.sig"), signerNow)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"before-revoked2": true, "revoked2": false, "good": true} {
		if err := ringOf(t, name).Stands(revoked, signerNow); (err == nil) != want {
			t.Errorf("by %s: got %v, want it to stand: %v", name, err, want)
		}
		if got := ringOf(t, name).Made(revoked); got != (name != "good") {
			t.Errorf("by %s: made is %v, want %v", name, got, !got)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	made := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, want := range map[string]signature.Key{
		"good":    {UserID: "good", Algorithm: "RSA 2048", Created: made},
		"ed25519": {UserID: "ed25519", Algorithm: "EdDSA Ed25519", Created: made},
		"dsa":     {UserID: "dsa", Algorithm: "DSA", Created: made},
		"expired": {UserID: "expired", Algorithm: "RSA 2048", Created: made, Expires: time.Date(2021, 6, 1, 12, 0, 0, 0, time.UTC)},
		"short":   {UserID: "short", Algorithm: "RSA 1024", Created: made},
	} {
		ring := ringOf(t, name)
		want.Fingerprint = fingerprintOf(t, ring)
		if got := ring.Keys()[0]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if !ring.Has(want.Fingerprint) || ring.Has("") || ring.Has(strings.ToLower(want.Fingerprint)) {
			t.Errorf("%s: Has does not know the key, or knows another", name)
		}
	}
}
