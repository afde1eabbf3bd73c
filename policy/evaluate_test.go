package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// What nodes say of an image (protocol.md 6, Evaluation): all requirements, any signature for
// each.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	var (
		good      = sign(t, "alice", app+":v1", manifest)
		bobs      = sign(t, "bob", app+":v1", manifest)
		ofOther   = sign(t, "alice", app+":v1", other)
		otherTag  = sign(t, "alice", app+":v2", manifest)
		byDigest  = sign(t, "alice", app+"@"+manifest.String(), manifest)
		truncated = good[:len(good)-20]
		garbage   = signature.Untrusted("hello")
		alice     = by("alice")
		sigstore  = `{"type":"sigstoreSigned","keyPath":"/k"}`
	)
	type all = []signature.Untrusted
	for name, test := range map[string]struct {
		requirements string
		signatures   all
		accepted     bool
		reasons      []string // in the order of the requirements, a part of each
	}{
		"anything":                 {anything, nil, true, []string{"accepts anything"}},
		"anything with garbage":    {anything, all{garbage}, true, []string{"accepts anything"}},
		"reject":                   {nothing, all{good}, false, []string{"rejects everything"}},
		"signed":                   {alice, all{good}, true, []string{"signature 1 meets it"}},
		"unsigned":                 {alice, nil, false, []string{"the image has none"}},
		"signed by another":        {alice, all{bobs}, false, []string{"the one signature does not meet it: key is not known"}},
		"for another manifest":     {alice, all{ofOther}, false, []string{"another manifest, " + other.String()}},
		"for another tag":          {alice, all{otherTag}, false, []string{"wants " + app + ":v1"}},
		"by digest, pulled by tag": {alice, all{byDigest}, false, []string{app + "@" + manifest.String()}},
		"garbage":                  {alice, all{garbage}, false, []string{"not a simple signing signature"}},
		"truncated":                {alice, all{truncated}, false, []string{"does not meet it"}},
		"bad ones beside a good":   {alice, all{garbage, truncated, ofOther, otherTag, bobs, good}, true, []string{"signature 6 meets it"}},
		"several bad ones":         {alice, all{garbage, ofOther}, false, []string{"none of the 2 signatures meets it"}},
		"two good ones":            {alice, all{good, good}, true, []string{"signature 1 meets it"}},
		// Half of one signature and half of another are no signature.
		"right digest here, right tag there": {alice, all{ofOther, otherTag}, false, []string{"none of the 2"}},

		"both sign":             {alice + "," + by("bob"), all{bobs, good}, true, []string{"signature 2", "signature 1"}},
		"one of both":           {alice + "," + by("bob"), all{good}, false, []string{"signature 1", "does not meet it"}},
		"and reject":            {alice + "," + nothing, all{good}, false, []string{"signature 1", "rejects everything"}},
		"and anything":          {alice + "," + anything, all{good}, true, []string{"signature 1", "accepts anything"}},
		"anything and unsigned": {anything + "," + alice, nil, false, []string{"accepts anything", "has none"}},
		"sigstore":              {sigstore, all{good}, false, []string{"wants a sigstore signature"}},
		"and sigstore":          {alice + "," + sigstore, all{good}, false, []string{"signature 1", "wants a sigstore signature"}},
		"base layer":            {`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}`, all{good}, false, []string{"no client implements it"}},
		"certificates":          {`{"type":"signedBy","keyType":"X509Certificates","keyPath":"/alice"}`, all{good}, false, []string{"no client implements keyType X509Certificates"}},
		"either key":            {`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/bob","/alice"]}`, all{good}, true, []string{"signature 1"}},
		"keyData":               {`{"type":"signedBy","keyType":"GPGKeys","keyData":"` + encoded(who(t, "alice").public) + `"}`, all{good}, true, []string{"signature 1"}},
		// A node goes by the copy of a key that the requirement names.
		"a stale copy":           {`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol.asc"}`, all{testdata(t, "carol.signature")}, true, []string{"signature 1"}},
		"a revoked key":          {`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol-revoked.asc"}`, all{testdata(t, "carol.signature")}, false, []string{"revoked"}},
		"stale here, revoked in": {`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol.asc"},{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol-revoked.asc"}`, all{testdata(t, "carol.signature")}, false, []string{"signature 1", "revoked"}},
	} {
		p := load(t, within(test.requirements))
		for _, transport := range []string{"docker", "atomic"} {
			if transport == "atomic" {
				p = load(t, strings.Replace(within(test.requirements), `"docker"`, `"atomic"`, 1))
			}
			d := p.Evaluate(policy.Image{Transport: transport, Reference: named(t, app+":v1"), Digest: manifest}, test.signatures, now)
			if d.Accepted != test.accepted || len(d.Requirements) != len(test.reasons) {
				t.Errorf("%s: accepted is %v, want %v, for %d reasons: %+v", name, d.Accepted, test.accepted, len(test.reasons), d)
				continue
			}
			for i, j := range d.Requirements {
				place := fmt.Sprintf(`transports.%s["registry.example.com/ns"][%d]`, transport, i)
				if !strings.Contains(j.Reason, test.reasons[i]) || j.Place != place || d.Scope+fmt.Sprintf("[%d]", i) != place {
					t.Errorf("%s: requirement %d says %+v of scope %s, want %q at %s", name, i, j, d.Scope, test.reasons[i], place)
				}
			}
		}
	}
}

// Every signature gets its own reason, in order.
func TestEvaluateSaysWhy(t *testing.T) {
	t.Parallel()
	p := load(t, within(by("alice")))
	alice := who(t, "alice").fingerprint
	d := p.Evaluate(policy.Image{Transport: "docker", Reference: named(t, app+":v1"), Digest: manifest}, []signature.Untrusted{
		[]byte("hello"), sign(t, "bob", app+":v1", manifest), sign(t, "alice", app+":v1", other), sign(t, "alice", app+":v2", manifest), sign(t, "alice", app+":v1", manifest),
	}, now)
	want := []string{
		"not a simple signing signature", "key is not known", "it is for another manifest, " + other.String(),
		`it is signed for "` + app + `:v2", and matchRepoDigestOrExact wants ` + app + ":v1",
		"accepted: by " + alice + ` "alice", for "` + app + `:v1"`,
	}
	if len(d.Requirements) != 1 || len(d.Requirements[0].Signatures) != len(want) || d.Requirements[0].Type != "signedBy" {
		t.Fatalf("got %+v, want %d reasons", d, len(want))
	}
	for i, got := range d.Requirements[0].Signatures {
		if !strings.HasPrefix(got, want[i]) {
			t.Errorf("signature %d: got %q, want %q", i+1, got, want[i])
		}
	}
}

// A signature counts at the time that nodes ask.
func TestEvaluateAtAnotherTime(t *testing.T) {
	t.Parallel()
	p := load(t, within(by("alice")))
	image := policy.Image{Transport: "docker", Reference: named(t, app+":v1"), Digest: manifest}
	signatures := []signature.Untrusted{sign(t, "alice", app+":v1", manifest)}
	if d := p.Evaluate(image, signatures, now.AddDate(0, 0, -1)); d.Accepted {
		t.Errorf("before it was made: got %+v, want it rejected", d)
	}
	if d := p.Evaluate(image, signatures, now.AddDate(1, 0, 0)); !d.Accepted {
		t.Errorf("a year later: got %+v, want it accepted", d)
	}
}

// What nobody has set up accepts nothing, and does not panic.
func TestEvaluateNothing(t *testing.T) {
	t.Parallel()
	good := []signature.Untrusted{sign(t, "alice", app+":v1", manifest)}
	image := policy.Image{Transport: "docker", Reference: named(t, app+":v1"), Digest: manifest}
	if d := new(policy.Policy).Evaluate(image, good, now); d.Accepted {
		t.Errorf("the zero policy: got %+v", d)
	}
	if d := load(t, within(anything)).Evaluate(policy.Image{Transport: "docker"}, good, now); d.Accepted {
		t.Errorf("the zero image: got %+v", d)
	}
	unloaded, err := policy.Parse([]byte(within(by("alice"))))
	if err != nil {
		t.Fatal(err)
	}
	if d := unloaded.Evaluate(image, good, now); d.Accepted || !strings.Contains(d.Requirements[0].Reason, "not read") {
		t.Errorf("without its keys: got %+v", d)
	}
	image.Digest = ""
	if d := load(t, within(by("alice"))).Evaluate(image, good, now); d.Accepted {
		t.Errorf("without a digest: got %+v", d)
	}
}

// What clients cannot name they cannot run, whatever the policy accepts.
func TestEvaluateUnreadableReference(t *testing.T) {
	t.Parallel()
	p := load(t, `{"default":[`+anything+`]}`)
	for _, ref := range []string{"[::1]:5000/a:v1", "Registry/a:v1", "example.com/" + strings.Repeat("a", 250) + ":v1"} {
		d := p.Evaluate(policy.Image{Transport: "docker", Reference: named(t, ref), Digest: manifest}, nil, now)
		if d.Accepted || len(d.Requirements) != 1 || !strings.Contains(d.Requirements[0].Reason, "no node can ask for") {
			t.Errorf("%s: got %+v, want it rejected as one that no node can ask for", ref, d)
		}
	}
}
