package lint

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"

	"github.com/countersign-dev/countersign/policy"
)

// An endpoint is where images are got, as containers-registries.conf(5) has it.
type endpoint struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
	NamespaceProxy string `toml:"namespace-proxy"`

	at position
}

// A registry is one table of registries.conf.
type registry struct {
	Prefix string `toml:"prefix"`
	endpoint
	Mirrors            []endpoint `toml:"mirror"`
	Blocked            bool       `toml:"blocked"`
	MirrorByDigestOnly bool       `toml:"mirror-by-digest-only"`
}

// registriesFile is the whole of registries.conf, or of a file beside it.
type registriesFile struct {
	Registries                 []registry        `toml:"registry"`
	UnqualifiedSearch          []string          `toml:"unqualified-search-registries"`
	CredentialHelpers          []string          `toml:"credential-helpers"`
	ShortNameMode              string            `toml:"short-name-mode"`
	AdditionalLayerStoreHelper string            `toml:"additional-layer-store-auth-helper"`
	Aliases                    map[string]string `toml:"aliases"`
	Old                        map[string]struct {
		Registries []string `toml:"registries"`
	} `toml:"registries"`
}

// registriesKeys are all that clients know, but for the indexes of tables.
func registriesKeys() []string {
	keys := []string{"registry", "registry.mirror", "aliases", "aliases.*", "registries", "registries.*"}
	for _, key := range []string{"prefix", "blocked", "mirror-by-digest-only", "location", "insecure", "pull-from-mirror", "namespace-proxy"} {
		keys = append(keys, join("registry", key), join("registry.mirror", key))
	}
	for _, key := range []string{"unqualified-search-registries", "credential-helpers", "short-name-mode", "additional-layer-store-auth-helper"} {
		keys = append(keys, path(key))
	}
	return keys
}

// registriesConf reads one file of mirrors.
func (l *linter) registriesConf(f file) {
	var c registriesFile
	if err := toml.Unmarshal(f.content, &c); err != nil {
		at := position{file: f.path}
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			at.line, at.column = e.Position()
			at.place = strings.Join(e.Key(), ".")
		}
		l.find(mirrorsInvalid, at, "%v", err)
		return
	}
	where := placesIn(f)
	for _, at := range where.unknown(registriesKeys()) {
		_, key := cutLast(at)
		l.unknown(mirrorsUnknown, where[at], key, registriesKeys()...)
	}
	for name := range c.Old {
		l.findWith(mirrorsInvalid, where[join("registries", name)], "Write it as [[registry]] tables and unqualified-search-registries.", "the first version of the format, which recent clients refuse")
	}
	l.shortNames(c, where)
	for i, r := range c.Registries {
		table := path("registry", i)
		r.at = where[table]
		l.registry(r, table, where)
	}
}

// location refuses what clients do.
func (l *linter) location(at position, location string) bool {
	scheme, rest, ok := strings.Cut(location, "://")
	if ok && (scheme == "http" || scheme == "https") {
		l.findWith(mirrorsInvalid, at, "Write "+quoted(strings.TrimRight(rest, "/"))+".", "%s: clients take no scheme here", quoted(location))
	}
	return !ok
}

// registry looks at one table by itself, and keeps it.
func (l *linter) registry(r registry, table string, where places) {
	at := func(step string) position {
		if p, ok := where[join(table, step)]; ok {
			return p
		}
		return where[table]
	}
	good := l.location(at("location"), r.Location) && l.location(at("prefix"), r.Prefix)
	r.Location, r.Prefix = strings.TrimRight(r.Location, "/"), strings.TrimRight(r.Prefix, "/")
	switch wild := strings.HasPrefix(r.Prefix, "*."); {
	case r.Prefix == "" && r.Location == "":
		l.find(mirrorsInvalid, r.at, "neither prefix nor location")
		return
	case r.Location == "" && !wild:
		l.find(mirrorsInvalid, at("prefix"), "a prefix without a location, which only *.domain may be")
	case wild && strings.ContainsAny(r.Prefix, "/@:"):
		l.find(mirrorsInvalid, at("prefix"), "%s: a wildcard is *.domain, without port or path", quoted(r.Prefix))
	case r.PullFromMirror != "":
		l.find(mirrorsInvalid, at("pull-from-mirror"), "pull-from-mirror is for mirrors alone")
	}
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	for i := range r.Mirrors {
		m, mirror := &r.Mirrors[i], table+"."+path("mirror", i)
		from := where[join(mirror, "pull-from-mirror")]
		if m.at = where[join(mirror, "location")]; m.at.line == 0 {
			m.at = where[mirror]
		}
		good = l.location(m.at, m.Location) && good
		m.Location = strings.TrimRight(m.Location, "/")
		switch {
		case m.Location == "":
			l.find(mirrorsInvalid, m.at, "a mirror without a location")
		case m.PullFromMirror != "" && r.MirrorByDigestOnly:
			l.find(mirrorsInvalid, from, "pull-from-mirror and mirror-by-digest-only exclude each other")
		case !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFromMirror):
			l.find(mirrorsInvalid, from, "%s is none of all, digest-only and tag-only", quoted(m.PullFromMirror))
		}
	}
	l.again(r)
	if good {
		l.mirrors = append(l.mirrors, r)
	}
}

// again looks for tables of the same file that a table excludes; in another file it replaces them.
func (l *linter) again(r registry) {
	prefix, location := "prefix\n"+r.at.file+"\n"+r.Prefix, "location\n"+r.at.file+"\n"+cmp.Or(r.Location, r.Prefix)
	other, twice := l.tables[prefix]
	same, ok := l.tables[location]
	switch {
	case ok && (r.Location != "" || twice) && (same.Insecure != r.Insecure || same.Blocked != r.Blocked):
		l.find(mirrorsInvalid, r.at, "%s has another insecure or blocked in line %d", quoted(cmp.Or(r.Location, r.Prefix)), same.at.line)
	case twice:
		l.find(mirrorsTwice, r.at, "the prefix %s stands in line %d already", quoted(r.Prefix), other.at.line)
	}
	if !twice {
		l.tables[prefix] = r
	}
	if !ok {
		l.tables[location] = r
	}
}

// endpoints are where images of a registry are got instead of where they are named.
func (r registry) endpoints() (all []endpoint) {
	for _, e := range append(slices.Clone(r.Mirrors), r.endpoint) {
		if e.Location != "" && e.Location != r.Prefix {
			all = append(all, e)
		}
	}
	return all
}

// mirrored looks at a policy with the mirrors that its images come from.
func (l *linter) mirrored(p nodePolicy) {
	for _, r := range l.mirrors {
		image, ok := policy.Example(r.Prefix)
		if !ok || r.Blocked {
			continue
		}
		original := p.For(docker, image)
		for _, e := range r.endpoints() {
			if mirror, ok := policy.Example(e.Location); ok {
				l.identity(p, r, e, original, p.For(docker, mirror))
				l.source(r, e, original, image, mirror)
			}
		}
	}
}

// identity looks whether what was signed for the original is accepted by the mirror's own name.
func (l *linter) identity(p nodePolicy, r registry, e endpoint, original, mirror policy.Scope) {
	if mirror.Transport == "" || mirror.Name == "" || mirror.Place == original.Place {
		return
	}
	// A registry of its own has keys of its own. Who has a scope for the very mirror and none for
	// the original thinks that the mirror's is the one that counts.
	keys := l.fingerprints(p.file, original)
	shared := slices.ContainsFunc(l.fingerprints(p.file, mirror), func(k string) bool { return slices.Contains(keys, k) })
	if misplaced := original.Transport == "" && strings.HasPrefix(mirror.Name, e.Location); !shared && !misplaced {
		return
	}
	for _, q := range mirror.Requirements {
		if q.Type != "signedBy" && q.Type != "sigstoreSigned" || q.Prefix != "" || strings.Contains(string(q.Identity), `"exactRe`) {
			continue
		}
		remedy := fmt.Sprintf(`Give it "signedIdentity": {"type": "remapIdentity", "prefix": %q, "signedPrefix": %q}, and %[2]q a scope of its own.`, e.Location, r.Prefix)
		l.findWith(mirrorIdentity, position{p.file.path, q.Line, 0, q.Place}, remedy,
			"%s is a mirror of %s (%s), and signatures made for the original do not fit its name", quoted(e.Location), quoted(r.Prefix), e.at.At())
	}
}

// At is a position in a sentence.
func (p position) At() string {
	return Finding{File: p.file, Line: p.line}.At()
}

// source looks whether clients find the original's signatures behind the mirror.
func (l *linter) source(r registry, e endpoint, original policy.Scope, image, mirror reference.Named) {
	if !requires(original) {
		return
	}
	from, has := l.topLevel(image, lookaside, sigstore)
	if to, ok := l.topLevel(mirror, lookaside, sigstore); has && (!ok || to.text == "") {
		l.find(mirrorSource, e.at, "signatures of %s are at %s (%s), and registries.d has nothing for %s", quoted(r.Prefix), quoted(redacted(from.text)), from.at.At(), quoted(e.Location))
	}
}

// ports looks for hosts that the other files know by another port than the policy.
func (l *linter) ports(p nodePolicy) {
	byHost := map[string][]policy.Scope{} // without port
	for _, s := range p.Scopes() {
		if s.Transport == docker && requires(s) {
			host := withoutPort(s.Name)
			byHost[host] = append(byHost[host], s)
		}
	}
	for _, n := range l.sources {
		image, ok := policy.Example(n.name)
		if !ok || n.isDefault || strings.HasPrefix(n.name, "*") {
			continue
		}
		if used := p.For(docker, image); used.Transport != "" && used.Name != "" {
			continue
		}
		host := reference.Domain(image)
		for _, s := range byHost[withoutPort(host)] {
			if scope, _, _ := strings.Cut(s.Name, "/"); scope != host {
				l.find(scopePort, at(p.file, s), "it is for %s, and %s has signatures of %s, for which the policy has no scope", quoted(scope), n.at.At(), quoted(host))
			}
		}
	}
}

// withoutPort is the host of a name, as it stands in certificates.
func withoutPort(name string) string {
	host, _, _ := strings.Cut(name, "/")
	host, _, _ = strings.Cut(host, ":")
	return host
}
