package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// What Parse takes is JSON with a default, of which clients see what we see, and it decides
// about any image without a signature exactly one way: it is accepted only by
// insecureAcceptAnything.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"default":[` + anything + `]}`, within(nothing), within(by("alice", `"signedIdentity":{"type":"matchExact"}`)),
		within(by("alice", `"signedIdentity":{"type":"remapIdentity","prefix":"a.b:5000/c","signedPrefix":"localhost"}`)),
		within(by("alice", `"signedIdentity":{"type":"exactReference","dockerReference":"a.b/c@`+manifest.String()+`"}`)),
		within(`{"type":"sigstoreSigned","fulcio":{"caData":"YQ==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyDatas":["YQ=="]}`),
		within(`{"type":"sigstoreSigned","pki":{"caRootsPath":"/ca","subjectHostname":"h"}}`),
		within(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/a","/b"]},` + anything),
		within(`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"exactRepository","dockerRepository":"x"}}`),
		`{"default":[` + nothing + `],"transports":{"atomic":{"h/n/s:t":[` + anything + `],"":[` + nothing + `]},"":{"":[` + anything + `]}}}`,
		`{"default":[{"type":"reject","type":"reject"}]}`, `{"default":[{"\u0074ype":"reject"}]}`, `{"default":[1e999,-0,true,null,"\ud800"]}`,
		"{\n\"default\":\r\n[ ,]}", strings.Repeat("[", 100), `{"default":{}}`, "\xef\xbb\xbf{}", "{\"def\x00ault\":[]}", `{"a":1}{}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		_, problems := policy.Inspect(data)
		if (err == nil) != (len(problems) == 0) || err != nil && err.Error() != "policy: "+problems[0].Error() {
			t.Fatalf("Inspect finds %v, and Parse says %v\n%s", problems, err, data)
		}
		if err != nil {
			if p != nil || len(err.Error()) > 20_000 {
				t.Fatalf("got %v and a message of %d bytes", p, len(err.Error()))
			}
			return
		}
		var plain struct {
			Default    []struct{ Type string }
			Transports map[string]map[string][]struct{ Type string }
		}
		if err := json.Unmarshal(data, &plain); err != nil || len(plain.Default) == 0 {
			t.Fatalf("Parse accepts what is not JSON, or has no default: %v\n%s", err, data)
		}
		if _, err := p.Load(func(string) ([]byte, error) { return testdata(t, "carol.asc"), nil }); err != nil {
			t.Fatalf("what parses does not load: %v\n%s", err, data)
		}
		accepted := true
		for _, r := range plain.Default {
			accepted = accepted && r.Type == "insecureAcceptAnything"
		}
		image := policy.Image{Transport: "a transport of its own", Reference: named(t, app+":v1"), Digest: manifest}
		if d := p.Evaluate(image, nil, now); d.Accepted != accepted || d.Scope != "default" || len(d.Requirements) != len(plain.Default) {
			t.Fatalf("unsigned: got %+v, want it accepted: %v\n%s", d, accepted, data)
		}
		claim := signature.Claim{Reference: app + ":v1", Digest: manifest}
		if err := p.Admit(named(t, app+":v1"), signature.Signature{Fingerprint: "00", Claim: claim}); err == nil {
			t.Fatalf("a key that nobody has is admitted\n%s", data)
		}
	})
}
