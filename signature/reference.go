package signature

import (
	"errors"
	"strings"

	"github.com/distribution/reference"
)

// maxName bounds a name with its host, as clients do; registries count it without.
const maxName = 255

// maxReference is more than name, tag and digest can have together. What is longer is not parsed:
// megabytes would take seconds.
const maxReference = 1024

// ParseReference reads a docker reference as every client reads it, short or in full. Clients know
// no address of IPv6, no host in upper case that has neither dot nor port, and count the host in
// the length of a name.
func ParseReference(s string) (reference.Named, error) {
	if len(s) > maxReference {
		return nil, reference.ErrNameTooLong
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, err
	}
	switch host := reference.Domain(named); {
	case len(named.Name()) > maxName:
		return nil, reference.ErrNameTooLong
	case strings.HasPrefix(host, "["):
		return nil, errors.New("clients of containers/image read no IPv6 address; use a name")
	case host != "localhost" && !strings.ContainsAny(host, ".:"):
		return nil, errors.New("clients of containers/image read no host in upper case without a dot or a port")
	}
	return named, nil
}
