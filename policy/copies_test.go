package policy_test

import (
	"os"
	"path/filepath"
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

// Each requirement goes by its own copy of a key, as nodes do, in whatever order they stand; and a
// verdict says whether it is a matter of time, or of strangers.
func TestEvaluateByCopies(t *testing.T) {
	t.Parallel()
	by := func(keys string) string {
		return `{"type":"signedBy","keyType":"GPGKeys","keyData":"` + encoded(fromDoor(t, keys+".gpg")) + `"}`
	}
	type want struct{ accepted, expired, unknown bool }
	for _, test := range []struct {
		signed string
		copies map[string]want
	}{
		{"by-revoked2.sig", map[string]want{"before-revoked2": {accepted: true}, "revoked2": {}, "good": {unknown: true}}},
		{"by-expired.sig", map[string]want{"expired": {expired: true}, "good": {unknown: true}}},
		{"ended.sig", map[string]want{"good": {expired: true}, "p256": {unknown: true}}},
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
