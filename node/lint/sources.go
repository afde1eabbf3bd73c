package lint

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v3"

	"github.com/countersign-dev/countersign/policy"
)

// A namespace of registries.d says where the signatures of images are.
type namespace struct {
	at     position // of its name
	name   string
	values map[string]value

	isDefault bool // default-docker, which has no name
}

// A value is what a key has, and where.
type value struct {
	at   position
	text string
}

// names are the keys of a namespace, as containers-registries.d(5) has them. Of two spellings
// clients that know both take the first.
const (
	lookaside, staging           = "lookaside", "lookaside-staging"
	sigstore, sigstoreStaging    = "sigstore", "sigstore-staging"
	attachments                  = "use-sigstore-attachments"
	defaultDocker, dockerSection = "default-docker", "docker"
)

// registriesD reads one file of registries.d.
func (l *linter) registriesD(f file) {
	whole := position{file: f.path}
	var document yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(f.content)))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // empty, and right
		return
	case err != nil:
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			whole.line, _ = strconv.Atoi(m[1]) // digits
		}
		l.find(sourcesInvalid, whole, "%v", err)
		return
	}
	if len(document.Content) != 1 || isNull(document.Content[0]) {
		return
	}
	l.section(f, resolved(document.Content[0]), nil, func(key *yaml.Node, v *yaml.Node) {
		switch key.Value {
		case defaultDocker:
			l.namespace(f, key, v, true)
		case dockerSection:
			l.section(f, v, []any{dockerSection}, func(name *yaml.Node, v *yaml.Node) { l.namespace(f, name, v, false) })
		default:
			l.unknown(sourcesUnknown, position{f.path, key.Line, key.Column, path(key.Value)}, key.Value, defaultDocker, dockerSection)
		}
	})
}

// yamlLine is where the parser says that it stopped.
var yamlLine = regexp.MustCompile(`line ([0-9]{1,9}): `)

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// resolved follows an alias; one that leads to another is none that YAML has.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// section calls each for every key of a mapping, and tells of those that come twice.
func (l *linter) section(f file, n *yaml.Node, at []any, each func(key, v *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.find(sourcesInvalid, position{f.path, n.Line, n.Column, path(at...)}, "a mapping is expected here, of names to values")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], resolved(n.Content[i+1])
		if key.Tag == "!!merge" && v.Kind == yaml.MappingNode { // <<: what an anchor has
			l.merged(n, v, each)
			continue
		}
		if line := seen[key.Value]; line > 0 {
			l.find(sourcesDuplicate, position{f.path, key.Line, key.Column, path(append(slices.Clone(at), key.Value)...)}, "%s stands in line %d already", quoted(key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		each(key, v)
	}
}

// merged calls each for the keys that a mapping has from another, and not itself.
func (l *linter) merged(n, from *yaml.Node, each func(key, v *yaml.Node)) {
	own := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		own[n.Content[i].Value] = true
	}
	for i := 0; i+1 < len(from.Content); i += 2 {
		if key := from.Content[i]; !own[key.Value] {
			own[key.Value] = true
			each(key, resolved(from.Content[i+1]))
		}
	}
}

// unknown tells of a key that clients pass over, and of one that was probably meant.
func (l *linter) unknown(id kind, at position, key string, known ...string) {
	remedy := ""
	for _, k := range known {
		if _, last := cutLast(k); near(last, key) {
			remedy = "Write " + last + "."
		}
	}
	l.findWith(id, at, remedy, "%s is no key that clients know", quoted(key))
}

// near tells a slip: another case, another separator, an s too many or too few.
func near(a, b string) bool {
	plain := func(s string) string {
		return strings.TrimSuffix(strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s)), "s")
	}
	return plain(a) == plain(b)
}

// namespace reads one, and looks at what is wrong with it alone.
func (l *linter) namespace(f file, key, v *yaml.Node, isDefault bool) {
	name, steps := key.Value, []any{dockerSection, key.Value}
	if isDefault {
		name, steps = "", []any{defaultDocker}
	}
	n := namespace{at: position{f.path, key.Line, key.Column, path(steps...)}, name: name, values: map[string]value{}, isDefault: isDefault}
	l.section(f, v, steps, func(key, v *yaml.Node) {
		at := position{f.path, v.Line, v.Column, path(append(slices.Clone(steps), key.Value)...)}
		switch key.Value {
		case lookaside, staging, sigstore, sigstoreStaging:
			var text string
			if err := v.Decode(&text); err != nil {
				l.find(sourcesInvalid, at, "a URL is expected here")
				return
			}
			n.values[key.Value] = value{at, text}
			l.lookasideURL(at, key.Value, text)
		case attachments:
			var use bool
			if err := v.Decode(&use); err != nil {
				l.find(sourcesInvalid, at, "true or false is expected here")
			}
		default:
			at.line, at.column = key.Line, key.Column
			l.unknown(sourcesUnknown, at, key.Value, lookaside, staging, sigstore, sigstoreStaging, attachments)
		}
	})
	l.sources = append(l.sources, n)
	l.byName[name] = append(l.byName[name], n)
	if isDefault {
		return
	}
	if _, ok := policy.Example(name); !ok || name == "" {
		why, instead := misspelled(name)
		l.findWith(namespaceNever, n.at, instead, "no image has the namespace %s: %s", quoted(name), why)
		return
	}
	l.spelled(scopeUpperCase, n.at, name)
}

// lookasideURL looks at a URL by itself.
func (l *linter) lookasideURL(at position, key, text string) {
	u, err := url.Parse(text)
	switch {
	case text == "":
	case err != nil:
		l.find(lookasideURL, at, "it is no URL")
	case strings.HasSuffix(key, "staging") && u.Scheme != "file":
		l.findWith(lookasideURL, at, "Write it as file:///path.", "signatures are written to files alone, not to %s", quoted(redacted(text)))
	case u.Scheme != "file" && u.Scheme != "http" && u.Scheme != "https":
		l.find(lookasideURL, at, "%s is read by no client", quoted(redacted(text)))
	case u.Scheme != "file" && u.Host == "":
		l.find(lookasideURL, at, "%s names no host", quoted(redacted(text)))
	case u.Scheme != "file" && strings.HasSuffix(u.Path, "/") && strings.Trim(u.Path, "/") != "", u.Scheme != "file" && strings.HasSuffix(u.Path, "/"):
		l.find(lookasideSlash, at, "%s ends in a slash", quoted(redacted(text)))
	}
}

// own is what a namespace itself says of where signatures are read, newer names first.
func (n namespace) own() value {
	if v := n.values[lookaside]; v.text != "" {
		return v
	}
	return n.values[sigstore]
}

// claimedTwice looks for namespaces that stand in two files.
func (l *linter) claimedTwice() {
	first := map[string]position{}
	for _, n := range l.sources {
		if other, ok := first[n.at.place]; ok && other.file != n.at.file {
			l.find(namespaceTwice, n.at, "%s stands in %s, line %d, too", n.at.place, other.file, other.line)
			continue
		}
		first[n.at.place] = n.at
	}
}

// topLevel is the URL that clients take for a reference, and where it stands; false: they take the
// built-in directory (protocol.md 2).
func (l *linter) topLevel(ref reference.Named, keys ...string) (value, bool) {
	for _, name := range policy.ScopeNames(ref) {
		for _, n := range l.byName[name] {
			if n.isDefault != (name == "") {
				continue
			}
			for _, key := range keys {
				if v := n.values[key]; v.text != "" {
					return v, true
				}
			}
		}
	}
	return value{}, false
}

// lookasides looks at what the files say together.
func (l *linter) lookasides() {
	for _, n := range l.sources {
		l.spelling(n, lookaside, sigstore)
		l.spelling(n, staging, sigstoreStaging)
		image, ok := policy.Example(n.name)
		read := n.own()
		if !ok || !strings.HasPrefix(read.text, "http") {
			continue
		}
		to, _ := l.topLevel(image, staging, sigstoreStaging, lookaside, sigstore)
		id := lookasideStaging
		if l.Signs {
			id = signingFails
		}
		if !strings.HasPrefix(to.text, "file:") {
			l.find(id, read.at, "nobody can write to %s, and there is no lookaside-staging", quoted(redacted(read.text)))
		}
	}
}

func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "a URL that does not read"
	}
	if u.RawQuery != "" {
		u.RawQuery = "…" // which may be as good as a password
	}
	return u.Redacted()
}

// spelling looks at the two names of one thing.
func (l *linter) spelling(n namespace, newer, older string) {
	a, b := n.values[newer], n.values[older]
	switch {
	case a.text != "" && b.text != "" && a.text != b.text:
		l.find(spellingDiffers, a.at, "%s is %s, and %s %s", newer, quoted(redacted(a.text)), older, quoted(redacted(b.text)))
	case a.text != "" && b.text == "" && l.Client.Before(sinceLookaside):
		l.findWith(spellingClient, a.at, fmt.Sprintf("Add %s: %s beside it.", older, redacted(a.text)), "the client, %s, knows only %s", l.Client, older)
	}
}
