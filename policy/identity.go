package policy

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// Types of signedIdentity.
const (
	matchExact             = "matchExact"
	matchRepoDigestOrExact = "matchRepoDigestOrExact"
	matchRepository        = "matchRepository"
	exactReference         = "exactReference"
	exactRepository        = "exactRepository"
	remapIdentity          = "remapIdentity"
)

// maxReference is more than host, repository, tag and digest can have together. What is longer is
// not parsed: megabytes would take seconds.
const maxReference = 1024

// An identity says which claimed references fit an image's.
type identity struct {
	kind                 string
	reference            reference.Named // of exactReference and exactRepository
	prefix, signedPrefix string          // of remapIdentity
}

// accepts says why a claimed reference does not fit. The image's has a tag, a digest or both, as
// whoever asks wrote it (protocol.md 6).
func (i identity) accepts(image reference.Named, claimed string) error {
	signed, err := signature.ParseReference(claimed)
	if err != nil {
		return fmt.Errorf("its reference %s does not parse: %w", quote(claimed), err)
	}
	fits, want := false, image.String()
	switch i.kind {
	case matchExact:
		fits = !reference.IsNameOnly(image) && same(image, signed)
	case matchRepository:
		fits, want = image.Name() == signed.Name(), anything(image)
	case exactReference:
		fits, want = same(i.reference, signed), i.reference.String()
	case exactRepository:
		fits, want = i.reference.Name() == signed.Name(), anything(i.reference)
	case remapIdentity:
		if image, err = i.remap(image); err != nil {
			return err
		}
		fits, want = repoDigestOrExact(image, signed)
	default:
		fits, want = repoDigestOrExact(image, signed)
	}
	if fits {
		return nil
	}
	return fmt.Errorf("it is signed for %s, and %s wants %s", quote(claimed), i.kind, want)
}

func anything(named reference.Named) string { return "anything of " + named.Name() }

// same is equality of references that have a tag or a digest.
func same(want, signed reference.Named) bool {
	return !reference.IsNameOnly(signed) && want.String() == signed.String()
}

// repoDigestOrExact is the default: who asks by tag, also beside a digest, wants that very
// reference, who asks by digest alone any tag or digest of the repository.
func repoDigestOrExact(image, signed reference.Named) (fits bool, want string) {
	_, tagged := image.(reference.Tagged)
	_, digested := image.(reference.Digested)
	if digested && !tagged {
		return !reference.IsNameOnly(signed) && image.Name() == signed.Name(), "a tag or digest of " + image.Name()
	}
	return tagged && same(image, signed), image.String()
}

// remap replaces the prefix in an image's name. One that does not have it stays as it is; one
// that would be no name then fits nothing.
func (i identity) remap(image reference.Named) (reference.Named, error) {
	rest, ok := strings.CutPrefix(image.String(), i.prefix)
	if !ok || image.Name() != i.prefix && !strings.HasPrefix(rest, "/") {
		return image, nil
	}
	remapped, err := reference.ParseNamed(i.signedPrefix + rest)
	if err != nil {
		return nil, fmt.Errorf("remapIdentity makes %s of it, which is no reference: %w", quote(i.signedPrefix+rest), err)
	}
	return remapped, nil
}
