package signing_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/signing"
)

// Rules that could not do what they say stop the start, with the reason.
func TestRulesAreRefused(t *testing.T) {
	t.Parallel()
	w := ruled(t)
	push, upload := []signing.Trigger{signing.OnPush}, []signing.Trigger{signing.OnUpload}
	for name, test := range map[string]struct {
		rules []signing.Rule
		says  string
	}{
		"a key that is missing":         {[]signing.Rule{{Key: "third", On: push}}, `"third" in signing.keys; there is second, server`},
		"no trigger":                    {[]signing.Rule{{Key: "server"}}, "on is missing"},
		"a trigger that is none":        {[]signing.Rule{{Key: "server", On: []signing.Trigger{"sometimes"}}}, "sometimes"},
		"a trigger twice":               {[]signing.Rule{{Key: "server", On: append(push, push...)}}, "each once"},
		"another host":                  {[]signing.Rule{{Scope: "other.example.com/ns", Key: "server", On: push}}, hosts[0]},
		"an alias":                      {[]signing.Rule{{Scope: hosts[1] + "/ns", Key: "server", On: push}}, hosts[0]},
		"a wildcard for others":         {[]signing.Rule{{Scope: "*.example.org", Key: "server", On: push}}, hosts[0]},
		"a slash at the end":            {[]signing.Rule{{Scope: hosts[0] + "/ns/", Key: "server", On: push}}, "no reference"},
		"upper case":                    {[]signing.Rule{{Scope: hosts[0] + "/NS", Key: "server", On: push}}, "no reference"},
		"the start of a name":           {[]signing.Rule{{Scope: hosts[0] + "x", Key: "server", On: push}}, hosts[0]},
		"the same twice":                {[]signing.Rule{{Key: "server", On: push}, {Key: "server", On: upload}}, "signing.rules[1]"},
		"a gate that nobody looks at":   {[]signing.Rule{{Key: "server", On: push, Require: gate(t, "alice")}}, "neither upload nor request"},
		"a gate that accepts anything":  {[]signing.Rule{{Key: "server", On: upload, Require: gateOf(t, `{"type":"insecureAcceptAnything"}`)}}, "insecureAcceptAnything"},
		"a gate of the server's own":    {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "alice", "server")}}, "the server's own key"},
		"a gate of another of its keys": {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "second")}}, "the server's own key"},
		"a gate of one signer twice":    {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "alice", "alice")}}, "both name key"},
		"a gate that says nothing of it": {[]signing.Rule{{Key: "server", On: upload, Require: func() *policy.Policy {
			p, _ := policy.Parse([]byte(`{"default":[{"type":"reject"}]}`))
			return p
		}}}, "default[0]"},
		"a delay before now": {[]signing.Rule{{Key: "server", On: push, Supersede: -time.Hour}}, "supersede"},
	} {
		c := w.config
		c.Rules = test.rules
		if _, err := signing.New(c); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
}

// The most precise scope decides, alone, and each of its keys signs.
func TestMostPreciseScopeDecides(t *testing.T) {
	t.Parallel()
	push := []signing.Trigger{signing.OnPush}
	w := ruled(t,
		signing.Rule{Scope: "*.example.com", Key: "server", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/quiet", Key: "server", On: []signing.Trigger{signing.OnRequest}},
		signing.Rule{Scope: hosts[0] + "/ns/both", Key: "server", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/both", Key: "second", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/app:prod", Key: "second", On: push},
	)
	for _, test := range []struct {
		repository, tag string
		keys            []string
	}{
		{"ns/app", "v1", []string{"server"}},
		{"ns/app", "prod", []string{"second"}},
		{"ns/app", "production", []string{"server"}},
		{"ns/quiet", "v1", nil},
		{"ns/quieter", "v1", []string{"server"}},
		{"ns/both", "v1", []string{"server", "second"}},
	} {
		image := w.mustPush(t, test.repository, test.tag, w.manifest(t, test.repository, test.repository+test.tag))
		set, err := w.store.Get(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, sig := range set.Signatures {
			for name, signer := range w.config.Keys {
				if signer.Key().Has(sig.Fingerprint) && sig.Reference == hosts[0]+"/"+test.repository+":"+test.tag {
					keys = append(keys, name)
				}
			}
		}
		if !slices.Equal(keys, test.keys) {
			t.Errorf("%s:%s is signed by %q, want %q", test.repository, test.tag, keys, test.keys)
		}
	}
}
