package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a policy file beside MaxSize. Whatever containers-policy.json(5) defines is six deep.
const (
	maxDepth        = 8
	maxValues       = 1 << 16
	maxRequirements = 256 // of one scope
)

// A value is one JSON value and where it stands. Object members keep their order, and no two
// have the same key.
type value struct {
	at      *place
	scalar  any // string, json.Number, bool or nil, if it is neither of the next two
	members []member
	items   []value
	kind    json.Delim // '{', '[' or 0 for a scalar
	line    int        // that it begins on, from 1; 0 if it stands in no file
	all     *problems  // nil: the first problem ends the reading
}

type member struct {
	key string
	value
}

// A place is the path to a value. It is spelled out only for an error: a policy of many values
// under long keys would otherwise cost the square of its size.
type place struct {
	parent *place
	step   any // a member's key, or an item's index from 0
}

func (p *place) key(k string) *place { return &place{parent: p, step: k} }
func (p *place) item(i int) *place   { return &place{parent: p, step: i} }

// String spells a path as jq does: transports.docker["registry.example.com/ns"][0].keyPath.
// That of the policy itself is empty.
func (p *place) String() string {
	if p == nil {
		return ""
	}
	parent := p.parent.String()
	key, isKey := p.step.(string)
	switch {
	case !isKey:
		return fmt.Sprintf("%s[%d]", parent, p.step)
	case !isWord(key):
		return parent + "[" + quote(key) + "]"
	case parent == "":
		return key
	}
	return parent + "." + key
}

func isWord(s string) bool {
	letters := strings.TrimFunc(s, func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	})
	return s != "" && letters == "" && len(s) <= 64
}

// quote keeps what somebody else wrote from flooding or forging a message.
func quote(s string) string {
	const most = 300
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

func (v value) errorf(format string, args ...any) error {
	return &Problem{Line: v.line, Place: v.at.String(), Err: fmt.Errorf(format, args...)}
}

// A reader builds values from tokens. encoding/json alone takes the last of duplicate keys, and
// keys of any case.
type reader struct {
	data []byte
	dec  *json.Decoder
	left int       // values still allowed
	all  *problems // for the values

	line    int // of the offset counted up to
	counted int64
}

func readJSON(data []byte, all *problems) (value, error) {
	if len(data) > MaxSize {
		return value{}, fmt.Errorf("%d bytes are more than the %d that a policy may have", len(data), MaxSize)
	}
	var whole json.RawMessage // only looks whether it is one JSON value, which tokens do not tell
	if err := json.Unmarshal(data, &whole); err != nil {
		return value{}, syntaxError(data, err)
	}
	r := reader{data: data, dec: json.NewDecoder(bytes.NewReader(data)), left: maxValues, line: 1, all: all}
	r.dec.UseNumber()
	return r.value(nil, maxDepth)
}

func syntaxError(data []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		line := 1 + bytes.Count(data[:min(syntax.Offset, int64(len(data)))], []byte("\n"))
		return &Problem{Line: line, Err: fmt.Errorf("not JSON: %w", err)}
	}
	return fmt.Errorf("not JSON: %w", err)
}

func (r *reader) value(at *place, depth int) (value, error) {
	token, err := r.dec.Token()
	v := value{at: at, line: r.lineNow(), all: r.all}
	if err != nil {
		return v, v.errorf("%w", err)
	}
	if r.left--; r.left < 0 {
		return v, v.errorf("more than %d values", maxValues)
	}
	delim, isDelim := token.(json.Delim)
	if !isDelim {
		v.scalar = token
		return v, nil
	}
	if depth == 0 {
		return v, v.errorf("nested too deep")
	}
	v.kind = delim
	for r.dec.More() {
		if delim == '{' {
			err = r.member(&v, depth)
		} else {
			err = r.item(&v, depth)
		}
		if err != nil {
			return v, err
		}
	}
	_, err = r.dec.Token() // the closing one
	return v, err
}

func (r *reader) item(array *value, depth int) error {
	v, err := r.value(array.at.item(len(array.items)), depth-1)
	array.items = append(array.items, v)
	return err
}

func (r *reader) member(object *value, depth int) error {
	token, err := r.dec.Token()
	if err != nil {
		return err
	}
	key, _ := token.(string)
	v, err := r.value(object.at.key(key), depth-1)
	object.members = append(object.members, member{key, v})
	return err
}

// lineNow is the line of the last token. It counts every byte of the policy once.
func (r *reader) lineNow() int {
	here := r.dec.InputOffset()
	r.line += bytes.Count(r.data[r.counted:here], []byte("\n"))
	r.counted = here
	return r.line
}

// fields says what becomes of each key that an object may have.
type fields map[string]func(value) error

// object hands every member to its field. Keys that are not among the fields are refused.
func (v value) object(known fields) error {
	return v.each(func(key string, m value) error {
		set, ok := known[key]
		if !ok {
			return m.errorf("%w; known here are %s", ErrUnknownKey, listed(known))
		}
		return set(m)
	})
}

// each calls f for every member, in order, and refuses a key that comes twice.
func (v value) each(f func(key string, m value) error) error {
	if v.kind != '{' {
		return v.errorf("an object is expected here, not %s", v.description())
	}
	seen := make(map[string]bool, len(v.members))
	for _, m := range v.members {
		var err error
		if seen[m.key] {
			err = m.errorf("%w", ErrDuplicateKey)
		} else {
			err = f(m.key, m.value)
		}
		if err = v.all.note(err); err != nil {
			return err
		}
		seen[m.key] = true
	}
	return nil
}

func listed(known fields) string { return strings.Join(sorted(known), ", ") }

func sorted(known fields) []string {
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// present returns which of the keys the object has.
func (v value) present(keys ...string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool {
		return !slices.ContainsFunc(v.members, func(m member) bool { return m.key == k })
	})
}

// one refuses an object that has not exactly one of the keys.
func (v value) one(keys ...string) error {
	if len(v.present(keys...)) == 0 {
		return v.errorf("needs %s", alternatives(keys))
	}
	return v.atMostOne(keys...)
}

func (v value) atMostOne(keys ...string) error {
	if got := v.present(keys...); len(got) > 1 {
		return v.errorf("may have only one of %s", strings.Join(got, " and "))
	}
	return nil
}

func alternatives(keys []string) string {
	if len(keys) == 1 {
		return keys[0]
	}
	return "exactly one of " + strings.Join(keys, ", ")
}

// text is a string that is not empty. An empty one is a slip everywhere in a policy but in a
// scope, which is a key.
func (v value) text() (string, error) {
	s, ok := v.scalar.(string)
	if !ok {
		return "", v.errorf("a string is expected here, not %s", v.description())
	}
	if s == "" {
		return "", v.errorf("must not be empty")
	}
	return s, nil
}

// list calls f for every item of an array that has one at least.
func (v value) list(f func(value) error) error {
	if v.kind != '[' {
		return v.errorf("an array is expected here, not %s", v.description())
	}
	if len(v.items) == 0 {
		return v.errorf("must not be empty")
	}
	for _, item := range v.items {
		if err := v.all.note(f(item)); err != nil {
			return err
		}
	}
	return nil
}

// base64 is what keyData and its like have.
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

func (v value) description() string {
	switch s := v.scalar.(type) {
	case string:
		return "the string " + quote(s)
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	}
	switch v.kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "null"
}

// needs is object for one that has all of the fields, and its type.
func (v value) needs(all fields) error {
	for _, name := range sorted(all) {
		if len(v.present(name)) == 0 {
			return v.errorf("needs %s", name)
		}
	}
	all["type"] = func(value) error { return nil }
	return v.object(all)
}

// kindOf reads what an object's member "type" says, one of these.
func (v value) kindOf(known ...string) (string, error) {
	if v.kind != '{' {
		return "", v.errorf("an object is expected here, not %s", v.description())
	}
	for _, m := range v.members {
		if m.key == "type" {
			return m.oneOf(known...)
		}
	}
	return "", v.errorf("needs type, one of %s", strings.Join(known, ", "))
}

func (v value) oneOf(known ...string) (string, error) {
	s, err := v.text()
	if err == nil && !slices.Contains(known, s) {
		err = v.errorf("%s is none of %s", quote(s), strings.Join(known, ", "))
	}
	return s, err
}
