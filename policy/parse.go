package policy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// maxReference is more than host, repository, tag and digest can have together. What is longer is
// not parsed: megabytes would take seconds.
const maxReference = 1024

// Parse reads a policy as strictly as clients do: unknown, duplicate and missing keys and wrong
// types are errors, which name line and place. So are empty strings and lists, with which clients
// would accept nothing. keyData is read here, key files by Load.
func Parse(data []byte) (*Policy, error) {
	p, err := parse(data, nil)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

func parse(data []byte, all *problems) (*Policy, error) {
	v, err := readJSON(data, all)
	if err != nil {
		return nil, err
	}
	p := parser{policy: &Policy{transports: map[string]map[string]scope{}}, rings: rings{}}
	err = v.object(fields{
		"default":    p.fallback,
		"transports": func(v value) error { return v.each(p.transport) },
	})
	if err == nil && len(v.present("default")) == 0 {
		err = all.note(v.errorf("%w: what holds for images that no scope is for", ErrNoDefault))
	}
	if err != nil {
		return nil, err
	}
	p.policy.keys = p.policy.collect()
	return p.policy, nil
}

// A parser fills a policy.
type parser struct {
	policy *Policy
	rings  rings // of keyData
}

func (p parser) fallback(v value) (err error) {
	p.policy.fallback, err = p.scope("", v)
	return err
}

// Scopes of the atomic transport, as clients check them; those of docker may be anything, and
// transports that nobody knows never match.
var atomicScope = regexp.MustCompile(`^[^/]*(/[^:/]*(/[^:/]*(:[^:/]*)?)?)?$`)

func (p parser) transport(transport string, v value) error {
	scopes := map[string]scope{}
	p.policy.transports[transport] = scopes
	return v.each(func(name string, v value) (err error) {
		if transport == atomic && (len(name) > maxReference || !atomicScope.MatchString(name)) {
			return v.errorf("not a scope of the atomic transport; host/namespace/stream:tag or less is wanted")
		}
		scopes[name], err = p.scope(name, v)
		return err
	})
}

func (p parser) scope(name string, v value) (scope, error) {
	s := scope{at: v.at, line: v.line, name: name}
	if v.kind == '[' && len(v.items) == 0 {
		return s, v.errorf("no requirement; to accept anything, say so with insecureAcceptAnything")
	}
	if len(v.items) > maxRequirements {
		return s, v.errorf("%d requirements, at most %d are read", len(v.items), maxRequirements)
	}
	err := v.list(func(item value) error {
		r, err := p.requirement(item)
		s.requirements = append(s.requirements, r)
		return err
	})
	return s, err
}

func (p parser) requirement(v value) (r requirement, err error) {
	r.at, r.from = v.at, v
	if r.kind, err = v.kindOf(acceptAnything, reject, signedBy, signedBaseLayer, sigstoreSigned); err != nil {
		return r, err
	}
	switch r.kind {
	case signedBy:
		err = p.signedBy(&r, v)
	case signedBaseLayer:
		err = v.needs(fields{"baseLayerIdentity": isIdentity})
	case sigstoreSigned:
		err = v.sigstoreSigned()
	default:
		err = v.needs(fields{})
	}
	return r, err
}

func (p parser) signedBy(r *requirement, v value) error {
	r.identity.kind = matchRepoDigestOrExact
	var keyData value
	err := v.object(fields{
		"type": ignore,
		"keyType": func(v value) (err error) {
			r.keyType, err = v.oneOf(gpgKeys, "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
			return err
		},
		"keyPath":  r.keyFile,
		"keyPaths": func(v value) error { return v.list(r.keyFile) },
		"keyData": func(v value) error {
			keyData = v
			return isBase64(v)
		},
		"signedIdentity": func(v value) (err error) {
			r.identity, err = v.identity()
			return err
		},
	})
	if err == nil {
		err = v.one("keyType")
	}
	if err == nil {
		err = v.one("keyPath", "keyPaths", "keyData")
	}
	switch {
	case err != nil:
		return err
	case r.keyType != gpgKeys: // such keys parse, and accept nothing, as in clients
		r.files = nil
		return nil
	case len(r.files) > 0:
		return nil
	}
	return p.keyData(r, keyData)
}

func (r *requirement) keyFile(v value) error {
	path, err := v.text()
	r.files = append(r.files, keyFile{path, v})
	return err
}

func (p parser) keyData(r *requirement, v value) error {
	data, err := v.base64()
	if err != nil {
		return err
	}
	ring, err := p.rings.read(data)
	if err != nil {
		return &Problem{Line: v.line, Place: v.at.String(), Err: err, Late: true}
	}
	r.sources, r.ring = []*signature.Keyring{ring}, ring
	return nil
}

func (v value) identity() (i identity, err error) {
	if i.kind, err = v.kindOf(matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository, remapIdentity); err != nil {
		return i, err
	}
	switch i.kind {
	case exactReference:
		err = v.needs(fields{"dockerReference": func(v value) (err error) {
			i.reference, err = v.reference(true)
			return err
		}})
	case exactRepository:
		err = v.needs(fields{"dockerRepository": func(v value) (err error) {
			i.reference, err = v.reference(false)
			return err
		}})
	case remapIdentity:
		err = v.needs(fields{
			"prefix":       func(v value) error { return v.prefix(&i.prefix) },
			"signedPrefix": func(v value) error { return v.prefix(&i.signedPrefix) },
		})
	default:
		err = v.needs(fields{})
	}
	return i, err
}

func isIdentity(v value) error {
	_, err := v.identity()
	return err
}

// short is text that may be a reference, or a part of one.
func (v value) short() (string, error) {
	s, err := v.text()
	if err == nil && len(s) > maxReference {
		err = v.errorf("%d bytes are no reference", len(s))
	}
	return s, err
}

// reference reads a docker reference, with tag or digest, or a repository, without.
func (v value) reference(whole bool) (reference.Named, error) {
	s, err := v.short()
	if err != nil {
		return nil, err
	}
	named, err := signature.ParseReference(s)
	if err != nil {
		return nil, v.errorf("%s: %w", quote(s), err)
	}
	switch nameOnly := reference.IsNameOnly(named); {
	case whole && nameOnly:
		return nil, v.errorf("%s has neither tag nor digest", quote(s))
	case !whole && !nameOnly:
		return nil, v.errorf("%s has a tag or digest; a repository is wanted", quote(s))
	}
	return named, nil
}

// prefix reads host[:port], or a repository or namespace in full: docker.io/library. Clients know
// no address of IPv6.
func (v value) prefix(to *string) error {
	s, err := v.short()
	if err != nil {
		return err
	}
	*to = s
	first, _, more := strings.Cut(s, "/")
	if more {
		_, err = reference.WithName(s)
	}
	if err != nil || len(s) > 0 && s[0] == '[' || !hostPort.MatchString(first) || more && first != "localhost" && !strings.ContainsAny(first, ".:") {
		return v.errorf("%s is neither host[:port] nor host[:port]/namespace in full", quote(s))
	}
	return nil
}

var hostPort = regexp.MustCompile(`^(?:` + reference.DomainRegexp.String() + `)$`)
