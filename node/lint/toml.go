package lint

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// places are where the keys of a TOML document stand, by their path as this package spells it:
// registry[0].mirror[1].location.
type places map[string]position

// A tomlWalk notes where keys stand. The parser has been through the document before, so that
// what it says is right.
type tomlWalk struct {
	parser unstable.Parser
	file   string
	places places
	lines  []int          // where each begins
	items  map[string]int // how many tables an array of tables has so far, by its path
}

// placesIn finds the keys of a document that is known to parse.
func placesIn(f file) places {
	w := tomlWalk{file: f.path, places: places{}, items: map[string]int{}}
	w.parser.Reset(f.content)
	w.lines = []int{0}
	for offset, b := range f.content {
		if b == '\n' {
			w.lines = append(w.lines, offset+1)
		}
	}
	table := ""
	for w.parser.NextExpression() {
		switch e := w.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = w.table(e.Key(), e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			w.keyValue(table, e)
		}
	}
	return w.places
}

// table returns the path of a table that begins. Steps of it that are arrays mean their last table.
func (w *tomlWalk) table(key unstable.Iterator, isArray bool) string {
	at := ""
	for key.Next() {
		node, last := key.Node(), key.IsLast()
		at = join(at, string(node.Data))
		w.note(at, node)
		switch n := w.items[at]; {
		case last && isArray:
			w.items[at]++
			at += path(n)
			w.note(at, node)
		case n > 0:
			at += path(n - 1)
		}
	}
	return at
}

func (w *tomlWalk) keyValue(table string, e *unstable.Node) {
	at := table
	for key := e.Key(); key.Next(); {
		at = join(at, string(key.Node().Data))
		w.note(at, key.Node())
	}
	w.value(at, e.Value())
}

// value goes into tables and arrays that stand in one value.
func (w *tomlWalk) value(at string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for members := v.Children(); members.Next(); {
			w.keyValue(at, members.Node())
		}
	case unstable.Array:
		n := 0
		for items := v.Children(); items.Next(); {
			if items.Node().Kind == unstable.Comment {
				continue
			}
			w.note(at+path(n), items.Node())
			w.value(at+path(n), items.Node())
			n++
		}
	}
}

func (w *tomlWalk) note(at string, n *unstable.Node) {
	if n.Raw.Length == 0 {
		if parent, _ := cutLast(at); w.places[at].line == 0 {
			w.places[at] = position{w.file, w.places[parent].line, w.places[parent].column, at}
		}
		return
	}
	// The parser could tell, and would count from the beginning each time.
	offset := int(n.Raw.Offset)
	line, _ := slices.BinarySearch(w.lines, offset+1)
	w.places[at] = position{w.file, line, offset - w.lines[line-1] + 1, at}
}

// cutLast takes the last step off a path.
func cutLast(at string) (parent, step string) {
	if strings.HasSuffix(at, `"]`) {
		i := max(strings.LastIndex(at, `["`), 0)
		return at[:i], strings.TrimSuffix(at[i+2:], `"]`)
	}
	i := strings.LastIndexAny(at, ".[")
	if i < 0 {
		return "", at
	}
	return at[:i], strings.Trim(at[i:], ".[]")
}

func join(at, key string) string {
	step := path(key)
	if at == "" || strings.HasPrefix(step, "[") {
		return at + step
	}
	return at + "." + step
}

// unknown are the keys that clients pass over: those of which what they stand in is known.
func (p places) unknown(known []string) (names []string) {
	isKnown := func(at string) bool {
		plain := strings.ToLower(indexes.ReplaceAllString(at, ""))
		return plain == "" || slices.ContainsFunc(known, func(k string) bool {
			parent, all := strings.CutSuffix(k, ".*")
			return plain == k || all && (strings.HasPrefix(plain, parent+".") || strings.HasPrefix(plain, parent+"["))
		})
	}
	for at := range p {
		if parent, _ := cutLast(at); !isKnown(at) && isKnown(parent) {
			names = append(names, at)
		}
	}
	slices.Sort(names)
	return names
}

var indexes = regexp.MustCompile(`\[[0-9]+\]`)
