package signature_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// doorFiles are those of testdata/door with such an ending.
func doorFiles(t testing.TB, ending string) (all [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "door", "*"+ending))
	if err != nil || len(names) == 0 {
		t.Fatalf("no file in testdata/door that ends in %s: %v", ending, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// Whatever is sent is refused in one way, with a message of a bounded length, or is a message of
// one of the good keys over the claim that they signed: nobody here can sign another.
func FuzzVerify(f *testing.F) {
	for _, blob := range append(doorFiles(f, ".sig"), door(f, "good.gpg"), nil) {
		if len(blob) < 2000 {
			f.Add(blob)
		}
	}
	for _, blob := range hostileUploads(f) {
		if len(blob) < 2000 {
			f.Add(blob)
		}
	}
	for _, name := range []string{"by-good.sig", "by-p256.sig", "by-ed25519.sig"} {
		m := takeApart(f, unzipped(f, door(f, name)))
		f.Add(m.together())
		f.Add(m.withSubpacket([]byte{2, 20, 1}).together())
	}
	ring := ringOf(f, "good", "p256", "p521", "ed25519", "many", "subkeys", "rsa3072", "rsa4096", "sha1", "certifies")
	f.Fuzz(func(t *testing.T, blob []byte) {
		s, err := parseAndVerify(ring, bytes.Clone(blob), signerNow)
		if err != nil {
			kinds := 0
			for _, kind := range []error{signature.ErrMalformed, signature.ErrUnknownKey, signature.ErrUnverified} {
				if errors.Is(err, kind) {
					kinds++
				}
			}
			if kinds != 1 || len(err.Error()) > 1000 || s.Fingerprint != "" {
				t.Fatalf("it is refused in %d ways, with %d bytes: %v", kinds, len(err.Error()), err)
			}
			return
		}
		if s.Claim.Digest != doorDigest || s.Claim.Reference != doorReference || !ring.Has(s.Fingerprint) {
			t.Fatalf("somebody signed what was never signed: %+v", s)
		}
		if !bytes.Equal(s.Content, blob) || len(blob) > signature.MaxSize {
			t.Fatalf("what is kept is not what was sent")
		}
	})
}

// A keyring that reads hands out what reads as the same keys.
func FuzzReadKeyring(f *testing.F) {
	for _, ring := range doorFiles(f, ".gpg") {
		f.Add(ring)
	}
	f.Add(inArmor(f, door(f, "p256.gpg")))
	f.Add(append([]byte("text\n"), inArmor(f, door(f, "ed25519.gpg"), door(f, "p256.gpg"))...))
	f.Add(bigRing(2048, 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := signature.ReadKeyring(data)
		if err != nil {
			if ring != nil {
				t.Fatalf("a keyring beside %v", err)
			}
			return
		}
		again, err := signature.ReadKeyring(ring.Binary())
		if err != nil {
			t.Fatalf("what is handed out does not read: %v", err)
		}
		armored, err := signature.ReadKeyring(ring.Armored())
		if err != nil {
			t.Fatalf("what is handed out in armor does not read: %v", err)
		}
		if !bytes.Equal(again.Binary(), ring.Binary()) || !bytes.Equal(armored.Binary(), ring.Binary()) {
			t.Fatal("what is handed out reads as something else")
		}
		if !bytes.Equal(signature.Join(ring, again).Binary(), ring.Binary()) {
			t.Fatal("joined with itself it is another")
		}
	})
}

// A claim that parses is JSON that says the same to a reader without any strictness, and says the
// same again when it is written.
func FuzzParseClaim(f *testing.F) {
	f.Add([]byte(doorClaim))
	for _, claim := range malformedClaims() {
		if len(claim.claim) < 2000 {
			f.Add([]byte(claim.claim))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		claim, err := signature.ParseClaim(data)
		if err != nil {
			if !errors.Is(err, signature.ErrMalformed) || len(err.Error()) > 2000 {
				t.Fatalf("%v", err)
			}
			return
		}
		var plain struct {
			Critical struct {
				Type     string
				Identity map[string]string
				Image    map[string]digest.Digest
			}
		}
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatalf("it is not JSON: %v", err)
		}
		if got := plain.Critical; got.Type != "atomic container signature" || got.Identity["docker-reference"] != claim.Reference || got.Image["docker-manifest-digest"] != claim.Digest {
			t.Fatalf("got %+v, and a plain reader %+v", claim, got)
		}
		again, err := signature.ParseClaim(claim.Payload())
		if err != nil || again != claim {
			t.Fatalf("written and read it is %+v, %v, not %+v", again, err, claim)
		}
	})
}

// A reference that parses is one that parses as what it says in full.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"busybox", "busybox:1", "ns/app@" + doorDigest, doorReference, "localhost/a", "localhost:5000/a/b:c@" + doorDigest, "[::1]:5000/app:v1",
		"Registry/app:v1", "a.B/c", "docker.io/library/busybox", "index.docker.io/x", "a__b/c.d-e", "10.0.0.1/a", strings.Repeat("a/", 130), "a:" + strings.Repeat("t", 129),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := signature.ParseReference(s)
		if err != nil {
			return
		}
		again, err := signature.ParseReference(named.String())
		if err != nil || again.String() != named.String() || again.Name() != named.Name() {
			t.Fatalf("%q is %q, which is %v, %v", s, named, again, err)
		}
		if len(named.Name()) > 255 || !strings.Contains(named.Name(), "/") {
			t.Fatalf("%q has the name %q", s, named.Name())
		}
	})
}
