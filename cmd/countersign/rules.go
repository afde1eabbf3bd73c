package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
)

// signingBy says with which keys the server signs, and when.
type signingBy struct {
	Keys  map[string]keyAt `yaml:"keys"`
	Rules []ruleBy         `yaml:"rules"`
}

type ruleBy struct {
	Scope     *string           `yaml:"scope"` // as in a policy; "" is everything
	Key       string            `yaml:"key"`   // a name in keys; empty: the only one
	On        []signing.Trigger `yaml:"on"`
	Require   string            `yaml:"require"`   // policy file: the gate
	Supersede time.Duration     `yaml:"supersede"` // 0: never
}

func defaultTriggers() []signing.Trigger { return []signing.Trigger{signing.OnPush, signing.OnUpload} }

func (s *settings) parseSignOn(v string) error {
	s.SignOn = []signing.Trigger{}
	if v == "none" {
		return nil
	}
	for word := range strings.SplitSeq(v, ",") {
		on := signing.Trigger(word)
		if !slices.Contains(signing.Triggers(), on) || slices.Contains(s.SignOn, on) {
			return fmt.Errorf("%q is none of push, upload and request, each once, or none", word)
		}
		s.SignOn = append(s.SignOn, on)
	}
	return nil
}

// checkSigning looks at what can be told without the files.
func (s *settings) checkSigning() error {
	for name, key := range s.Signing.Keys {
		switch {
		case !profileName.MatchString(name):
			return fmt.Errorf("signing.keys: %q cannot be a key's name: letters, digits, . _ and - are wanted", name)
		}
		if err := key.check(); err != nil {
			return fmt.Errorf("signing.keys.%s: %w", name, err)
		}
	}
	if s.Signing.Rules != nil && s.SignOn != nil {
		return errors.New("-sign-on and signing.rules both say when the server signs: leave one out")
	}
	for i, r := range s.Signing.Rules {
		switch {
		case r.Scope == nil:
			return fmt.Errorf(`signing.rules[%d]: scope is missing; "" is everything`, i)
		case r.Supersede != 0 && r.Supersede < time.Second:
			return fmt.Errorf("signing.rules[%d]: supersede is %v; a delay of a second or more is wanted, as 24h", i, r.Supersede)
		}
	}
	return nil
}

// rules are what the settings say, or what -sign-on does for everything. Where there is no key,
// nothing can be signed and nobody has asked for it.
func (h *house) rules(s settings) ([]signing.Rule, error) {
	names := slices.Sorted(maps.Keys(h.keys))
	if s.Signing.Rules == nil {
		on := s.SignOn
		if on == nil {
			on = defaultTriggers()
		}
		if len(on) == 0 || len(names) == 0 {
			return nil, nil
		}
		if len(names) > 1 {
			return nil, fmt.Errorf("signing.keys has several, %s, and nothing says which of them signs what\nhint: signing.rules, or -sign-on none", strings.Join(names, ", "))
		}
		return []signing.Rule{{Key: names[0], On: on}}, nil
	}
	var rules []signing.Rule
	for i, r := range s.Signing.Rules {
		rule := signing.Rule{Scope: *r.Scope, Key: r.Key, On: r.On, Supersede: r.Supersede}
		if rule.Key == "" && len(names) == 1 {
			rule.Key = names[0]
		}
		if r.Require != "" {
			gate, err := h.gate(s.Hosts[0], *r.Scope, r.Require)
			if err != nil {
				return nil, fmt.Errorf("signing.rules[%d]: %w", i, err)
			}
			rule.Require = gate
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// gate opens the policy that must be met first. It follows its files; what cannot be a gate leaves
// what was read before in force.
func (h *house) gate(host, scope, file string) (func() *policy.Policy, error) {
	live, err := admission.OpenPolicy(file, h.log, signing.CheckGate(host, scope, h.own()))
	if err != nil {
		return nil, fmt.Errorf("require: %w", err)
	}
	name := "gate/" + scope
	if scope == "" {
		name = "gate/everything"
	}
	for n := 2; h.live[name] != nil; n++ {
		name = fmt.Sprintf("gate/%s/%d", scope, n)
	}
	h.live[name] = live
	return live.Policy, nil
}

// own is the public part of all the server's keys, those that no rule names among them.
func (h *house) own() *signature.Keyring {
	var rings []*signature.Keyring
	for _, name := range slices.Sorted(maps.Keys(h.keys)) {
		rings = append(rings, h.keys[name].Key())
	}
	return signature.Join(rings...)
}
