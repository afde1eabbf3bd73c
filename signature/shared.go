package signature

import (
	"encoding/hex"
	"slices"
	"strings"
)

// Shared returns the fingerprints, upper-case hex and sorted, of what both keyrings hold: primary
// keys and subkeys alike, since one subkey can be bound to two primary keys. Whoever counts signers
// must not count one key twice.
func Shared(a, b *Keyring) []string {
	have := a.fingerprints()
	var shared []string
	for f := range b.fingerprints() {
		if have[f] {
			shared = append(shared, f)
		}
	}
	slices.Sort(shared)
	return shared
}

func (r *Keyring) fingerprints() map[string]bool {
	all := make(map[string]bool, len(r.keys))
	for _, k := range r.keys {
		all[k.Fingerprint] = true
		for _, s := range k.entity.Subkeys {
			all[strings.ToUpper(hex.EncodeToString(s.PublicKey.Fingerprint))] = true
		}
	}
	return all
}
