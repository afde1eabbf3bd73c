package policy

import (
	"encoding/base64"
	"fmt"
	"regexp"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// Parse reads a policy as strictly as clients do: unknown and duplicate keys, wrong types and
// missing ones are errors that name the place. Key files are not read before Load; keyData is.
func Parse(data []byte) (*Policy, error) {
	v, err := readJSON(data)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p := &Policy{transports: map[string]map[string][]requirement{}}
	err = v.object(fields{
		"default": func(v value) (err error) {
			p.fallback, err = v.requirements()
			return err
		},
		"transports": func(v value) error {
			return v.each(func(transport string, v value) error { return p.transport(transport, v) })
		},
	})
	if err == nil && p.fallback == nil {
		err = v.errorf(`"default" is missing: what holds for images that no scope is for`)
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

// Scopes of the atomic transport, as clients check them; those of docker may be anything, and
// transports that nobody knows never match.
var atomicScope = regexp.MustCompile(`^[^/]*(/[^:/]*(/[^:/]*(:[^:/]*)?)?)?$`)

func (p *Policy) transport(name string, v value) error {
	scopes := map[string][]requirement{}
	p.transports[name] = scopes
	return v.each(func(scope string, v value) error {
		if name == atomic && scope != "" && !atomicScope.MatchString(scope) {
			return v.errorf("not a scope of the atomic transport; host/namespace/stream:tag or less is wanted")
		}
		requirements, err := v.requirements()
		scopes[scope] = requirements
		return err
	})
}

func (v value) requirements() ([]requirement, error) {
	items, err := v.array()
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, v.errorf("no requirement; to accept anything, say so with insecureAcceptAnything")
	}
	if len(items) > maxRequirements {
		return nil, v.errorf("%d requirements, at most %d are read", len(items), maxRequirements)
	}
	requirements := make([]requirement, len(items))
	for i, item := range items {
		if requirements[i], err = item.requirement(); err != nil {
			return nil, err
		}
	}
	return requirements, nil
}

func (v value) requirement() (r requirement, err error) {
	if r.kind, err = v.kindOf(acceptAnything, reject, signedBy, signedBaseLayer, sigstoreSigned); err != nil {
		return r, err
	}
	r.place = v.at.String()
	switch r.kind {
	case signedBy:
		return r, v.signedBy(&r)
	case signedBaseLayer:
		if err := v.one("baseLayerIdentity"); err != nil {
			return r, err
		}
		return r, v.object(fields{"type": ignore, "baseLayerIdentity": func(v value) error {
			_, err := v.identity()
			return err
		}})
	case sigstoreSigned:
		return r, v.sigstoreSigned()
	}
	return r, v.object(fields{"type": ignore})
}

func (v value) signedBy(r *requirement) error {
	if err := v.one("keyPath", "keyPaths", "keyData"); err != nil {
		return err
	}
	r.identity.kind = matchRepoDigestOrExact
	err := v.object(fields{
		"type": ignore,
		"keyType": func(v value) (err error) {
			r.keyType, err = v.oneOf(gpgKeys, "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
			return err
		},
		"keyPath": func(v value) error {
			path, err := v.text()
			r.paths = []string{path}
			return err
		},
		"keyPaths": func(v value) (err error) {
			r.paths, err = v.texts()
			return err
		},
		"keyData": func(v value) (err error) {
			r.ring, err = v.keyring()
			return err
		},
		"signedIdentity": func(v value) (err error) {
			r.identity, err = v.identity()
			return err
		},
	})
	if err == nil && r.keyType == "" {
		err = v.errorf("needs keyType")
	}
	// The other key types parse, and accept nothing, as in clients.
	if r.keyType != gpgKeys {
		r.ring, r.paths = nil, nil
	}
	return err
}

func (v value) keyring() (*signature.Keyring, error) {
	data, err := v.base64()
	if err != nil {
		return nil, err
	}
	ring, err := signature.ReadKeyring(data)
	if err != nil {
		return nil, v.errorf("%w", err)
	}
	return ring, nil
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
		err = v.object(fields{"type": ignore})
	}
	return i, err
}

// reference reads a docker reference, with tag or digest, or a repository, without.
func (v value) reference(whole bool) (reference.Named, error) {
	s, err := v.text()
	if err != nil {
		return nil, err
	}
	named, err := reference.ParseNormalizedNamed(s)
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

// prefix reads host[:port], or a repository or namespace in full.
func (v value) prefix(to *string) error {
	s, err := v.text()
	if err != nil {
		return err
	}
	*to = s
	if host.MatchString(s) {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil || named.String() != s || !reference.IsNameOnly(named) {
		return v.errorf("%s is neither host[:port] nor host[:port]/namespace in full", quote(s))
	}
	return nil
}

var host = regexp.MustCompile(`^` + reference.DomainRegexp.String() + `$`)

// sigstoreSigned is read in full and kept as its type alone: such signatures are not simple ones.
func (v value) sigstoreSigned() error {
	if err := v.one("keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"); err != nil {
		return err
	}
	rekor := v.present("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
	switch {
	case len(rekor) > 1:
		return v.errorf("has %s and %s; one of them is enough", rekor[0], rekor[1])
	case len(rekor) == 0 && len(v.present("fulcio")) > 0:
		return v.errorf("fulcio needs a rekor public key beside it")
	case len(rekor) > 0 && len(v.present("pki")) > 0:
		return v.errorf("pki and %s exclude each other", rekor[0])
	}
	return v.object(fields{
		"type": ignore, "keyPath": isText, "keyPaths": areTexts, "keyData": isBase64, "keyDatas": areBase64,
		"rekorPublicKeyPath": isText, "rekorPublicKeyPaths": areTexts, "rekorPublicKeyData": isBase64, "rekorPublicKeyDatas": areBase64,
		"fulcio": value.fulcio, "pki": value.pki,
		"signedIdentity": func(v value) error {
			_, err := v.identity()
			return err
		},
	})
}

func (v value) fulcio() error {
	if err := v.one("caPath", "caData"); err != nil {
		return err
	}
	if len(v.present("oidcIssuer", "subjectEmail")) != 2 {
		return v.errorf("needs oidcIssuer and subjectEmail")
	}
	return v.object(fields{"caPath": isText, "caData": isBase64, "oidcIssuer": isText, "subjectEmail": isText})
}

func (v value) pki() error {
	if err := v.one("caRootsPath", "caRootsData"); err != nil {
		return err
	}
	if len(v.present("caIntermediatesPath", "caIntermediatesData")) > 1 {
		return v.errorf("has caIntermediatesPath and caIntermediatesData; one of them is enough")
	}
	if len(v.present("subjectEmail", "subjectHostname")) == 0 {
		return v.errorf("needs subjectEmail or subjectHostname")
	}
	return v.object(fields{
		"caRootsPath": isText, "caRootsData": isBase64, "caIntermediatesPath": isText, "caIntermediatesData": isBase64,
		"subjectEmail": isText, "subjectHostname": isText,
	})
}

func ignore(value) error { return nil }

func isText(v value) error {
	_, err := v.text()
	return err
}

func areTexts(v value) error {
	_, err := v.texts()
	return err
}

func isBase64(v value) error {
	_, err := v.base64()
	return err
}

func areBase64(v value) error {
	items, err := v.array()
	if err == nil && len(items) == 0 {
		err = v.errorf("is empty")
	}
	for _, item := range items {
		if err == nil {
			err = isBase64(item)
		}
	}
	return err
}

func (v value) base64() ([]byte, error) {
	s, err := v.text()
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, v.errorf("not base64: %w", err)
	}
	return data, nil
}
