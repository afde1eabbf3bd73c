package policy_test

import (
	"testing"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/policy"
)

func TestAcceptsUnsigned(t *testing.T) {
	t.Parallel()
	const anything, reject = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"reject"}]`
	const sigstore = `[{"type":"insecureAcceptAnything"},{"type":"sigstoreSigned","keyPath":"/k"}]`
	for _, test := range []struct {
		fallback, scopes string
		want             bool
	}{
		{anything, ``, true},
		{reject, ``, false},
		{sigstore, ``, false},
		{reject, `"example.com":` + anything, true},
		{anything, `"example.com":` + reject, false},
		{anything, `"example.com/ns/app":` + reject, false},
		{anything, `"example.com/ns/app:v1":` + reject, false},
		{anything, `"example.com/ns/app:v1":` + anything, true},
		{anything, `"example.com/ns/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":` + reject, false},
		{anything, `"example.com/ns/app2:v1":` + reject, true},
		{anything, `"example.com/ns/app/more":` + reject, true},
		{anything, `"":` + reject, false},
		{reject, `"*.com":` + anything, true},
	} {
		p, err := policy.Parse([]byte(`{"default":` + test.fallback + `,"transports":{"docker":{` + test.scopes + `}}}`))
		if err != nil {
			t.Fatalf("%s: %v", test.scopes, err)
		}
		name, err := reference.WithName("example.com/ns/app")
		if err != nil {
			t.Fatal(err)
		}
		if got := p.AcceptsUnsigned(name); got != test.want {
			t.Errorf("default %s, scopes {%s}: accepts unsigned %v, want %v", test.fallback, test.scopes, got, test.want)
		}
	}
}
