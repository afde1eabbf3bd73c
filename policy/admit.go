package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// mostNamed bounds what one message lists, and manyNames what is counted for it.
const mostNamed, manyNames = 3, 50

// Admit says whether a verified signature may come in for an image of this reference, which has a
// tag or a digest: at least one signedBy of its scope must accept the key and the claimed
// reference. Others that do not concern the signature do not count against it, a reject does.
// A digest in either reference must be the one that is signed. Errors wrap ErrRefused.
func (p *Policy) Admit(ref reference.Named, s signature.Signature) error {
	scope := p.scope(docker, ref)
	if slices.ContainsFunc(scope.requirements, func(r requirement) bool { return r.kind == reject }) {
		return refused("%s rejects everything, and %s with it", scope, ref)
	}
	claimed := claimedIn(s)
	if err := sameDigest(ref, claimed); err != nil {
		return refused("%w", err)
	}
	for _, r := range scope.requirements {
		if r.names(s) && r.identity.fits(ref, claimed) {
			return nil
		}
	}
	var reasons []string
	for _, r := range scope.requirements {
		if r.names(s) {
			reasons = append(reasons, fmt.Sprint(r.identity.accepts(ref, claimed)))
		}
	}
	if len(reasons) == 0 {
		return refused("%s", scope.notNamed(ref, s))
	}
	slices.Sort(reasons)
	return refused("%s names key %s, but not for this: %s%s", scope, s.Fingerprint, few(slices.Compact(reasons), "; "), copied(ref, claimed))
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// sameDigest refuses a claim that says one digest and names another in its reference: by digest,
// identities compare only repositories.
func sameDigest(ref reference.Named, c claimed) error {
	if d, ok := ref.(reference.Digested); ok && d.Digest() != c.digest {
		return fmt.Errorf("it is for manifest %s, not %s", c.digest, d.Digest())
	}
	if d, ok := c.named.(reference.Digested); ok && d.Digest() != c.digest {
		return fmt.Errorf("it is for manifest %s under reference %s, which has another digest", c.digest, quote(c.text))
	}
	return nil
}

// copied is what to do about signatures that came along with an image from another repository.
func copied(ref reference.Named, c claimed) string {
	if c.named == nil || c.named.Name() == ref.Name() {
		return ""
	}
	return ". If it came along with a copied image, copy with skopeo copy --remove-signatures"
}

// notNamed says whom the scope does name, of many only some.
func (s scope) notNamed(ref reference.Named, by signature.Signature) string {
	var names, types []string
	for _, r := range s.requirements {
		types = append(types, r.kind)
		if r.ring == nil || len(names) > manyNames {
			continue
		}
		for fingerprint := range r.ring.Fingerprints() {
			if names = append(names, fingerprint); len(names) > manyNames {
				break
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	older := slices.ContainsFunc(s.requirements, func(r requirement) bool { return r.ring != nil && r.ring.Has(by.Fingerprint) })
	switch {
	case older:
		return fmt.Sprintf("%s names key %s, but for %s has a copy of it without the subkey that signed; replace it by one that has it", s, by.Fingerprint, ref)
	case len(names) > manyNames-mostNamed:
		return fmt.Sprintf("key %s may not sign for %s; %s names %s and many more", by.Fingerprint, ref, s, strings.Join(names[:mostNamed], ", "))
	case len(names) > 0:
		return fmt.Sprintf("key %s may not sign for %s; %s names %s", by.Fingerprint, ref, s, few(names, ", "))
	}
	slices.Sort(types)
	return fmt.Sprintf("%s names no key for %s; %s alone admits nobody, an upload needs a signedBy", s, ref,
		cmp.Or(strings.Join(slices.Compact(types), ", "), "nothing"))
}

// few keeps a message readable where there is much to name.
func few(all []string, separator string) string {
	if len(all) <= mostNamed {
		return strings.Join(all, separator)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:mostNamed], separator), len(all)-mostNamed)
}
