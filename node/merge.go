package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
)

// ErrConflict is what Merge's and Install's errors wrap where a person has to decide.
var ErrConflict = errors.New("what is there and what is new exclude each other")

// Merging says what Merge may replace. By default it replaces nothing that is not ours.
type Merging struct {
	Force   bool // scopes that the policy has already, with other requirements
	Default bool // the policy's default
}

// Merge puts the scopes of the configuration into a policy that a node has. What is there stays:
// its default, its other scopes, their order. Requirements with our own keys are brought up to
// date. It says what it changes and what it leaves, a line each. Where nothing changes the policy
// stays as it is, byte for byte.
func (c Config) Merge(existing []byte, m Merging) (Config, []string, error) {
	if _, err := policy.Parse(existing); err != nil {
		return c, nil, fmt.Errorf("the policy that is there does not read, and nodes refuse everything with it: %w", err)
	}
	old, err := readPolicy(existing)
	if err != nil {
		return c, nil, err
	}
	ours, err := readPolicy(c.Policy())
	if err != nil {
		return c, nil, err
	}
	g := merger{Merging: m, keys: c.Prefix + "/" + keysDir + "/"}
	g.fallback(&old, ours)
	for _, t := range ours.transports {
		for _, s := range t.scopes {
			g.scope(old.transport(t.name), t.name, s)
		}
	}
	if len(g.conflicts) > 0 {
		return c, nil, fmt.Errorf("%w: %s have other requirements than this configuration\nhint: take them out of the policy that is there, or replace them with -force",
			ErrConflict, strings.Join(g.conflicts, ", "))
	}
	if !equal(old.fallback, ours.fallback) {
		c = c.with(readmeName, []byte(keeping(c.Readme(), old.fallback)))
	}
	g.weaker(old, ours)
	g.stale(old, ours)
	if !g.changed {
		return c.with(policyName, existing), g.said, nil
	}
	merged, err := indented(old.json())
	if err != nil {
		return c, nil, err
	}
	return c.with(policyName, merged), g.said, nil
}

// A merger gathers what there is to say.
type merger struct {
	Merging
	keys      string // the directory of our keys
	changed   bool
	said      []string
	conflicts []string
}

func (g *merger) say(format string, args ...any) {
	g.said = append(g.said, fmt.Sprintf(format, args...))
}

func (g *merger) fallback(old *document, ours document) {
	switch {
	case equal(old.fallback, ours.fallback):
	case g.Default:
		g.say("policy.json: its default becomes %s; it was %s", ours.fallback, old.fallback)
		old.fallback, g.changed = ours.fallback, true
	default:
		g.say("policy.json: its default stays %s, for every registry without a scope; the profile's is %s: -replace-default", old.fallback, ours.fallback)
	}
}

func (g *merger) scope(into *transport, transport string, s member) {
	name := fmt.Sprintf("transports.%s[%q]", transport, s.key)
	i := slices.IndexFunc(into.scopes, func(m member) bool { return m.key == s.key })
	switch {
	case i < 0:
		into.scopes = append(into.scopes, s)
		g.say("policy.json: %s is new", name)
	case equal(into.scopes[i].value, s.value):
		return
	case bytes.Contains(into.scopes[i].value, []byte(`"`+g.keys)):
		into.scopes[i] = s
		g.say("policy.json: %s is brought up to date", name)
	case g.Force:
		g.say("policy.json: %s is REPLACED; it was %s", name, compact(into.scopes[i].value))
		into.scopes[i] = s
	default:
		g.conflicts = append(g.conflicts, name)
		return
	}
	g.changed = true
}

// weaker tells of scopes that are there, below ours, and accept anything.
func (g *merger) weaker(old, ours document) {
	for _, t := range ours.transports {
		for _, s := range t.scopes {
			for _, other := range old.transport(t.name).scopes {
				if s.key != "" && strings.HasPrefix(other.key, s.key+"/") && bytes.Contains(other.value, []byte("insecureAcceptAnything")) {
					g.say("policy.json: transports.%s[%q], which is there, goes on accepting images without signatures", t.name, other.key)
				}
			}
		}
	}
}

// stale tells of scopes that name our keys, and are not this configuration's any more.
func (g *merger) stale(old, ours document) {
	for _, t := range old.transports {
		for _, s := range t.scopes {
			has := slices.ContainsFunc(ours.transport(t.name).scopes, func(m member) bool { return m.key == s.key })
			if !has && bytes.Contains(s.value, []byte(`"`+g.keys)) {
				g.say("policy.json: transports.%s[%q], which is there, names a key of ours and is no scope of the profile any more", t.name, s.key)
			}
		}
	}
}

// A document is a policy whose order is kept.
type document struct {
	fallback   json.RawMessage
	transports []transport
}

type transport struct {
	name   string
	scopes []member
}

type member struct {
	key   string
	value json.RawMessage
}

// readPolicy takes apart what policy.Parse has accepted.
func readPolicy(data []byte) (document, error) {
	var d document
	top, err := readMembers(data)
	for _, m := range top {
		if m.key == "default" {
			d.fallback = compact(m.value)
			continue
		}
		transports, err := readMembers(m.value)
		if err != nil {
			return d, err
		}
		for _, t := range transports {
			scopes, err := readMembers(t.value)
			if err != nil {
				return d, err
			}
			d.transports = append(d.transports, transport{t.key, scopes})
		}
	}
	return d, err
}

func readMembers(data []byte) (members []member, err error) {
	in := json.NewDecoder(bytes.NewReader(data))
	if _, err := in.Token(); err != nil {
		return nil, err
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, err
		}
		m := member{key: fmt.Sprint(key)}
		if err := in.Decode(&m.value); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	return members, nil
}

// transport returns one that is there, or a new one.
func (d *document) transport(name string) *transport {
	i := slices.IndexFunc(d.transports, func(t transport) bool { return t.name == name })
	if i < 0 {
		i = len(d.transports)
		d.transports = append(d.transports, transport{name: name})
	}
	return &d.transports[i]
}

func (d *document) json() []byte {
	var transports []member
	for _, t := range d.transports {
		transports = append(transports, member{t.name, writeMembers(t.scopes)})
	}
	return writeMembers([]member{{"default", d.fallback}, {"transports", writeMembers(transports)}})
}

func writeMembers(members []member) []byte {
	out := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(m.key) // a string marshals
		out = append(append(append(out, key...), ':'), m.value...)
	}
	return append(out, '}')
}

// equal compares what two values mean.
func equal(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	first, _ := json.Marshal(x) // what was unmarshalled marshals, with its keys in order
	second, _ := json.Marshal(y)
	return bytes.Equal(first, second)
}

func compact(v json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	if json.Compact(&out, v) != nil {
		return v
	}
	return out.Bytes()
}
