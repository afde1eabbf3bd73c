package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// Scopes are the names of the scopes that are for a docker reference, the most precise first: the
// reference itself, its repository, each level of it up to the host, wildcards for the domains
// that the host is in, and "" for everything.
func Scopes(ref reference.Named) []string { return scopeNames(docker, ref) }

// CheckGate says why the policy cannot be the gate of what a scope is for; own are keys that must
// not open it. Whatever could count there is signedBy with keys that were read, and no two of one
// scope's requirements, nor own, share a key: one signer would stand for two.
func (p *Policy) CheckGate(name string, own *signature.Keyring) error {
	for _, s := range p.within(name) {
		for i, r := range s.requirements {
			if r.kind != signedBy || r.keyType != gpgKeys || r.ring == nil {
				return fmt.Errorf("%s: a gate takes signedBy with GPGKeys only, not %s", r.at, r.kind)
			}
			if shared := signature.Shared(r.ring, own); len(shared) > 0 {
				return fmt.Errorf("%s names the server's own key %s: a gate is for what others sign", r.at, shared[0])
			}
			for _, other := range s.requirements[:i] {
				if shared := signature.Shared(r.ring, other.ring); len(shared) > 0 {
					return fmt.Errorf("%s and %s both name key %s: each requirement of a gate needs a signer of its own", other.at, r.at, shared[0])
				}
			}
		}
	}
	return nil
}

// within returns the scopes that decide on something that a scope of this name is for: those that
// are more precise, and the one that is left where they are not.
func (p *Policy) within(name string) []scope {
	var all []scope
	for other, s := range p.transports[docker] {
		if slices.Contains(broader(other), name) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b scope) int { return strings.Compare(a.name, b.name) })
	for _, b := range broader(name) {
		if s, ok := p.transports[docker][b]; ok {
			if b != name { // which is among them
				all = append(all, s)
			}
			return all
		}
	}
	return append(all, p.fallback)
}

// broader are the names of scopes that are for all that a scope is for, itself first.
func broader(name string) []string {
	names := []string{name}
	if domain, wildcard := strings.CutPrefix(name, "*."); wildcard {
		return append(names, wildcards(domain)...)
	}
	if at := strings.IndexByte(name, '@'); at >= 0 {
		name = name[:at]
		names = append(names, name)
	}
	if colon, slash := strings.LastIndexByte(name, ':'), strings.LastIndexByte(name, '/'); slash >= 0 && colon > slash {
		name = name[:colon]
		names = append(names, name)
	}
	for slash := strings.LastIndexByte(name, '/'); slash >= 0; slash = strings.LastIndexByte(name, '/') {
		name = name[:slash]
		names = append(names, name)
	}
	host, _, _ := strings.Cut(name, ":")
	if name == "" {
		return names
	}
	return append(names, wildcards(host)...)
}

// wildcards are those for the domains that a host is in, and the scope for everything.
func wildcards(host string) (names []string) {
	for {
		_, domain, ok := strings.Cut(host, ".")
		if !ok {
			return append(names, "")
		}
		names = append(names, "*."+domain)
		host = domain
	}
}

// A GateDecision is what a gate says of one manifest.
type GateDecision struct {
	Met     bool
	By      []int    // of each requirement that is met: which of the signatures meets it, from 0
	Signers []string // fingerprints of their primary keys, in the same order
	Missing []string // of each that is not: what it wants
}

// Gate asks whether all requirements for a reference are met by signatures of this digest, each by
// another primary key. Only those count whose claim is exactly for this reference, which exact
// says of what is claimed; CheckGate has said that the policy is one that can be a gate.
func (p *Policy) Gate(ref reference.Named, d digest.Digest, signatures []signature.Untrusted, exact func(claimed string) bool, now time.Time) GateDecision {
	s := p.scope(docker, ref)
	e := newEvaluation(Image{Transport: docker, Reference: ref, Digest: d}, signatures, now)
	m := matching{by: map[string]int{}}
	for _, r := range s.requirements {
		m.candidates = append(m.candidates, e.candidates(r, exact))
	}
	var g GateDecision
	for i := range m.candidates {
		m.place(i, map[string]bool{})
	}
	for i, r := range s.requirements {
		signer, n := m.signerOf(i)
		if n < 0 || slices.Contains(g.By, n) { // one signature is never two
			g.Missing = append(g.Missing, r.wants(ref))
			continue
		}
		g.By, g.Signers = append(g.By, n), append(g.Signers, signer)
	}
	g.Met = len(s.requirements) > 0 && len(g.Missing) == 0
	return g
}

// candidates are the primary keys that meet a requirement, and by which signature.
func (e evaluation) candidates(r requirement, exact func(string) bool) map[string]int {
	found := map[string]int{}
	if r.kind != signedBy || r.ring == nil {
		return found
	}
	itself := claimedIn(signature.Signature{Claim: signature.Claim{Reference: e.image.Reference.String()}})
	if !r.identity.fits(e.image.Reference, itself) {
		return found
	}
	for i, s := range e.with(r.ring) {
		if s.err != nil || s.Claim.Digest != e.image.Digest || !exact(s.Claim.Reference) {
			continue
		}
		if _, there := found[s.Fingerprint]; !there {
			found[s.Fingerprint] = i
		}
	}
	return found
}

// wants names what is missing, for a person.
func (r requirement) wants(ref reference.Named) string {
	var names []string
	if r.ring != nil {
		names = slices.Collect(r.ring.Fingerprints())
	}
	return fmt.Sprintf("%s wants a signature of %s by %s", r.at, ref, few(names, " or "))
}

// A matching gives each requirement a signer of its own. Taking the first that fits would leave
// one over where another order does not.
type matching struct {
	candidates []map[string]int
	by         map[string]int // the requirement that has a signer
}

// place finds a signer for requirement i, and moves others to make room. tried are signers that
// were looked at on the way.
func (m *matching) place(i int, tried map[string]bool) bool {
	for _, signer := range slices.Sorted(maps.Keys(m.candidates[i])) {
		if tried[signer] {
			continue
		}
		tried[signer] = true
		if has, taken := m.by[signer]; !taken || m.place(has, tried) {
			m.by[signer] = i
			return true
		}
	}
	return false
}

func (m *matching) signerOf(i int) (signer string, n int) {
	for signer, has := range m.by {
		if has == i {
			return signer, m.candidates[i][signer]
		}
	}
	return "", -1
}
