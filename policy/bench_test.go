package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// What an upload costs does not grow with the policy: 200 scopes of one requirement, or one of
// 200, beside one of one.
func BenchmarkVerifyAndAdmit(b *testing.B) {
	var scopes []string
	for i := range 200 {
		scopes = append(scopes, fmt.Sprintf(`"other%d.example.com":[%s]`, i, by("bob")))
	}
	mine := fmt.Sprintf(`"%s":[%%s]`, host)
	for name, docker := range map[string]string{
		"1":               fmt.Sprintf(mine, by("alice")),
		"200scopes":       strings.Join(scopes, ",") + "," + fmt.Sprintf(mine, by("alice")),
		"200requirements": fmt.Sprintf(mine, strings.Repeat(by("bob")+",", 199)+by("alice")),
	} {
		p := load(b, `{"default":[`+nothing+`],"transports":{"docker":{`+docker+`}}}`)
		u, ref := sign(b, "alice", app+":v1", manifest), named(b, app+":v1")
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m, err := signature.Parse(u)
				if err != nil {
					b.Fatal(err)
				}
				s, err := p.Verify(m, now)
				if err != nil {
					b.Fatal(err)
				}
				if err := p.Admit(ref, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Evaluate with as many signatures as an image may have.
func BenchmarkEvaluate(b *testing.B) {
	var all []signature.Untrusted
	for i := range 64 {
		all = append(all, sign(b, "bob", fmt.Sprintf("%s:v%d", app, i), manifest))
	}
	p := load(b, within(by("bob")+","+by("alice")))
	image := policy.Image{Transport: "docker", Reference: named(b, app+":v1"), Digest: manifest}
	for b.Loop() {
		if d := p.Evaluate(image, all, now); d.Accepted {
			b.Fatal(d)
		}
	}
}
