package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

const either = `{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/bob","/alice"]}`

// A gate counts signers, each for one requirement, of exactly this reference. Every row that is met
// has one beside it that lacks one signature.
func TestGate(t *testing.T) {
	t.Parallel()
	var (
		alice   = sign(t, "alice", app+":v1", manifest)
		again   = sign(t, "alice", app+":v1", manifest)
		bob     = sign(t, "bob", app+":v1", manifest)
		ofOther = sign(t, "bob", app+":v1", other)
		v2      = sign(t, "bob", app+":v2", manifest)
		byDig   = sign(t, "bob", app+"@"+manifest.String(), manifest)
		broken  = bob[:len(bob)-20]
	)
	type all = []signature.Untrusted
	both := by("alice") + "," + by("bob")
	for name, test := range map[string]struct {
		requirements string
		signatures   all
		by           []int // nil: not met
	}{
		"both":                            {both, all{alice, bob}, []int{0, 1}},
		"both, the other way around":      {both, all{bob, alice}, []int{1, 0}},
		"one of both":                     {both, all{alice}, nil},
		"none":                            {both, nil, nil},
		"one of both, twice":              {both, all{alice, again}, nil},
		"the second of another digest":    {both, all{alice, ofOther}, nil},
		"the second of another tag":       {both, all{alice, v2}, nil},
		"the second by digest":            {both, all{alice, byDig}, nil},
		"the second broken":               {both, all{alice, broken}, nil},
		"any tag would do for a node":     {by("alice") + "," + by("bob", `"signedIdentity":{"type":"matchRepository"}`), all{alice, v2}, nil},
		"exactly this tag, for that, too": {by("alice") + "," + by("bob", `"signedIdentity":{"type":"matchRepository"}`), all{alice, bob}, []int{0, 1}},
		"an identity of something else":   {by("alice", `"signedIdentity":{"type":"exactReference","dockerReference":"`+app+`:v2"}`), all{alice}, nil},

		// Which signer stands for which requirement is not a matter of their order.
		"either and alice":           {either + "," + by("alice"), all{alice, bob}, []int{1, 0}},
		"alice and either":           {by("alice") + "," + either, all{alice, bob}, []int{0, 1}},
		"either and bob":             {either + "," + by("bob"), all{alice, bob}, []int{0, 1}},
		"either and alice, one less": {either + "," + by("alice"), all{alice, again}, nil},
		"either and either":          {either + "," + either, all{alice, again}, nil},

		// What CheckGate refuses never opens by itself.
		"anything":   {anything, all{alice, bob}, nil},
		"sigstore":   {`{"type":"sigstoreSigned","keyPath":"/k"},` + by("alice"), all{alice, bob}, nil},
		"and reject": {by("alice") + "," + nothing, all{alice, bob}, nil},
	} {
		p := load(t, within(test.requirements))
		ref := named(t, app+":v1")
		g := p.Gate(ref, manifest, test.signatures, func(claimed string) bool { return claimed == ref.String() }, now)
		if g.Met != (test.by != nil) || g.Met && !slices.Equal(g.By, test.by) {
			t.Errorf("%s: got %+v, want met by %v", name, g, test.by)
		}
		if !g.Met && (len(g.Missing) == 0 || !strings.Contains(g.Missing[0], "wants")) {
			t.Errorf("%s: it does not say what is missing: %+v", name, g)
		}
	}
}

// What cannot be a gate is refused where it could decide, and only there.
func TestCheckGate(t *testing.T) {
	t.Parallel()
	const prod = "registry.example.com/prod"
	scoped := func(def, scope, requirements string) string {
		return `{"default":[` + def + `],"transports":{"docker":{"` + scope + `":[` + requirements + `]}}}`
	}
	own := who(t, "bob").signer.Key()
	for name, test := range map[string]struct{ scope, policy, says string }{
		"one signer":                          {prod, scoped(nothing, prod, by("alice")), ""},
		"of the host":                         {prod, scoped(nothing, "registry.example.com", by("alice")), ""},
		"of a wildcard":                       {prod, scoped(nothing, "*.example.com", by("alice")), ""},
		"the default decides":                 {prod, scoped(by("alice"), "registry.example.com/other", nothing), ""},
		"the default decides, and rejects":    {prod, scoped(nothing, "registry.example.com/other", by("alice")), "default[0]"},
		"part of a name is no scope":          {prod, scoped(nothing, "registry.example.com/pro", by("alice")), "default[0]"},
		"anything":                            {prod, scoped(nothing, prod, anything), "insecureAcceptAnything"},
		"beside a signer":                     {prod, scoped(nothing, prod, by("alice")+","+anything), "insecureAcceptAnything"},
		"sigstore":                            {prod, scoped(nothing, prod, `{"type":"sigstoreSigned","keyPath":"/k"}`), "sigstoreSigned"},
		"certificates":                        {prod, scoped(nothing, prod, `{"type":"signedBy","keyType":"X509Certificates","keyPath":"/alice"}`), "GPGKeys"},
		"the server's own":                    {prod, scoped(nothing, prod, by("bob")), own.Keys()[0].Fingerprint},
		"the server's own, among others":      {prod, scoped(nothing, prod, either), own.Keys()[0].Fingerprint},
		"one key twice":                       {prod, scoped(nothing, prod, by("alice")+","+by("alice")), "both name key"},
		"a tag below accepts anything":        {prod, scoped(by("alice"), prod+"/app:v1", anything), "insecureAcceptAnything"},
		"a repository below accepts anything": {prod, scoped(by("alice"), prod+"/app", anything), "insecureAcceptAnything"},
		"for a tag":                           {prod + "/app:v1", scoped(nothing, prod+"/app", by("alice")), ""},
		"for a tag, of another tag":           {prod + "/app:v1", scoped(nothing, prod+"/app:v2", by("alice")), "default[0]"},
		"for a digest":                        {prod + "/app@" + manifest.String(), scoped(nothing, prod+"/app", by("alice")), ""},
		"for a host with a port":              {"localhost:5000", scoped(nothing, "localhost:5000", by("alice")), ""},
		"for a host with a port, below":       {"localhost:5000", scoped(by("alice"), "localhost:5000/app", nothing), "localhost:5000/app"},
		"for a wildcard, below":               {"*.example.com", scoped(by("alice"), "a.example.com", nothing), "a.example.com"},
		"for everything, below":               {"", scoped(by("alice"), "a.example.com/app:v1", nothing), "a.example.com/app:v1"},
		"for everything, by everything":       {"", scoped(nothing, "", by("alice")), ""},
	} {
		err := load(t, test.policy).CheckGate(test.scope, own)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
	unread, err := policy.Parse([]byte(scoped(nothing, prod, by("alice"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := unread.CheckGate(prod, own); err == nil {
		t.Error("a gate whose keys were not read is taken")
	}
}

// A requirement of a gate that is not met names who could meet it.
func TestGateSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	p := load(t, within(by("alice")+","+by("bob")))
	ref := named(t, app+":v1")
	g := p.Gate(ref, manifest, []signature.Untrusted{sign(t, "alice", app+":v1", manifest)}, func(string) bool { return true }, now)
	if len(g.Missing) != 1 || !strings.Contains(g.Missing[0], who(t, "bob").fingerprint) || !strings.Contains(g.Missing[0], ref.String()) {
		t.Errorf("missing is %q, want bob's fingerprint and %s", g.Missing, ref)
	}
	if !slices.Equal(g.Signers, []string{who(t, "alice").fingerprint}) {
		t.Errorf("signers are %q, want alice", g.Signers)
	}
}
