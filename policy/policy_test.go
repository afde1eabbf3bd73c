package policy_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

var (
	now      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	manifest = digest.FromString("manifest")
	other    = digest.FromString("another manifest")
)

func clock() time.Time { return now }

// A person has a key.
type person struct {
	signer      *signature.FileSigner
	public      []byte // armored
	fingerprint string
}

var people = sync.OnceValues(func() (map[string]person, error) {
	made := map[string]person{}
	for _, name := range []string{"alice", "bob"} {
		private, public, err := signature.Generate(name, 3072, now.Add(-time.Hour))
		if err != nil {
			return nil, err
		}
		signer, err := signature.NewFileSigner(private, nil, clock)
		if err != nil {
			return nil, err
		}
		made[name] = person{signer, public, signer.Key().Keys()[0].Fingerprint}
	}
	return made, nil
})

func who(t testing.TB, name string) person {
	t.Helper()
	all, err := people()
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

// claims is a signature as Verify returns it, of whatever claim.
func claims(t testing.TB, by string, c signature.Claim) signature.Signature {
	t.Helper()
	fingerprint := who(t, by).fingerprint
	id, err := strconv.ParseUint(fingerprint[24:], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return signature.Signature{Fingerprint: fingerprint, UserID: by, KeyID: id, Claim: c}
}

func sign(t testing.TB, by, ref string, d digest.Digest) signature.Untrusted {
	t.Helper()
	content, err := who(t, by).signer.Sign(t.Context(), signature.Claim{Reference: ref, Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// files reads /alice and /bob as their keys, and anything else from testdata.
func files(t testing.TB) func(path string) ([]byte, error) {
	t.Helper()
	alice, bob := who(t, "alice").public, who(t, "bob").public
	return func(path string) ([]byte, error) {
		switch path {
		case "/alice":
			return alice, nil
		case "/bob":
			return bob, nil
		}
		return os.ReadFile(filepath.Join("testdata", filepath.Base(path)))
	}
}

func load(t testing.TB, json string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(json))
	if err == nil {
		p, err = p.Load(files(t))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, json)
	}
	return p
}

func named(t testing.TB, s string) reference.Named {
	t.Helper()
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// by is a requirement for a key, with more members behind if there are any.
func by(name string, more ...string) string {
	return fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/%s"%s}`, name, strings.Join(append([]string{""}, more...), ","))
}

const (
	anything = `{"type":"insecureAcceptAnything"}`
	nothing  = `{"type":"reject"}`
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func encoded(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
