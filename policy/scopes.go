package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// A Scope is one of a policy's, for those who show it, rewrite it or look for mistakes in it.
type Scope struct {
	Transport, Name string // both empty: the default
	Place           string // as jq spells it
	Line            int    // from 1; 0 if it stands in no file
	Requirements    []Requirement
}

// A Requirement is one of a scope's.
type Requirement struct {
	Type, KeyType string
	Place         string // as jq spells it
	Line          int
	Files         []KeyFile          // of signedBy by GPGKeys
	Keys          *signature.Keyring // of all its sources; nil until they are read
	Identity      json.RawMessage    // signedIdentity, where it was written as it was; nil: the default one
	Prefix        string             // of an identity that is remapIdentity
	Written       json.RawMessage    // the whole of it; nil if it stands in no file
}

// A KeyFile is a path that a requirement names, and where.
type KeyFile struct {
	Path, Place string
	Line        int
}

// Scopes returns all scopes: the default, then by transport and name.
func (p *Policy) Scopes() []Scope {
	scopes := []Scope{p.fallback.export("")}
	for _, transport := range slices.Sorted(maps.Keys(p.transports)) {
		for _, name := range slices.Sorted(maps.Keys(p.transports[transport])) {
			scopes = append(scopes, p.transports[transport][name].export(transport))
		}
	}
	return scopes
}

// For is the scope that decides on a reference, alone.
func (p *Policy) For(transport string, ref reference.Named) Scope {
	s := p.scope(transport, ref)
	if s.at == nil || s.at.parent == nil {
		transport = ""
	}
	return s.export(transport)
}

// ScopeNames are the names under which clients look a reference up, the most precise first: here,
// and in registries.d. The last is empty, and is for everything.
func ScopeNames(ref reference.Named) []string { return scopeNames(docker, ref) }

// Example is an image that the scope is for, by the transport docker; false: there is none, and
// clients never look the scope up. Where it can, the scope is not that of the image alone.
func Example(scope string) (reference.Named, bool) {
	stem := scope
	if domain, ok := strings.CutPrefix(scope, "*."); ok {
		stem = "example." + domain
	}
	for _, image := range []string{stem + "/image:tag", stem + ":tag", stem} {
		named, err := signature.ParseReference(image)
		if scope == "" {
			named, err = signature.ParseReference("registry.example.com/image:tag")
		}
		if err == nil && slices.Contains(scopeNames(docker, reference.TagNameOnly(named)), scope) {
			return reference.TagNameOnly(named), true
		}
	}
	return nil, false
}

func (s scope) export(transport string) Scope {
	out := Scope{Transport: transport, Name: s.name, Place: s.at.String(), Line: s.line}
	for _, r := range s.requirements {
		out.Requirements = append(out.Requirements, r.export())
	}
	return out
}

func (r requirement) export() Requirement {
	out := Requirement{Type: r.kind, KeyType: r.keyType, Place: r.at.String(), Line: r.from.line, Keys: r.ring, Prefix: r.identity.prefix}
	for _, f := range r.files {
		out.Files = append(out.Files, KeyFile{Path: f.path, Place: f.from.at.String(), Line: f.from.line})
	}
	if r.from.line > 0 {
		out.Written = r.from.appendJSON(nil)
	}
	for _, m := range r.from.members {
		if m.key == "signedIdentity" {
			out.Identity = m.appendJSON(nil)
		}
	}
	if r.from.line == 0 && r.identity.kind == remapIdentity { // TrustFirst's
		out.Identity = fmt.Appendf(nil, `{"type":%q,"prefix":%q,"signedPrefix":%q}`, remapIdentity, r.identity.prefix, r.identity.signedPrefix)
	}
	return out
}

// appendJSON writes a value without any space.
func (v value) appendJSON(to []byte) []byte {
	switch v.kind {
	case '{':
		to = append(to, '{')
		for i, m := range v.members {
			if i > 0 {
				to = append(to, ',')
			}
			to = append(append(to, scalarJSON(m.key)...), ':')
			to = m.appendJSON(to)
		}
		return append(to, '}')
	case '[':
		to = append(to, '[')
		for i, item := range v.items {
			if i > 0 {
				to = append(to, ',')
			}
			to = item.appendJSON(to)
		}
		return append(to, ']')
	}
	return append(to, scalarJSON(v.scalar)...)
}

// scalarJSON never fails: what was read from JSON can be written.
func scalarJSON(v any) []byte {
	out, _ := json.Marshal(v)
	return out
}
