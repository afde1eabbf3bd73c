package signer_test

import (
	"testing"

	"github.com/countersign-dev/countersign/signature/signer"
)

// A scope ends where a component of a reference does.
func TestScope(t *testing.T) {
	t.Parallel()
	const host = "registry.example.com:5000"
	for _, test := range []struct {
		scope, reference string
		allowed          bool
	}{
		{"", host + "/app:1", true},
		{host, host + "/ns/app:1", true},
		{host, "registry.example.com/ns/app:1", false},
		{"registry.example.com", host + "/ns/app:1", false},
		{host + "/ns", host + "/ns/app:1", true},
		{host + "/ns", host + "/ns2/app:1", false},
		{host + "/ns/app", host + "/ns/app:1", true},
		{host + "/ns/app", host + "/ns/app@sha256:0000000000000000000000000000000000000000000000000000000000000000", true},
		{host + "/ns/app:1", host + "/ns/app:1", true},
		{host + "/ns/app:1", host + "/ns/app:12", false},
		{host + "/other," + host + "/ns", host + "/ns/app:1", true},
		{"docker.io", "busybox:1", true},
		{host, "not a reference", false},
	} {
		scope, err := signer.ParseScope(test.scope)
		if err != nil {
			t.Fatalf("%q: %v", test.scope, err)
		}
		if err := scope.Allows(test.reference); (err == nil) != test.allowed {
			t.Errorf("%q and %q: %v, want allowed %v", test.scope, test.reference, err, test.allowed)
		}
	}
	for _, bad := range []string{"https://registry.example.com", "/", "a b", "registry.example.com/", "registry.example.com/UPPER", ","} {
		if scope, err := signer.ParseScope(bad); err == nil {
			t.Errorf("%q is read as %q, want an error", bad, scope)
		}
	}
}
