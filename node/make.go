package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// ErrNoKey is what Make's error wraps for a policy that requires signatures by nobody.
var ErrNoKey = errors.New("it requires signatures, and there is no key that could have made them")

// Options are what a configuration is made with, beside the policy.
type Options struct {
	Profile    string
	Prefix     string      // empty: DefaultPrefix
	Hosts      []string    // for which the extension serves, and so nothing in registries.d
	Lookasides []Lookaside // for all others
}

// Make makes the files from a node policy whose keys were read. Each signedBy requirement gets one
// binary keyring, named by its fingerprints: keyPaths is an error for clients before
// containers/image 5.22, and keyData tells nobody whose key it is. What holds for docker holds for
// atomic, OpenShift's old transport, too, where that has no scope of its own.
func Make(p *policy.Policy, o Options) (Config, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if err := CheckPrefix(o.Prefix); err != nil {
		return Config{}, err
	}
	m := maker{config: Config{Profile: o.Profile, Prefix: o.Prefix}, rings: map[string]*signature.Keyring{}}
	scopes := withAtomic(p.Scopes())
	document, err := m.document(scopes)
	if err != nil {
		return Config{}, fmt.Errorf("profile %s: %w", o.Profile, err)
	}
	c := m.config.with(policyName, document)
	for name, ring := range m.rings {
		c = c.with(keysDir+"/"+name, ring.Binary())
	}
	for _, l := range o.Lookasides {
		c = c.with(registriesDir+"/"+slug(l.Host)+".yaml", registriesFile(o.Profile, l))
	}
	return c.with(readmeName, readme(c, scopes, o, m.notes)), nil
}

// slug is a host as a file name; no host has an underscore.
func slug(host string) string { return strings.ReplaceAll(host, ":", "_") }

// Scopes of the atomic transport: host[/namespace[/stream[:tag]]].
var atomicScope = regexp.MustCompile(`^[^/@]+(/[^:/@]+(/[^:/@]+(:[^:/@]+)?)?)?$`)

// withAtomic gives the atomic transport the scopes of docker that it can have.
func withAtomic(scopes []policy.Scope) []policy.Scope {
	own := map[string]bool{}
	for _, s := range scopes {
		if s.Transport == "atomic" {
			own[s.Name] = true
		}
	}
	all := slices.Clone(scopes)
	for _, s := range scopes {
		if s.Transport == "docker" && !own[s.Name] && (s.Name == "" || atomicScope.MatchString(s.Name)) {
			s.Transport = "atomic"
			all = append(all, s)
		}
	}
	return all
}

// A maker gathers the keys that the policy names.
type maker struct {
	config Config
	rings  map[string]*signature.Keyring // by file name
	notes  []string
}

func (m *maker) document(scopes []policy.Scope) ([]byte, error) {
	var document struct {
		Default    []json.RawMessage                       `json:"default"`
		Transports map[string]map[string][]json.RawMessage `json:"transports,omitempty"`
	}
	document.Transports = map[string]map[string][]json.RawMessage{}
	for _, s := range scopes {
		var requirements []json.RawMessage
		for _, r := range s.Requirements {
			written, err := m.requirement(r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Place, err)
			}
			requirements = append(requirements, written)
		}
		if s.Transport == "" {
			document.Default = requirements
			continue
		}
		if document.Transports[s.Transport] == nil {
			document.Transports[s.Transport] = map[string][]json.RawMessage{}
		}
		document.Transports[s.Transport][s.Name] = requirements
	}
	out, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	return indented(out)
}

// indented is how policy.json is written, here and where it is merged.
func indented(document []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, document, "", "    "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func (m *maker) requirement(r policy.Requirement) (json.RawMessage, error) {
	if r.Type != "signedBy" || r.KeyType != "GPGKeys" {
		if bytes.Contains(r.Written, []byte(`Path`)) {
			m.notes = append(m.notes, fmt.Sprintf("%s is %s and names files that are not among these; they must be on the nodes.", r.Place, r.Type))
		}
		if r.Written == nil {
			return json.Marshal(map[string]string{"type": r.Type})
		}
		return r.Written, nil
	}
	if r.Keys == nil || len(r.Keys.Keys()) == 0 {
		return nil, ErrNoKey
	}
	name := keyName(r.Keys)
	if other := m.rings[name]; other != nil {
		m.rings[name] = signature.Join(other, r.Keys)
	} else {
		m.rings[name] = r.Keys
	}
	return json.Marshal(struct {
		Type     string          `json:"type"`
		KeyType  string          `json:"keyType"`
		KeyPath  string          `json:"keyPath"`
		Identity json.RawMessage `json:"signedIdentity,omitempty"`
	}{r.Type, r.KeyType, m.config.Prefix + "/" + keysDir + "/" + name, r.Identity})
}

// keyName names a keyring by its fingerprints: of several the first, how many more, and a hash of
// them all.
func keyName(ring *signature.Keyring) string {
	keys := ring.Keys()
	if len(keys) == 1 {
		return keys[0].Fingerprint + ".gpg"
	}
	hash := sha256.New()
	for _, k := range keys {
		hash.Write([]byte(k.Fingerprint))
	}
	return fmt.Sprintf("%s-and-%d-more-%x.gpg", keys[0].Fingerprint, len(keys)-1, hash.Sum(nil)[:8])
}

// registriesFile names the lookaside as clients of every version read it.
func registriesFile(profile string, l Lookaside) []byte {
	return fmt.Appendf(nil, `%s
# Where clients find the signatures of %s, which does not advertise the signature extension.
docker:
  %q:
    lookaside: %q
    sigstore: %[4]q # the name of it before containers/image 5.22
`, written(profile), l.Host, l.Host, l.URL)
}
