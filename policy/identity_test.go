package policy_test

import (
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

const (
	host = "registry.example.com"
	app  = host + "/ns/app"
)

// What each identity takes (protocol.md 6, Matchers). An image that is asked for by digest is
// that of the manifest.
func TestIdentities(t *testing.T) {
	t.Parallel()
	digested := app + "@" + manifest.String()
	for _, test := range []struct {
		identity, image string
		accepted        []string
		rejected        []string
	}{
		{`{"type":"matchExact"}`, app + ":v1",
			[]string{app + ":v1"},
			[]string{app + ":v2", app + ":V1", digested, app + ":v1@" + manifest.String(), host + "/ns/app2:v1", host + ":5000/ns/app:v1", "ns/app:v1"}},
		{`{"type":"matchExact"}`, digested,
			[]string{digested},
			[]string{app + ":v1", app + "@" + other.String(), app + ":v1@" + manifest.String()}},
		{`{"type":"matchRepoDigestOrExact"}`, app + ":v1",
			[]string{app + ":v1"},
			[]string{app + ":v2", digested, app + ":v1@" + manifest.String(), host + "/ns/other:v1", host + "/ns/app/x:v1", "other.example.com/ns/app:v1"}},
		{`{"type":"matchRepoDigestOrExact"}`, digested,
			[]string{app + ":v1", app + ":v2", digested, app + ":v1@" + manifest.String(), app + "@" + other.String()},
			[]string{host + "/ns/other:v1", host + "/ns/other@" + manifest.String(), host + ":5000/ns/app:v1"}},
		{`{"type":"matchRepoDigestOrExact"}`, app + ":v1@" + manifest.String(),
			[]string{app + ":v1@" + manifest.String()},
			[]string{app + ":v1", digested}},
		{`{"type":"matchRepoDigestOrExact"}`, app,
			[]string{app + ":latest"},
			[]string{app + ":v1", digested}},
		{`{"type":"matchRepository"}`, app + ":v1",
			[]string{app + ":v1", app + ":v2", digested},
			[]string{host + "/ns/app/x:v1", host + "/ns:v1", host + "/ns/ap:v1"}},
		{`{"type":"exactReference","dockerReference":"busybox:1"}`, app + ":v1",
			[]string{"busybox:1", "library/busybox:1", "docker.io/busybox:1", "docker.io/library/busybox:1", "index.docker.io/library/busybox:1"},
			[]string{app + ":v1", "busybox:2", "busybox", "docker.io/library/busybox@" + manifest.String(), "busybox.example.com/library/busybox:1"}},
		{`{"type":"exactReference","dockerReference":"` + digested + `"}`, "other.example.com/x:v1",
			[]string{digested},
			[]string{app + ":v1"}},
		{`{"type":"exactRepository","dockerRepository":"` + app + `"}`, "other.example.com/x:v1",
			[]string{app + ":v1", app + ":v2", digested},
			[]string{"other.example.com/x:v1", host + "/ns/app/x:v1"}},
		{`{"type":"remapIdentity","prefix":"mirror.example.com:5000","signedPrefix":"` + host + `"}`, "mirror.example.com:5000/ns/app:v1",
			[]string{app + ":v1"},
			[]string{app + ":v2", "mirror.example.com:5000/ns/app:v1", digested}},
		{`{"type":"remapIdentity","prefix":"mirror.example.com/copies","signedPrefix":"docker.io/library"}`, "mirror.example.com/copies/busybox:1",
			[]string{"busybox:1"},
			[]string{"mirror.example.com/copies/busybox:1"}},
		{`{"type":"remapIdentity","prefix":"mirror.example.com/ns/app","signedPrefix":"` + app + `"}`, "mirror.example.com/ns/app@" + manifest.String(),
			[]string{app + ":v1", digested},
			[]string{"mirror.example.com/ns/app:v1", host + "/ns/other:v1"}},
		// What does not have the prefix stays: half a name, a port, another host.
		{`{"type":"remapIdentity","prefix":"mirror.example.com/ns","signedPrefix":"` + host + `/ns"}`, "mirror.example.com/nsx/app:v1",
			[]string{"mirror.example.com/nsx/app:v1"},
			[]string{host + "/nsx/app:v1"}},
		{`{"type":"remapIdentity","prefix":"mirror.example.com","signedPrefix":"` + host + `"}`, "mirror.example.com:5000/ns/app:v1",
			[]string{"mirror.example.com:5000/ns/app:v1"},
			[]string{host + ":5000/ns/app:v1", app + ":v1"}},
		// The prefix counts at the beginning only.
		{`{"type":"remapIdentity","prefix":"a.b","signedPrefix":"` + host + `"}`, "x.y/a.b/app:v1",
			[]string{"x.y/a.b/app:v1"},
			[]string{"x.y/" + host + "/app:v1"}},
		// A host without a dot is none, so what it is remapped to is no reference.
		{`{"type":"remapIdentity","prefix":"mirror.example.com","signedPrefix":"short"}`, "mirror.example.com/ns/app:v1",
			nil,
			[]string{"mirror.example.com/ns/app:v1", "short/ns/app:v1", "docker.io/short/ns/app:v1"}},
	} {
		p := load(t, `{"default":[`+by("alice", `"signedIdentity":`+test.identity)+`]}`)
		for want, signed := range map[bool][]string{true: test.accepted, false: test.rejected} {
			for _, ref := range signed {
				image := policy.Image{Transport: "docker", Reference: named(t, test.image), Digest: manifest}
				s := claims(t, "alice", signature.Claim{Reference: ref, Digest: manifest})
				if ref != "busybox" { // which nobody can sign, see ParseClaim
					got := p.Evaluate(image, []signature.Untrusted{sign(t, "alice", ref, manifest)}, now)
					if got.Accepted != want {
						t.Errorf("%s for %s, signed for %s: accepted is %v, want %v: %s", test.identity, test.image, ref, got.Accepted, want, got.Requirements[0].Reason)
					}
				}
				// Admit judges alike, but for what contradicts itself.
				if test.image == app || strings.Contains(ref, other.String()) {
					continue
				}
				if err := p.Admit(named(t, test.image), s); (err == nil) != want {
					t.Errorf("%s for %s, signed for %s: admitting got %v, want it to be admitted: %v", test.identity, test.image, ref, err, want)
				}
			}
		}
	}
}

// Without signedIdentity it is matchRepoDigestOrExact.
func TestIdentityByDefault(t *testing.T) {
	t.Parallel()
	p := load(t, `{"default":[`+by("alice")+`]}`)
	signatures := []signature.Untrusted{sign(t, "alice", app+":v1", manifest)}
	for ref, want := range map[string]bool{app + ":v1": true, app + ":v2": false, app + "@" + manifest.String(): true} {
		got := p.Evaluate(policy.Image{Transport: "docker", Reference: named(t, ref), Digest: manifest}, signatures, now)
		if got.Accepted != want {
			t.Errorf("%s: accepted is %v, want %v: %+v", ref, got.Accepted, want, got)
		}
	}
}
