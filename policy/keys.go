package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/countersign-dev/countersign/signature"
)

// A keyFile is a path, and where it stands.
type keyFile struct {
	path string
	from value
}

// Load returns the policy with its key files read, each once. Its errors name file and place. How
// a path is read, and whether it may be, is up to read.
func (p *Policy) Load(read func(path string) ([]byte, error)) (*Policy, error) {
	l := loader{read: read, files: map[string]*signature.Keyring{}, rings: rings{}}
	loaded := &Policy{transports: map[string]map[string]scope{}}
	var err error
	if loaded.fallback, err = l.scope(p.fallback); err != nil {
		return nil, err
	}
	for _, transport := range slices.Sorted(maps.Keys(p.transports)) {
		scopes := map[string]scope{}
		for _, name := range slices.Sorted(maps.Keys(p.transports[transport])) {
			if scopes[name], err = l.scope(p.transports[transport][name]); err != nil {
				return nil, err
			}
		}
		loaded.transports[transport] = scopes
	}
	loaded.keys = loaded.collect()
	return loaded, nil
}

// A loader reads key files.
type loader struct {
	read  func(path string) ([]byte, error)
	files map[string]*signature.Keyring // by path
	rings rings
}

func (l loader) scope(s scope) (scope, error) {
	s.requirements = slices.Clone(s.requirements)
	for i := range s.requirements {
		if err := l.requirement(&s.requirements[i]); err != nil {
			return s, fmt.Errorf("policy: %w", err)
		}
	}
	return s, nil
}

func (l loader) requirement(r *requirement) error {
	if len(r.files) == 0 {
		return nil
	}
	r.sources = nil
	for _, f := range r.files {
		if l.files[f.path] == nil {
			ring, err := l.file(f.path)
			if err != nil {
				return f.from.errorf("%s: %w", quote(f.path), err)
			}
			l.files[f.path] = ring
		}
		r.sources = append(r.sources, l.files[f.path])
	}
	if r.ring = r.sources[0]; len(r.sources) > 1 {
		r.ring = signature.Join(r.sources...)
	}
	return nil
}

func (l loader) file(path string) (*signature.Keyring, error) {
	data, err := l.read(path)
	if err != nil {
		return nil, err
	}
	return l.rings.read(data)
}

// rings are keyrings by what they were read from, so that what comes often is read once.
type rings map[string]*signature.Keyring

func (r rings) read(data []byte) (*signature.Keyring, error) {
	if ring := r[string(data)]; ring != nil {
		return ring, nil
	}
	ring, err := signature.ReadKeyring(data)
	if err == nil {
		r[string(data)] = ring
	}
	return ring, err
}

// keys are those of all requirements, indexed once.
type keys struct {
	all    *signature.Keyring
	copies map[string][]*signature.Keyring // by fingerprint: the rings that have the key, if several do
}

func (p *Policy) collect() keys {
	all := slices.Clone(p.fallback.requirements)
	for _, transport := range slices.Sorted(maps.Keys(p.transports)) {
		for _, name := range slices.Sorted(maps.Keys(p.transports[transport])) {
			all = append(all, p.transports[transport][name].requirements...)
		}
	}
	var sources []*signature.Keyring
	seen := map[*signature.Keyring]bool{}
	for _, r := range all {
		for _, ring := range r.sources {
			if !seen[ring] {
				seen[ring] = true
				sources = append(sources, ring)
			}
		}
	}
	return newKeys(sources)
}

func newKeys(sources []*signature.Keyring) keys {
	if len(sources) == 1 {
		return keys{all: sources[0]}
	}
	having := map[string][]*signature.Keyring{}
	for _, ring := range sources {
		for fingerprint := range ring.Fingerprints() {
			having[fingerprint] = append(having[fingerprint], ring)
		}
	}
	maps.DeleteFunc(having, func(_ string, rings []*signature.Keyring) bool { return len(rings) == 1 })
	return keys{all: signature.Join(sources...), copies: having}
}

// Keyring is the union of all keys that the policy names, whatever they may sign. Keys of files
// are there after Load.
func (p *Policy) Keyring() *signature.Keyring {
	if p.keys.all == nil {
		return signature.Join()
	}
	return p.keys.all
}

// Verify verifies with every key that the policy names. It says nothing yet of what the signer
// may sign: that is Admit's. A key that stands in several files must be good in each of them: nodes
// go by the one that their requirement names. Errors are those of signature.Keyring.Verify.
func (p *Policy) Verify(m *signature.Message, now time.Time) (signature.Signature, error) {
	s, err := p.Keyring().Verify(m, now)
	if err != nil {
		return s, err
	}
	for _, ring := range p.keys.copies[s.Fingerprint] {
		if err := ring.Stands(s, now); err != nil {
			return signature.Signature{}, fmt.Errorf("%w. The policy has several copies of this key that differ; replace the outdated ones", err)
		}
	}
	return s, nil
}
