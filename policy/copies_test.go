package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// fromDoor reads what signature's tests have: keys that something happened to, and what they signed.
func fromDoor(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "signature", "testdata", "door", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// copyOf is a key of these; "NAME alone" is the copy of somebody who got it before it had subkeys.
func copyOf(t testing.TB, name string) []byte {
	t.Helper()
	name, alone := strings.CutSuffix(name, " alone")
	key := fromDoor(t, name+".gpg")
	if alone {
		key = key[:bytes.Index(key, []byte{0xb9, 1, 0x0d, 4})] // the first of RSA 2048, as gpg writes it
	}
	return key
}

// Each requirement goes by its own copy of a key, as nodes do, in whatever order they stand; and a
// verdict says whether it is a matter of time, or of strangers.
func TestEvaluateByCopies(t *testing.T) {
	t.Parallel()
	by := func(keys string) string {
		return `{"type":"signedBy","keyType":"GPGKeys","keyData":"` + encoded(copyOf(t, keys)) + `"}`
	}
	type want struct{ accepted, expired, unknown bool }
	for _, test := range []struct {
		signed string
		copies map[string]want
	}{
		{"by-revoked2.sig", map[string]want{"before-revoked2": {accepted: true}, "revoked2": {}, "good": {unknown: true}}},
		{"by-expired.sig", map[string]want{"expired": {expired: true}, "good": {unknown: true}}},
		{"ended.sig", map[string]want{"good": {expired: true}, "p256": {unknown: true}}},
		{"by-subkey.sig", map[string]want{"subkeys": {accepted: true}, "subkeys alone": {unknown: true}}},
	} {
		blob := signature.Untrusted(fromDoor(t, test.signed))
		for first := range test.copies {
			for second := range test.copies {
				p := load(t, within(by(first)+","+by(second)))
				image := policy.Image{Transport: "docker", Reference: named(t, app+":v1"), Digest: "sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f"}
				d := p.Evaluate(image, []signature.Untrusted{blob}, now)
				for i, name := range []string{first, second} {
					r := d.Requirements[i]
					if got := (want{r.Accepted, r.Expired, r.Unknown}); got != test.copies[name] {
						t.Errorf("%s by %s beside %s: got %+v, want %+v: %s", test.signed, name, first, got, test.copies[name], r.Reason)
					}
				}
			}
		}
	}
}

// A subkey may sign where a copy of the key has it, whatever copies other scopes have.
func TestAdmitByCopies(t *testing.T) {
	t.Parallel()
	for keys, says := range map[string]string{
		`"/subkeys"`: "", `"/subkeys","/subkeys alone"`: "", `"/subkeys alone","/subkeys"`: "",
		`"/subkeys alone"`: "a copy of it without the subkey that signed; replace it",
		`"/good"`:          "may not sign",
	} {
		p, err := policy.Parse(fmt.Appendf(nil, `{"default":[%s],"transports":{"docker":{"%s/dev":[%s],"%s":[%s]}}}`,
			nothing, host, by("subkeys"), app, fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":[%s]}`, keys)))
		if err == nil {
			p, err = p.Load(func(path string) ([]byte, error) { return copyOf(t, path[1:]), nil })
		}
		if err != nil {
			t.Fatalf("%s: %v", keys, err)
		}
		s, err := verified(t, p, fromDoor(t, "by-subkey.sig"))
		if err != nil {
			t.Fatalf("%s: %v", keys, err)
		}
		err = p.Admit(named(t, app+":v1"), s)
		if says == "" && err != nil || says != "" && (!errors.Is(err, policy.ErrRefused) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: got %v, want it to be admitted, or else refused with %q", keys, err, says)
		}
	}
}
