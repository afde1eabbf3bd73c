package policy

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

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

// An identity says which claimed references fit an image's.
type identity struct {
	kind                 string
	reference            reference.Named // of exactReference and exactRepository
	prefix, signedPrefix string          // of remapIdentity
}

// A claimed is what a claim says, its reference parsed once for all requirements.
type claimed struct {
	text   string
	named  reference.Named // nil with err
	err    error
	digest digest.Digest
}

func claimedIn(s signature.Signature) claimed {
	named, err := s.Named()
	return claimed{text: s.Claim.Reference, named: named, err: err, digest: s.Claim.Digest}
}

// accepts says why a claimed reference does not fit. The image's has a tag, a digest or both, as
// whoever asks wrote it (protocol.md 6).
func (i identity) accepts(image reference.Named, c claimed) error {
	if c.err != nil {
		return fmt.Errorf("its reference %s does not parse: %w", quote(c.text), c.err)
	}
	if i.fits(image, c) {
		return nil
	}
	if i.kind == remapIdentity {
		var err error
		if image, err = i.remap(image); err != nil {
			return err
		}
	}
	return fmt.Errorf("it is signed for %s, and %s wants %s", quote(c.text), i.kind, i.wants(image))
}

// fits is accepts without the words, which cost more than the answer.
func (i identity) fits(image reference.Named, c claimed) bool {
	switch signed := c.named; {
	case signed == nil:
		return false
	case i.kind == matchExact:
		return !reference.IsNameOnly(image) && same(image, signed)
	case i.kind == matchRepository:
		return image.Name() == signed.Name()
	case i.kind == exactReference:
		return same(i.reference, signed)
	case i.kind == exactRepository:
		return i.reference.Name() == signed.Name()
	case i.kind == remapIdentity:
		remapped, err := i.remap(image)
		return err == nil && repoDigestOrExact(remapped, signed)
	}
	return repoDigestOrExact(image, c.named)
}

func (i identity) wants(image reference.Named) string {
	_, tagged := image.(reference.Tagged)
	switch {
	case i.kind == exactReference:
		return i.reference.String()
	case i.kind == exactRepository:
		return "anything of " + i.reference.Name()
	case i.kind == matchRepository:
		return "anything of " + image.Name()
	case i.kind != matchExact && !tagged:
		return "a tag or digest of " + image.Name()
	}
	return image.String()
}

// same is equality of references that have a tag or a digest.
func same(want, signed reference.Named) bool {
	return !reference.IsNameOnly(signed) && want.String() == signed.String()
}

// repoDigestOrExact is the default: who asks by tag, also beside a digest, wants that very
// reference, who asks by digest alone any tag or digest of the repository.
func repoDigestOrExact(image, signed reference.Named) bool {
	_, tagged := image.(reference.Tagged)
	_, digested := image.(reference.Digested)
	if digested && !tagged {
		return !reference.IsNameOnly(signed) && image.Name() == signed.Name()
	}
	return tagged && same(image, signed)
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
