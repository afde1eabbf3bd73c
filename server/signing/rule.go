package signing

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// A Trigger is what makes the server sign.
type Trigger string

const (
	OnPush    Trigger = "push"    // whatever is pushed
	OnUpload  Trigger = "upload"  // a reference that has an admitted uploaded signature
	OnRequest Trigger = "request" // what somebody asks for who may
)

// Triggers returns all there are.
func Triggers() []Trigger { return []Trigger{OnPush, OnUpload, OnRequest} }

// A Rule says when the server signs, and with which key.
type Rule struct {
	Scope     string                // of references, as a policy's; "" is everything
	Key       string                // name of one of Config.Keys
	On        []Trigger             // any of these
	Require   func() *policy.Policy // the gate in force: what others must have signed first; nil: there is none
	Supersede time.Duration         // after it, signatures of what a tag has left are dropped; 0: never
}

func (r Rule) on(t Trigger) bool { return slices.Contains(r.On, t) }

// String is what records and messages call a rule.
func (r Rule) String() string {
	where := "everything"
	if r.Scope != "" {
		where = r.Scope
	}
	return fmt.Sprintf("the rule for %s with key %s", where, r.Key)
}

// rules are all of them by their scope.
type rules map[string][]Rule

// of returns the rules for a reference: those of the most precise scope that has any.
func (r rules) of(ref reference.Named) []Rule {
	for _, scope := range policy.Scopes(ref) {
		if found := r[scope]; len(found) > 0 {
			return found
		}
	}
	return nil
}

// on says whether any rule has this trigger.
func (r rules) on(t Trigger) bool {
	for _, all := range r {
		if slices.ContainsFunc(all, func(rule Rule) bool { return rule.on(t) }) {
			return true
		}
	}
	return false
}

// find returns the rule of a reference that has this key and this trigger.
func (r rules) find(ref reference.Named, key string, t Trigger) (Rule, bool) {
	found := r.of(ref)
	i := slices.IndexFunc(found, func(rule Rule) bool { return rule.Key == key && rule.on(t) })
	if i < 0 {
		return Rule{}, false
	}
	return found[i], true
}

// newRules refuses rules that cannot do what they say.
func newRules(c Config) (rules, error) {
	all := rules{}
	for i, r := range c.Rules {
		if err := checkRule(c, r); err != nil {
			return nil, fmt.Errorf("signing.rules[%d]: %w", i, err)
		}
		if slices.ContainsFunc(all[r.Scope], func(other Rule) bool { return other.Key == r.Key }) {
			return nil, fmt.Errorf("signing.rules[%d]: another rule has scope %q and key %s, too: make one of both", i, r.Scope, r.Key)
		}
		all[r.Scope] = append(all[r.Scope], r)
	}
	return all, nil
}

func checkRule(c Config, r Rule) error {
	if err := checkScope(c.Hosts[0], r.Scope); err != nil {
		return err
	}
	if _, ok := c.Keys[r.Key]; !ok {
		names := cmp.Or(strings.Join(slices.Sorted(maps.Keys(c.Keys)), ", "), "none")
		return fmt.Errorf("there is no key %q in signing.keys; there is %s", r.Key, names)
	}
	if len(r.On) == 0 {
		return errors.New("on is missing: any of push, upload, request")
	}
	for i, t := range r.On {
		if !slices.Contains(Triggers(), t) || slices.Contains(r.On[:i], t) {
			return fmt.Errorf("on has %q; it takes push, upload and request, each once", t)
		}
	}
	switch {
	case r.Require != nil && !r.on(OnUpload) && !r.on(OnRequest):
		return errors.New("require waits for signatures of others, and on has neither upload nor request: nothing would look whether they have come")
	case r.Supersede < 0:
		return fmt.Errorf("supersede is %v; it is a delay, as 24h", r.Supersede)
	case r.Require != nil:
		return CheckGate(c.Hosts[0], r.Scope, c.own())(r.Require())
	}
	return nil
}

// checkScope wants a scope that some reference of this host can have: the server signs no other.
func checkScope(host, scope string) error {
	first, _, repository := strings.Cut(scope, "/")
	switch {
	case scope == "" || scope == host || strings.HasPrefix(scope, "*.") && isOver(scope, host):
		return nil
	case strings.HasPrefix(scope, "*."):
		return fmt.Errorf("scope %q is not for %s, the first of hosts, under which everything is signed", scope, host)
	case !repository && strings.TrimPrefix(scope, host) != scope, !repository, first != host:
		return fmt.Errorf("scope %q is not for %s, the first of hosts, under which everything is signed; scopes are %[2]s, %[2]s/namespace, %[2]s/namespace/name and that with :tag", scope, host)
	}
	named, err := reference.ParseNormalizedNamed(scope)
	if err != nil || named.String() != scope {
		return fmt.Errorf("scope %q is no reference and no beginning of one", scope)
	}
	return nil
}

// isOver reports whether a wildcard is for a host.
func isOver(scope, host string) bool {
	named, err := reference.ParseNormalizedNamed(host + "/image")
	return err == nil && slices.Contains(policy.Scopes(named), scope)
}

// CheckGate returns what says why a policy cannot be the gate of a rule with this scope: own are
// all of the server's keys.
func CheckGate(host, scope string, own *signature.Keyring) func(*policy.Policy) error {
	if !strings.Contains(scope, "/") {
		scope = host // everything that is signed is of this host
	}
	return func(p *policy.Policy) error {
		if err := p.CheckGate(scope, own); err != nil {
			return fmt.Errorf("require: %w", err)
		}
		return nil
	}
}
