package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/policy"
)

// Transports that policies are about; the others are known, and have nothing to do with registries.
const docker, atomic = "docker", "atomic"

// policyFile reads one policy, and looks at what can be read of it.
func (l *linter) policyFile(f file) {
	p, problems := policy.Inspect(f.content)
	for _, problem := range problems {
		id := policyInvalid
		switch {
		case problem.Late:
			id = keyInvalid
		case errors.Is(problem.Err, policy.ErrUnknownKey):
			id = policyUnknownKey
		case errors.Is(problem.Err, policy.ErrDuplicateKey):
			id = policyDuplicateKey
		case errors.Is(problem.Err, policy.ErrNoDefault):
			id = defaultMissing
		}
		l.find(id, position{f.path, problem.Line, 0, problem.Place}, "%v", problem.Err)
	}
	if p == nil {
		return
	}
	l.policies = append(l.policies, nodePolicy{p, f})
	scopes := p.Scopes()
	l.defaults(f, scopes)
	for _, s := range scopes {
		l.scope(f, s)
		for _, r := range s.Requirements {
			l.requirement(f, s, r)
		}
		if s.Transport == atomic {
			l.atomic(f, p, s)
		}
	}
}

func at(f file, s policy.Scope) position { return position{f.path, s.Line, 0, s.Place} }

// permissive tells a scope that accepts anything.
func permissive(s policy.Scope) bool {
	return len(s.Requirements) > 0 && !slices.ContainsFunc(s.Requirements, func(r policy.Requirement) bool {
		return r.Type != "insecureAcceptAnything"
	})
}

// requires tells a scope that wants signatures.
func requires(s policy.Scope) bool {
	return slices.ContainsFunc(s.Requirements, func(r policy.Requirement) bool {
		return r.Type == "signedBy" || r.Type == "sigstoreSigned"
	})
}

// shipped tells the registries that distributions ship requirements for.
func shipped(scope string) bool {
	host, _, _ := strings.Cut(scope, "/")
	return host == "registry.access.redhat.com" || host == "registry.redhat.io"
}

// defaults looks at what holds for images that nobody has thought of.
func (l *linter) defaults(f file, scopes []policy.Scope) {
	enforces := slices.ContainsFunc(scopes, func(s policy.Scope) bool {
		ofRegistry := s.Transport == docker || s.Transport == atomic
		return ofRegistry && !shipped(s.Name) && !permissive(s) || s.Transport == "" && requires(s)
	})
	for _, s := range scopes {
		isDefault := s.Transport == "" || s.Transport == docker && s.Name == ""
		switch {
		case !isDefault || !permissive(s):
		case enforces:
			l.find(defaultPermissive, at(f, s), "it accepts anything, beside scopes that do not")
		case s.Transport == "":
			l.find(nothingRequired, at(f, s), "it accepts anything")
		}
	}
}

// scope looks whether it can be one of an image's.
func (l *linter) scope(f file, s policy.Scope) {
	if s.Transport == "" {
		return
	}
	if s.Transport != docker && s.Transport != atomic {
		l.otherTransport(f, s)
		return
	}
	if _, ok := policy.Example(s.Name); !ok {
		why, instead := misspelled(s.Name)
		l.findWith(scopeNever, at(f, s), instead, "no image has the scope %s: %s", quoted(s.Name), why)
		return
	}
	l.spelled(scopeUpperCase, at(f, s), s.Name)
}

// spelled looks at a scope or namespace that images can have, and hardly any has.
func (l *linter) spelled(upper kind, at position, name string) {
	host, path, _ := strings.Cut(name, "/")
	bare, port, _ := strings.Cut(host, ":")
	switch {
	case host != strings.ToLower(host):
		l.findWith(upper, at, "Write "+quoted(strings.ToLower(host)+strings.TrimPrefix(name, host))+".", "only images typed with the host %s have it", quoted(host))
	case port == "443":
		l.findWith(scopePort, at, "Write "+quoted(strings.Replace(name, host, bare, 1))+", or have both.", "only images typed with :443 have it; %s without port does not", quoted(bare))
	case bare == "docker.io" && path != "" && !strings.ContainsAny(path, "/:@"):
		l.find(scopeDockerHub, at, "it is the organisation %s at Docker Hub, not the official image docker.io/library/%[1]s", path)
	}
}

// otherTransport looks at a scope that is no registry's.
func (l *linter) otherTransport(f file, s policy.Scope) {
	at := at(f, s)
	err := error(nil)
	switch s.Transport {
	case "dir", "oci", "oci-archive", "sif":
		if s.Name != "" && (!strings.HasPrefix(s.Name, "/") || s.Name == "/" || s.Name != filepath.Clean(s.Name)) {
			err = errors.New("it is no clean absolute path")
		}
	case "docker-archive", "tarball":
		if s.Name != "" {
			err = errors.New(`it takes only "", for everything`)
		}
	case "containers-storage":
		if s.Name != "" && !strings.HasPrefix(s.Name, "[") {
			err = errors.New("it begins with the storage in brackets: [overlay@/var/lib/containers/storage]")
		}
	case "docker-daemon", "ostree":
	default:
		remedy := ""
		if name := strings.ToLower(strings.TrimRight(s.Transport, ":/")); name == docker || name == "registry" || name == "https" || name == "http" {
			remedy = `Write "docker".`
		}
		l.findWith(transportUnknown, at, remedy, "no client knows a transport %s; its scope %s holds for nothing", quoted(s.Transport), quoted(s.Name))
	}
	if err != nil {
		l.find(transportScope, at, "%s is no scope of transport %s: %v", quoted(s.Name), s.Transport, err)
	}
}

// atomic looks whether images of a scope have the same requirements when they are pulled by docker.
func (l *linter) atomic(f file, p *policy.Policy, s policy.Scope) {
	image, ok := policy.Example(s.Name)
	if !ok {
		return
	}
	same := p.For(docker, image)
	if slices.EqualFunc(s.Requirements, same.Requirements, func(a, b policy.Requirement) bool { return bytes.Equal(a.Written, b.Written) }) {
		return
	}
	by := "the default"
	if same.Transport != "" {
		by = "docker's scope " + quoted(same.Name)
	}
	l.find(atomicOnly, at(f, s), "it does not govern pulls by docker:// of the same images; %s does, and %s", by, summary(same))
}

// summary says what a scope does to an image.
func summary(s policy.Scope) string {
	var keys int
	for _, r := range s.Requirements {
		switch r.Type {
		case "reject", "signedBaseLayer":
			return "rejects them"
		case "signedBy", "sigstoreSigned":
			keys++
		}
	}
	if keys == 0 {
		return "accepts them without a signature"
	}
	return "wants other signatures"
}

// requirement looks at one of a scope's.
func (l *linter) requirement(f file, s policy.Scope, r policy.Requirement) {
	at := position{f.path, r.Line, 0, r.Place}
	switch {
	case r.Type == "signedBaseLayer":
		l.find(requirementNever, at, "no client implements signedBaseLayer")
	case r.Type == "signedBy" && r.KeyType != "GPGKeys" && r.KeyType != "":
		l.find(requirementNever, at, "no client implements keyType %s", quoted(r.KeyType))
	case r.Type == "signedBy":
		l.keysOf(f, r)
	}
	l.newer(at, r)
	if r.Prefix != "" {
		l.remap(at, s, r)
	}
}

// newer looks for keys that the client does not know yet.
func (l *linter) newer(at position, r policy.Requirement) {
	var members map[string]json.RawMessage
	if json.Unmarshal(r.Written, &members) != nil {
		return
	}
	since := map[string]Client{
		"fulcio": sinceFulcio, "keyPaths": sinceDatas, "keyDatas": sinceDatas, "pki": sincePKI,
		"rekorPublicKeyPaths": sinceDatas, "rekorPublicKeyDatas": sinceDatas, "rekorPublicKeyPath": sinceFulcio, "rekorPublicKeyData": sinceFulcio,
	}
	if r.Type == "signedBy" {
		since = map[string]Client{"keyPaths": sinceLookaside}
	}
	for _, key := range slices.Sorted(maps.Keys(since)) {
		if version := since[key]; members[key] != nil && l.Client.Before(version) {
			l.find(policyClient, at, "%s has %s since %s, and the client is %s", r.Type, key, version, l.Client)
		}
	}
}

// remap looks whether remapIdentity can apply to an image of the scope.
func (l *linter) remap(at position, s policy.Scope, r policy.Requirement) {
	within := func(name, prefix string) bool {
		return name == prefix || strings.HasPrefix(name, prefix+"/") || strings.HasPrefix(name, prefix+":") && strings.Contains(prefix, "/")
	}
	if s.Name == "" || strings.HasPrefix(s.Name, "*.") || within(s.Name, r.Prefix) || within(r.Prefix, s.Name) {
		return
	}
	if _, ok := policy.Example(s.Name); ok {
		l.find(remapUnused, at, "no image of the scope %s begins with the prefix %s", quoted(s.Name), quoted(r.Prefix))
	}
}

// misspelled says why no image has a scope, and what may have been meant.
func misspelled(name string) (why, instead string) {
	meant := func(s string) string {
		if _, ok := policy.Example(s); !ok || s == "" {
			return ""
		}
		return "Write " + quoted(s) + "."
	}
	scheme, rest, hasScheme := strings.Cut(name, "://")
	host, _, hasPath := strings.Cut(name, "/")
	trimmed := strings.Trim(name, "/ \t")
	switch {
	case hasScheme:
		return fmt.Sprintf("images are named without %s://", scheme), meant(strings.TrimRight(rest, "/"))
	case trimmed != name:
		return "it begins or ends with a slash or a space", meant(trimmed)
	case strings.Contains(name, "*"):
		return "a wildcard stands for sub-domains alone, *.domain, without port or path", meant(strings.TrimSuffix(name, "/*"))
	case strings.HasPrefix(host, "["):
		return "clients take no address of IPv6", ""
	case strings.HasPrefix(name, "index.docker.io"):
		return "clients write it as docker.io", meant("docker.io" + strings.TrimPrefix(name, "index.docker.io"))
	case strings.ToLower(name) != name && hasPath:
		return "repositories are in lower case", meant(strings.ToLower(name))
	}
	if named, err := reference.ParseNormalizedNamed(name); err == nil && named.String() != name {
		return "clients write short names in full, as " + named.String(), meant(named.String())
	}
	return "it is no name of an image, nor the beginning of one", ""
}
