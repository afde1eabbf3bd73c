// Package policy is containers-policy.json(5): which signers and identities are accepted for
// which images. It reads the file as strictly as clients do and decides as they do (protocol.md 6).
//
// One grammar says who may upload, what a signing rule requires, and what nodes enforce.
package policy

import (
	"errors"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/signature"
)

// ErrRefused is what Admit's errors wrap.
var ErrRefused = errors.New("signature is not admitted")

// MaxSize bounds a policy file, in bytes: ten thousand keys as keyData fit.
const MaxSize = 16 << 20

// docker is the transport of registries; the other that is read, atomic, is OpenShift's old one.
const docker, atomic = "docker", "atomic"

// Types of a requirement, as containers-policy.json(5) has them.
const (
	acceptAnything  = "insecureAcceptAnything"
	reject          = "reject"
	signedBy        = "signedBy"
	signedBaseLayer = "signedBaseLayer"
	sigstoreSigned  = "sigstoreSigned"
)

// A Policy says for every scope what images of it must meet. It is immutable and safe for
// concurrent use. The zero Policy accepts and admits nothing.
type Policy struct {
	fallback   scope // "default"
	transports map[string]map[string]scope
	keys       keys
}

// A scope is what images that it is for must meet, all of it.
type scope struct {
	at           *place
	line         int
	name         string
	requirements []requirement
}

// String is what messages call it.
func (s scope) String() string {
	switch {
	case s.at == nil || s.at.parent == nil:
		return "the policy's default"
	case s.name == "":
		return "the policy's scope for everything"
	}
	return "the policy's scope " + quote(s.name)
}

// A requirement is one of a scope's. Of those that clients never accept, only the type is kept.
type requirement struct {
	at       *place
	from     value // as it was written
	kind     string
	keyType  string               // of signedBy, and so is all below
	files    []keyFile            // for Load
	sources  []*signature.Keyring // as they were read
	ring     *signature.Keyring   // of all sources; nil until they are read
	identity identity
}

// gpgKeys is the only keyType that clients implement.
const gpgKeys = "GPGKeys"

// names reports whether the requirement names the key or subkey that signed.
func (r requirement) names(s signature.Signature) bool { return r.ring != nil && r.ring.Made(s) }

// Trust is the policy that accepts what the ring's keys sign under these hosts, under the very
// name that is asked for, and nothing else.
func Trust(hosts []string, ring *signature.Keyring) *Policy {
	var top *place
	nobody := scope{at: top.key("default"), requirements: []requirement{{at: top.key("default").item(0), kind: reject}}}
	scopes := make(map[string]scope, len(hosts))
	for _, host := range hosts {
		at := top.key("transports").key(docker).key(host)
		scopes[host] = scope{at: at, name: host, requirements: []requirement{{
			at: at.item(0), kind: signedBy, keyType: gpgKeys, identity: identity{kind: matchRepoDigestOrExact},
			sources: []*signature.Keyring{ring}, ring: ring,
		}}}
	}
	return &Policy{fallback: nobody, transports: map[string]map[string]scope{docker: scopes}, keys: keys{all: ring}}
}

// TrustFirst is the same for keys that sign under the first of the hosts alone, whichever of them
// an image is asked for by.
func TrustFirst(hosts []string, ring *signature.Keyring) *Policy {
	p := Trust(hosts, ring)
	for _, host := range hosts[1:] {
		p.transports[docker][host].requirements[0].identity = identity{kind: remapIdentity, prefix: host, signedPrefix: hosts[0]}
	}
	return p
}

// scope returns what counts for a reference: the most precise scope, alone.
func (p *Policy) scope(transport string, ref reference.Named) scope {
	for _, name := range scopeNames(transport, ref) {
		if s, ok := p.transports[transport][name]; ok {
			return s
		}
	}
	return p.fallback
}

// scopeNames are the scopes that are for a reference, the most precise first: itself, its
// repository, each level of it up to the host, wildcards for the domains that the host is in,
// and the transport's own (protocol.md 2). A reference with tag and digest is looked up without
// its tag, since clients that take one drop it.
func scopeNames(transport string, ref reference.Named) (names []string) {
	if transport != docker && transport != atomic {
		return nil
	}
	name := ref.Name()
	if digested, ok := ref.(reference.Digested); ok {
		names = append(names, name+"@"+digested.Digest().String())
	} else if tagged, ok := ref.(reference.Tagged); ok {
		names = append(names, name+":"+tagged.Tag())
	}
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
			return append(names, "")
		}
		names = append(names, "*."+domain)
		name = domain
	}
}
