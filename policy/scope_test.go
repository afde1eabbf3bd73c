package policy_test

import (
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
)

// One scope counts, the most precise, and nothing of the others (protocol.md 2 and 6).
func TestScope(t *testing.T) {
	t.Parallel()
	const sha = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	const tagged, digested = "reg.sub.example.com:5000/a/b:v1", "reg.sub.example.com:5000/a/b@" + sha
	for _, test := range []struct{ transport, ref, scopes, want string }{
		{"docker", tagged, tagged + " reg.sub.example.com:5000/a/b", tagged},
		{"docker", tagged, "reg.sub.example.com:5000/a/b reg.sub.example.com:5000/a", "reg.sub.example.com:5000/a/b"},
		{"docker", tagged, "reg.sub.example.com:5000/a reg.sub.example.com:5000", "reg.sub.example.com:5000/a"},
		{"docker", tagged, "reg.sub.example.com:5000 *.sub.example.com", "reg.sub.example.com:5000"},
		{"docker", tagged, "*.sub.example.com *.example.com", "*.sub.example.com"},
		{"docker", tagged, "*.example.com *.com", "*.example.com"},
		{"docker", tagged, "*.com /", "*.com"},
		{"docker", tagged, "/", "/"},
		{"docker", tagged, "", "default"},
		{"docker", digested, digested + " reg.sub.example.com:5000/a/b", digested},
		{"docker", digested, tagged + " reg.sub.example.com:5000/a", "reg.sub.example.com:5000/a"},
		{"docker", tagged + "@" + sha, tagged + " " + digested, digested},
		{"docker", tagged + "@" + sha, tagged + " " + tagged + "@" + sha, "default"},
		// A host without its port is another host, and a wildcard is for sub-domains only.
		{"docker", tagged, "reg.sub.example.com reg.sub.example.com/a/b", "default"},
		{"docker", tagged, "*.reg.sub.example.com *:5000 * reg.sub.example.com:5000/", "default"},
		{"docker", "example.com/a:v1", "*.example.com *.com", "*.com"},
		{"docker", "localhost:5000/a:v1", "*.localhost localhost", "default"},
		{"docker", "127.0.0.1:5000/a:v1", "*.0.0.1 127.0.0.1", "*.0.0.1"},
		// Part of a name is not a namespace.
		{"docker", "example.com/abc/d:v1", "example.com/ab example.com/abc/ example.com/abc/d:v", "default"},
		// Names are looked up in full, and without a tag they are latest.
		{"docker", "busybox", "busybox library library/busybox docker.io/library", "docker.io/library"},
		{"docker", "busybox", "docker.io/library/busybox:latest docker.io/library/busybox", "docker.io/library/busybox:latest"},
		{"docker", "index.docker.io/library/busybox:1", "docker.io index.docker.io", "docker.io"},
		{"atomic", "example.com/ns/stream:v1", "example.com/ns example.com", "example.com/ns"},
		{"atomic", "example.com/ns/stream:v1", "*.com /", "*.com"},
		// Other transports have references of their own.
		{"dir", "example.com/a:v1", "example.com /", "default"},
		{"", "example.com/a:v1", "example.com /", "default"},
	} {
		var scopes []string
		for _, name := range strings.Fields(test.scopes) {
			if name == "/" {
				name = "" // the transport's own scope
			}
			scopes = append(scopes, `"`+name+`":[`+nothing+`]`)
		}
		// The default of one transport is not another's, and "" is no name for the policy's.
		p := load(t, `{"default":[`+anything+`],"transports":{"`+test.transport+`":{`+strings.Join(scopes, ",")+`},
			"another":{"":[`+nothing+`],"example.com":[`+nothing+`]}}}`)
		want := "default"
		if test.want != "default" {
			want = "transports." + test.transport + `["` + strings.Trim(test.want, "/") + `"]`
		}
		got := p.Evaluate(policy.Image{Transport: test.transport, Reference: named(t, test.ref), Digest: manifest}, nil, now)
		if got.Scope != want || got.Accepted != (want == "default") {
			t.Errorf("%s:%s with scopes %s: got %s, accepted %v, want %s", test.transport, test.ref, test.scopes, got.Scope, got.Accepted, want)
		}
	}
}

// One transport's scopes are nothing to another's images.
func TestScopeOfAnotherTransport(t *testing.T) {
	t.Parallel()
	p := load(t, `{"default":[`+nothing+`],"transports":{"atomic":{"":[`+anything+`]},"docker":{"example.com":[`+nothing+`]},"":{"":[`+anything+`]}}}`)
	for transport, want := range map[string]string{"docker": "default", "atomic": `transports.atomic[""]`, "": "default"} {
		got := p.Evaluate(policy.Image{Transport: transport, Reference: named(t, "other.example.com/a:v1"), Digest: manifest}, nil, now)
		if got.Scope != want {
			t.Errorf("%q: got %s, want %s", transport, got.Scope, want)
		}
	}
}
