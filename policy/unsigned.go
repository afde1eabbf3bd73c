package policy

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// AcceptsUnsigned tells whether everything in a repository is accepted without any signature, by
// whatever tag or digest it is asked for. A policy that rejects it does not accept it.
func (p *Policy) AcceptsUnsigned(repository reference.Named) bool {
	name := repository.Name()
	for at, s := range p.transports[docker] {
		rest, ok := strings.CutPrefix(at, name)
		if ok && (strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "@")) && !s.acceptsAnything() {
			return false
		}
	}
	return p.scope(docker, reference.TrimNamed(repository)).acceptsAnything()
}

func (s scope) acceptsAnything() bool {
	return len(s.requirements) > 0 && !slices.ContainsFunc(s.requirements, func(r requirement) bool { return r.kind != acceptAnything })
}
