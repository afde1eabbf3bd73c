package signer

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// A Scope is what a signer signs for: references that begin with one of these, up to a slash, a tag
// or a digest, as scopes of a policy do. None is everything.
type Scope []string

// Allows says why a reference is not to be signed.
func (s Scope) Allows(ref string) error {
	named, err := signature.ParseReference(ref)
	if err != nil {
		return err
	}
	for _, scope := range s {
		if scope == named.String() || scope == named.Name() || strings.HasPrefix(named.Name(), scope+"/") {
			return nil
		}
	}
	if len(s) > 0 {
		return fmt.Errorf("%s is outside of what this signer signs: %s", named, strings.Join(s, ", "))
	}
	return nil
}

// ParseScope reads scopes with commas between: host, host/namespace, host/namespace/name, and that
// with a :tag.
func ParseScope(list string) (Scope, error) {
	if list == "" {
		return nil, nil
	}
	scopes := Scope(strings.Split(list, ","))
	for _, scope := range scopes {
		host, _, within := strings.Cut(scope, "/")
		ref := scope
		if !within {
			ref += "/any"
		}
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil || reference.Domain(named) != host || within && named.String() != scope {
			return nil, fmt.Errorf("scope %q is no host, host/namespace, host/namespace/name or that with :tag", scope)
		}
	}
	return scopes, nil
}
