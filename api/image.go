// Package api is what travels: the JSON of the signature extension, the paths of both
// protocols with their inverses, the error codes, the limits, and Image, which says what
// signatures belong to. It imports nothing of ours, so clients may use it too.
package api

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ErrName is what a host or repository that does not parse wraps.
var ErrName = errors.New("invalid repository name")

// ErrDigest is what a digest that does not parse wraps.
var ErrDigest = errors.New("invalid digest")

// An Image is what signatures belong to: signatures of the same manifest in another
// repository, or under another host, are another image's.
type Image struct {
	Host       string        `json:"host"`       // host[:port] as nodes name the registry
	Repository string        `json:"repository"` // without the host: one segment or several
	Digest     digest.Digest `json:"digest"`     // of the manifest: sha256:<64 lower-case hex>
}

// NewImage returns the image of three strings that nobody has looked at yet.
// Its errors wrap ErrName or ErrDigest.
func NewImage(host, repository, manifestDigest string) (Image, error) {
	if err := checkRepository(host, repository); err != nil {
		return Image{}, err
	}
	d, err := parseDigest(manifestDigest)
	if err != nil {
		return Image{}, err
	}
	return Image{Host: host, Repository: repository, Digest: d}, nil
}

// String returns <host>/<repository>@<digest>.
func (i Image) String() string { return i.Host + "/" + i.Repository + "@" + string(i.Digest) }

// CheckRepository says what is wrong with the name of a repository. Its error wraps ErrName.
func CheckRepository(repository string) error {
	return checkRepository("registry.example.com", repository)
}

// maxHost bounds host:port; a domain name has 253 characters at most. The reference package
// bounds the repository, at 255.
const maxHost = 253 + len(":65535")

// checkRepository uses WithName, because ParseNamed takes "a:tag" for a repository. That is a regular
// expression, and every pull asks: what is plainly a name is not sent through it.
func checkRepository(host, repository string) error {
	if len(host) > maxHost {
		return fmt.Errorf("%w: a host of %d characters", ErrName, len(host))
	}
	if plainHost(host) && plainRepository(repository) {
		return nil
	}
	named, err := reference.WithName(host + "/" + repository)
	if err != nil {
		return fmt.Errorf("%w %q: %v", ErrName, repository, err)
	}
	if reference.Domain(named) != host || reference.Path(named) != repository {
		return fmt.Errorf("%w %q under host %q", ErrName, repository, host)
	}
	return nil
}

// plainHost knows most hosts: words between single dots and hyphens, and a port.
func plainHost(host string) bool {
	name, port, has := strings.Cut(host, ":")
	return plainWords(name, ".-") && (!has || port != "" && strings.Trim(port, "0123456789") == "")
}

// plainRepository knows most repositories: words between single separators, as long as they may be.
func plainRepository(name string) bool {
	return len(name) <= reference.RepositoryNameTotalLengthMax && plainWords(name, "/-._")
}

// plainWords tells lower-case letters and digits with one separator at a time between them.
func plainWords(s, separators string) bool {
	within := false
	for i := range len(s) {
		word := 'a' <= s[i] && s[i] <= 'z' || '0' <= s[i] && s[i] <= '9'
		if !word && (!within || strings.IndexByte(separators, s[i]) < 0) {
			return false
		}
		within = word
	}
	return within
}

// parseDigest takes sha256 only: clients compare the claimed digest as a string with the
// sha256 of the manifest (protocol.md 5.1), so no other could ever match.
func parseDigest(s string) (digest.Digest, error) {
	if hex, ok := strings.CutPrefix(s, "sha256:"); ok && len(hex) == digest.SHA256.Size()*2 && strings.Trim(hex, "0123456789abcdef") == "" {
		return digest.Digest(s), nil
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%w %q: %v", ErrDigest, s, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("%w %q: signatures are for sha256 digests", ErrDigest, s)
	}
	return d, nil
}
