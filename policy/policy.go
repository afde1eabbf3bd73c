// Package policy is containers-policy.json(5): which signers and identities are accepted for
// which images. It reads the file as strictly as clients do and decides as they do (protocol.md 6).
//
// One grammar says who may upload, what a signing rule requires, and what nodes enforce.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// ErrRefused is what Admit's errors wrap.
var ErrRefused = errors.New("signature is not admitted")

// MaxSize bounds a policy file, in bytes.
const MaxSize = 16 << 20

// Transport is that of registries; the other that is read, atomic, is OpenShift's old one.
const docker, atomic = "docker", "atomic"

// Types of a requirement, as containers-policy.json(5) has them.
const (
	acceptAnything  = "insecureAcceptAnything"
	reject          = "reject"
	signedBy        = "signedBy"
	signedBaseLayer = "signedBaseLayer"
	sigstoreSigned  = "sigstoreSigned"
)

// A Policy says for every scope what images of it must meet. It is immutable.
type Policy struct {
	fallback   []requirement // "default"
	transports map[string]map[string][]requirement
	ring       *signature.Keyring // of all requirements
}

// A requirement is one of a scope's. Of those that clients never accept, only the type is kept.
type requirement struct {
	kind     string
	place    string
	keyType  string   // of signedBy
	paths    []string // of its key files, until Load has read them
	ring     *signature.Keyring
	identity identity
}

// gpgKeys is the only keyType that clients implement.
const gpgKeys = "GPGKeys"

// Trust is the policy that accepts what the ring's keys sign under these hosts, under the very
// name that is asked for, and nothing else.
func Trust(hosts []string, ring *signature.Keyring) *Policy {
	trusted := []requirement{{kind: signedBy, keyType: gpgKeys, ring: ring, identity: identity{kind: matchRepoDigestOrExact}}}
	scopes := make(map[string][]requirement, len(hosts))
	for _, host := range hosts {
		scopes[host] = trusted
	}
	return &Policy{
		fallback:   []requirement{{kind: reject}},
		transports: map[string]map[string][]requirement{docker: scopes},
		ring:       ring,
	}
}

// Load returns the policy with its key files read, each once. Its errors name file and place.
func (p *Policy) Load(read func(path string) ([]byte, error)) (*Policy, error) {
	l := loader{read: read, rings: map[string]*signature.Keyring{}}
	loaded := &Policy{fallback: l.requirements(p.fallback), transports: map[string]map[string][]requirement{}}
	for transport, scopes := range p.transports {
		loaded.transports[transport] = map[string][]requirement{}
		for scope, requirements := range scopes {
			loaded.transports[transport][scope] = l.requirements(requirements)
		}
	}
	if l.err != nil {
		return nil, l.err
	}
	loaded.ring = signature.Join(l.all...)
	return loaded, nil
}

// A loader reads key files; the first error stays.
type loader struct {
	read  func(path string) ([]byte, error)
	rings map[string]*signature.Keyring // by path
	all   []*signature.Keyring
	err   error
}

func (l *loader) requirements(all []requirement) []requirement {
	loaded := slices.Clone(all)
	for i := range loaded {
		l.requirement(&loaded[i])
	}
	return loaded
}

func (l *loader) requirement(r *requirement) {
	if r.kind != signedBy {
		return
	}
	rings := []*signature.Keyring{}
	if r.ring != nil {
		rings = append(rings, r.ring)
	}
	for _, path := range r.paths {
		if l.rings[path] == nil && l.err == nil {
			if l.rings[path], l.err = l.file(path); l.err != nil {
				l.err = fmt.Errorf("%s: %w", r.place, l.err)
			}
		}
		if l.err != nil {
			return
		}
		rings = append(rings, l.rings[path])
	}
	r.ring = signature.Join(rings...)
	l.all = append(l.all, r.ring)
}

func (l *loader) file(path string) (*signature.Keyring, error) {
	data, err := l.read(path)
	if err != nil {
		return nil, err
	}
	ring, err := signature.ReadKeyring(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

// Keyring is the union of all keys that the policy names; it is empty before Load.
func (p *Policy) Keyring() *signature.Keyring {
	if p.ring == nil {
		return signature.Join()
	}
	return p.ring
}

// Verify verifies with every key that the policy names. It says nothing yet of what the signer
// may sign: that is Admit's.
func (p *Policy) Verify(m *signature.Message, now time.Time) (signature.Signature, error) {
	return p.Keyring().Verify(m, now)
}

// scope returns the requirements for a reference with tag or digest, and what they stand under.
// The most precise scope counts, alone.
func (p *Policy) scope(transport string, ref reference.Named) (name string, requirements []requirement) {
	scopes := p.transports[transport]
	for _, name := range append(append([]string{ref.String()}, namespaces(ref)...), "") {
		if found, ok := scopes[name]; ok {
			return fmt.Sprintf("scope %q", name), found
		}
	}
	return "the default", p.fallback
}

// namespaces are the scopes above a reference: its repository, each level of it up to the host,
// and wildcards for the domains that the host is in (protocol.md 2).
func namespaces(ref reference.Named) (names []string) {
	name := ref.Name()
	for {
		names = append(names, name)
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			break
		}
		name = name[:slash]
	}
	name, _, _ = strings.Cut(name, ":")
	for {
		_, domain, ok := strings.Cut(name, ".")
		if !ok {
			return names
		}
		names = append(names, "*."+domain)
		name = domain
	}
}

// Admit says whether a verified signature may come in for an image of this reference, which has a
// tag or a digest: at least one signedBy of its scope must accept the key and the claimed
// reference. Others that do not concern the signature do not count against it, a reject does.
func (p *Policy) Admit(ref reference.Named, s signature.Signature) error {
	where, requirements := p.scope(docker, ref)
	var names, mismatch []string // fingerprints, and why the key is not enough
	accepted := false
	for _, r := range requirements {
		switch {
		case r.kind == reject:
			return fmt.Errorf("%w: %s of the policy rejects everything for %s", ErrRefused, where, ref)
		case r.kind != signedBy || r.ring == nil:
		case !r.ring.Has(s.Fingerprint):
			for _, k := range r.ring.Keys() {
				names = append(names, k.Fingerprint)
			}
		default:
			if err := r.identity.accepts(ref, s.Claim.Reference); err != nil {
				mismatch = append(mismatch, err.Error())
			} else {
				accepted = true
			}
		}
	}
	switch {
	case accepted:
		return nil
	case len(mismatch) > 0:
		return fmt.Errorf("%w: %s", ErrRefused, strings.Join(mismatch, "; "))
	case len(names) > 0:
		return fmt.Errorf("%w: key %s may not sign for %s; %s names %s", ErrRefused, s.Fingerprint, ref, where, few(names))
	}
	return fmt.Errorf("%w: %s of the policy names no signer, and %s alone admits nobody", ErrRefused, where, kinds(requirements))
}

func kinds(requirements []requirement) string {
	var all []string
	for _, r := range requirements {
		all = append(all, r.kind)
	}
	return strings.Join(slices.Compact(all), ", ")
}

// few keeps a message readable where many keys are named.
func few(names []string) string {
	const most = 5
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
