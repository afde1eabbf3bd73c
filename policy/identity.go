package policy

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
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

// An identity says which claimed references fit an image's.
type identity struct {
	kind                 string
	reference            reference.Named // of exactReference and exactRepository
	prefix, signedPrefix string          // of remapIdentity
}

// accepts says why a claimed reference does not fit. The image's has a tag, a digest or both, as
// whoever asks wrote it (protocol.md 6).
func (i identity) accepts(image reference.Named, claimed string) error {
	signed, err := reference.ParseNormalizedNamed(claimed)
	if err != nil {
		return fmt.Errorf("its reference %q does not parse: %v", claimed, err)
	}
	if i.matches(image, signed) {
		return nil
	}
	switch i.kind {
	case exactReference, exactRepository:
		return fmt.Errorf("it claims to be %s; the policy wants %s", signed, i.reference)
	case remapIdentity:
		image = i.remap(image)
	}
	if image.Name() != signed.Name() {
		return fmt.Errorf("it claims to be %s, of another repository than %s", signed, image)
	}
	return fmt.Errorf("it claims to be %s, not %s", signed, image)
}

func (i identity) matches(image, signed reference.Named) bool {
	switch i.kind {
	case matchExact:
		return !reference.IsNameOnly(image) && !reference.IsNameOnly(signed) && image.String() == signed.String()
	case matchRepository:
		return image.Name() == signed.Name()
	case exactReference:
		return !reference.IsNameOnly(signed) && i.reference.String() == signed.String()
	case exactRepository:
		return i.reference.Name() == signed.Name()
	case remapIdentity:
		return repoDigestOrExact(i.remap(image), signed)
	}
	return repoDigestOrExact(image, signed)
}

// repoDigestOrExact is the default: who asks by tag wants that very reference, who asks by digest
// any of the repository.
func repoDigestOrExact(image, signed reference.Named) bool {
	if reference.IsNameOnly(signed) {
		return false
	}
	if _, tagged := image.(reference.Tagged); tagged {
		return image.String() == signed.String()
	}
	_, digested := image.(reference.Digested)
	return digested && image.Name() == signed.Name()
}

// remap replaces the prefix in an image's name; one that does not have it stays as it is, and so
// does one that would be no name then.
func (i identity) remap(image reference.Named) reference.Named {
	if image.Name() != i.prefix && !strings.HasPrefix(image.Name(), i.prefix+"/") {
		return image
	}
	remapped, err := reference.ParseNormalizedNamed(strings.Replace(image.String(), i.prefix, i.signedPrefix, 1))
	if err != nil {
		return image
	}
	return remapped
}
