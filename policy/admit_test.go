package policy_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

func verified(t testing.TB, p *policy.Policy, u signature.Untrusted) (signature.Signature, error) {
	t.Helper()
	m, err := signature.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	return p.Verify(m, now)
}

// Whom a scope admits (design.md, Admission). Alice signed registry.example.com/ns/app:v1.
func TestAdmit(t *testing.T) {
	t.Parallel()
	alice := who(t, "alice").fingerprint
	for name, test := range map[string]struct {
		requirements, ref string
		says              []string // empty: admitted
	}{
		"the only one":        {by("alice"), app + ":v1", nil},
		"one of two":          {by("bob") + "," + by("alice"), app + ":v1", nil},
		"one of two keys":     {`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/bob","/alice"]}`, app + ":v1", nil},
		"the second identity": {by("alice", `"signedIdentity":{"type":"exactReference","dockerReference":"a.b/c:1"}`) + "," + by("alice"), app + ":v1", nil},
		"beside anything":     {anything + "," + by("alice"), app + ":v1", nil},
		"beside sigstore":     {`{"type":"sigstoreSigned","keyPath":"/k"},` + by("alice"), app + ":v1", nil},
		"by digest":           {by("alice", `"signedIdentity":{"type":"matchRepository"}`), app + "@" + manifest.String(), nil},

		"beside reject":      {by("alice") + "," + nothing, app + ":v1", []string{"rejects everything", `scope "registry.example.com/ns"`}},
		"reject":             {nothing, app + ":v1", []string{"rejects everything"}},
		"anything":           {anything, app + ":v1", []string{"names no key", "insecureAcceptAnything alone admits nobody", "signedBy"}},
		"sigstore":           {`{"type":"sigstoreSigned","keyPath":"/k"}`, app + ":v1", []string{"sigstoreSigned alone admits nobody"}},
		"base layer":         {`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}},` + anything, app + ":v1", []string{"insecureAcceptAnything, signedBaseLayer alone admits nobody"}},
		"another key":        {by("bob"), app + ":v1", []string{alice, who(t, "bob").fingerprint, app + ":v1", `scope "registry.example.com/ns"`}},
		"another key type":   {`{"type":"signedBy","keyType":"signedByGPGKeys","keyPath":"/alice"}`, app + ":v1", []string{"names no key"}},
		"another tag":        {by("alice"), app + ":v2", []string{`"` + app + `:v1"`, "matchRepoDigestOrExact wants " + app + ":v2", alice}},
		"another repository": {by("alice"), host + "/ns/other:v1", []string{"wants " + host + "/ns/other:v1", "skopeo copy --remove-signatures"}},
		"an exact reference": {by("alice", `"signedIdentity":{"type":"exactReference","dockerReference":"a.b/c:1"}`), app + ":v1", []string{"exactReference wants a.b/c:1"}},
		"the default":        {by("alice"), "elsewhere.example.com/ns/app:v1", []string{"the policy's default rejects everything"}},
		"another digest":     {by("alice"), app + "@" + other.String(), []string{manifest.String(), other.String()}},
	} {
		p := load(t, within(test.requirements))
		s := claims(t, "alice", signature.Claim{Reference: app + ":v1", Digest: manifest})
		err := p.Admit(named(t, test.ref), s)
		if (err == nil) != (test.says == nil) || err != nil && !errors.Is(err, policy.ErrRefused) {
			t.Errorf("%s: got %v, want it to be admitted: %v", name, err, test.says == nil)
			continue
		}
		for _, says := range test.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: the message lacks %s: %v", name, says, err)
			}
		}
		if test.ref == app+":v2" && strings.Contains(err.Error(), "--remove-signatures") {
			t.Errorf("%s: the message takes it for a copied signature: %v", name, err)
		}
	}
}

// Claims that only seem to fit. An attacker has a key that is admitted for something else, or
// makes a key that is admitted say what it should not.
func TestAdmitRefusesContradictions(t *testing.T) {
	t.Parallel()
	alice := who(t, "alice").fingerprint
	for _, identity := range []string{"matchExact", "matchRepoDigestOrExact", "matchRepository"} {
		p := load(t, within(by("alice", `"signedIdentity":{"type":"`+identity+`"}`)))
		for _, test := range []struct {
			ref   string
			claim signature.Claim
		}{
			// By digest only repositories are compared, so the digests have to be looked at.
			{app + "@" + manifest.String(), signature.Claim{Reference: app + "@" + other.String(), Digest: manifest}},
			{app + "@" + manifest.String(), signature.Claim{Reference: app + "@" + manifest.String(), Digest: other}},
			{app + "@" + manifest.String(), signature.Claim{Reference: app + ":v1", Digest: other}},
			{app + ":v1", signature.Claim{Reference: app + ":v1@" + other.String(), Digest: manifest}},
			{app + ":v1", signature.Claim{Reference: "", Digest: manifest}},
			{app + ":v1", signature.Claim{Reference: app + ":v1 ", Digest: manifest}},
			{app + ":v1", signature.Claim{Reference: "https://" + app + ":v1", Digest: manifest}},
			{app + ":v1", signature.Claim{Reference: strings.Repeat("x", 60_000) + ":v1", Digest: manifest}},
		} {
			err := p.Admit(named(t, test.ref), claims(t, "alice", test.claim))
			if !errors.Is(err, policy.ErrRefused) {
				t.Errorf("%s: %.200v for %s: got %v, want ErrRefused", identity, test.claim, test.ref, err)
			} else if len(err.Error()) > 2000 {
				t.Errorf("%s: the message has %d bytes", identity, len(err.Error()))
			}
		}
	}
	for _, fingerprint := range []string{"", strings.ToLower(alice), alice[24:], alice + " "} {
		s := claims(t, "alice", signature.Claim{Reference: app + ":v1", Digest: manifest})
		s.Fingerprint = fingerprint
		if err := load(t, within(by("alice"))).Admit(named(t, app+":v1"), s); !errors.Is(err, policy.ErrRefused) {
			t.Errorf("fingerprint %q: got %v, want ErrRefused", fingerprint, err)
		}
	}
}

// A key of one scope verifies everywhere, and is admitted only there.
func TestVerifyAndAdmit(t *testing.T) {
	t.Parallel()
	p := load(t, `{"default":[`+nothing+`],"transports":{"docker":{"`+host+`/a":[`+by("alice")+`],"`+host+`/b":[`+by("bob")+`]}}}`)
	for _, test := range []struct {
		by, ref  string
		admitted bool
	}{
		{"alice", host + "/a:v1", true}, {"alice", host + "/b:v1", false}, {"bob", host + "/a:v1", false}, {"bob", host + "/b:v1", true},
	} {
		s, err := verified(t, p, sign(t, test.by, test.ref, manifest))
		if err != nil || s.Fingerprint != who(t, test.by).fingerprint {
			t.Fatalf("%s: got %+v, %v", test.by, s, err)
		}
		if err := p.Admit(named(t, test.ref), s); (err == nil) != test.admitted {
			t.Errorf("%s by %s: got %v, want it to be admitted: %v", test.ref, test.by, err, test.admitted)
		}
	}
}

func TestVerifyStranger(t *testing.T) {
	t.Parallel()
	p := load(t, within(by("bob")))
	if s, err := verified(t, p, sign(t, "alice", app+":v1", manifest)); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("got %+v, %v, want ErrUnknownKey", s, err)
	}
	var zero policy.Policy
	if s, err := verified(t, &zero, sign(t, "alice", app+":v1", manifest)); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("by the zero policy: got %+v, %v, want ErrUnknownKey", s, err)
	}
	if err := zero.Admit(named(t, app+":v1"), signature.Signature{}); !errors.Is(err, policy.ErrRefused) {
		t.Errorf("the zero policy: got %v, want ErrRefused", err)
	}
}

// A revocation counts, however many stale copies of the key the policy has, and in whatever
// order.
func TestVerifyWithStaleCopies(t *testing.T) {
	t.Parallel()
	carol := signature.Untrusted(testdata(t, "carol.signature"))
	for keys, want := range map[string]error{
		`"keyPath":"/carol.asc"`:                                                                nil,
		`"keyPath":"/carol-revoked.asc"`:                                                        signature.ErrUnverified,
		`"keyPaths":["/carol.asc","/carol-revoked.asc"]`:                                        signature.ErrUnverified,
		`"keyPaths":["/carol-revoked.asc","/carol.asc"]`:                                        signature.ErrUnverified,
		`"keyPath":"/carol.asc"},{"type":"signedBy","keyType":"GPGKeys","keyPath":"/bob"`:       nil,
		`"keyPath":"/carol.asc"},{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol.asc"`: nil,
	} {
		p := load(t, within(`{"type":"signedBy","keyType":"GPGKeys",`+keys+`}`))
		if s, err := verified(t, p, carol); !errors.Is(err, want) {
			t.Errorf("%s: got %+v, %v, want %v", keys, s, err, want)
		}
	}
	// Copies of other scopes and of keyData are copies too.
	p := load(t, `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":"`+encoded(testdata(t, "carol.asc"))+`"}],
		"transports":{"docker":{"`+host+`":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/carol-revoked.asc"}]}}}`)
	if s, err := verified(t, p, carol); !errors.Is(err, signature.ErrUnverified) {
		t.Errorf("revoked in another scope: got %+v, %v, want ErrUnverified", s, err)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	alice := who(t, "alice")
	p := policy.Trust([]string{host, "alias.example.com:5000"}, alice.signer.Key())
	if keys := p.Keyring().Keys(); len(keys) != 1 || keys[0].Fingerprint != alice.fingerprint {
		t.Errorf("the policy has the keys %v, want alice's", keys)
	}
	if loaded, err := p.Load(os.ReadFile); err != nil || len(loaded.Keyring().Keys()) != 1 {
		t.Errorf("loaded: got %v, %v, want the same", loaded, err)
	}
	for ref, admitted := range map[string]bool{
		app + ":v1": true, host + "/any/where:latest": true, "alias.example.com:5000/ns/app:v1": true, app + "@" + manifest.String(): true,
		"alias.example.com/ns/app:v1": false, "x." + host + "/ns/app:v1": false, "docker.io/library/busybox:1": false,
	} {
		s, err := verified(t, p, sign(t, "alice", ref, manifest))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Admit(named(t, ref), s); (err == nil) != admitted {
			t.Errorf("%s: got %v, want it to be admitted: %v", ref, err, admitted)
		}
		d := p.Evaluate(policy.Image{Transport: "docker", Reference: named(t, ref), Digest: manifest}, []signature.Untrusted{s.Content}, now)
		if d.Accepted != admitted {
			t.Errorf("%s: got %+v, want it to be accepted: %v", ref, d, admitted)
		}
	}
	nobody := policy.Trust([]string{host}, signature.Join())
	err := nobody.Admit(named(t, app+":v1"), claims(t, "alice", signature.Claim{Reference: app + ":v1", Digest: manifest}))
	if !errors.Is(err, policy.ErrRefused) {
		t.Errorf("with no key: got %v, want ErrRefused", err)
	}
}

// What is signed under the first name is accepted under every one, and nothing else is.
func TestTrustFirst(t *testing.T) {
	t.Parallel()
	const alias = "alias.example.com:5000"
	p := policy.TrustFirst([]string{host, alias}, who(t, "alice").signer.Key())
	for _, test := range []struct {
		asked, signed string
		accepted      bool
	}{
		{app + ":v1", app + ":v1", true},
		{alias + "/ns/app:v1", app + ":v1", true},
		{alias + "/ns/app:v2", app + ":v1", false},
		{alias + "/ns/app:v1", alias + "/ns/app:v1", false},
		{app + ":v1", alias + "/ns/app:v1", false},
	} {
		blob := sign(t, "alice", test.signed, manifest)
		d := p.Evaluate(policy.Image{Transport: "docker", Reference: named(t, test.asked), Digest: manifest}, []signature.Untrusted{blob}, now)
		if d.Accepted != test.accepted {
			t.Errorf("%s, signed as %s: got %+v, want it to be accepted: %v", test.asked, test.signed, d, test.accepted)
		}
	}
}
