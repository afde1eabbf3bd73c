package lint

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// shortNames looks at what short names become; a mistake in one has clients refuse the whole file.
func (l *linter) shortNames(c registriesFile, where places) {
	const search = "unqualified-search-registries"
	for i, host := range c.UnqualifiedSearch {
		at := where[path(search)+path(i)]
		if l.location(at, host) && !searchable.MatchString(strings.TrimRight(host, "/")) {
			l.find(mirrorsInvalid, at, "%s is no host[:port]", quoted(host))
		}
	}
	if !slices.Contains([]string{"", "permissive", "enforcing", "disabled"}, c.ShortNameMode) {
		l.find(mirrorsInvalid, where[path("short-name-mode")], "%s is none of permissive, enforcing and disabled", quoted(c.ShortNameMode))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Aliases)) {
		at := where[join("aliases", name)]
		if short, ok := plainName(name); !ok || isFull(short) {
			l.find(mirrorsInvalid, at, "%s is no short name; one has neither host nor tag nor digest", quoted(name))
		}
		full, ok := plainName(c.Aliases[name])
		if value := c.Aliases[name]; value != "" && (!ok || !isFull(full)) {
			l.find(mirrorsInvalid, at, "%s stands for no repository; host/repository without tag and digest is wanted", quoted(value))
		}
	}
}

var searchable = regexp.MustCompile(`^(?:` + reference.DomainRegexp.String() + `)$`)

// plainName reads a name as it is written, without tag and digest.
func plainName(s string) (reference.Named, bool) {
	ref, err := reference.Parse(s)
	if err != nil {
		return nil, false
	}
	named, ok := ref.(reference.Named)
	return named, ok && reference.IsNameOnly(named)
}

func isFull(named reference.Named) bool {
	host := reference.Domain(named)
	return strings.ContainsAny(host, ".:") || host == "localhost"
}
