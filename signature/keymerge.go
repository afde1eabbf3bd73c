package signature

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// mergeKeys makes one key of its copies.
func mergeKeys(copies []*ringKey) (*ringKey, error) {
	all := copies[0].packets
	for _, k := range copies[1:] {
		if k != copies[0] {
			all = append(slices.Clip(all), k.packets...)
		}
	}
	merged := mergePackets(all)
	// No copy adds anything to the first: that is the rule.
	if len(merged) == len(copies[0].packets) {
		return copies[0], nil
	}
	return newRingKey(merged)
}

// A keyPart is a primary key, a subkey or a user id, with the signatures over it.
type keyPart struct {
	head       packet
	signatures []packet
	seen       map[string]bool
}

func (p *keyPart) add(s packet) {
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	if !p.seen[string(s.body)] {
		p.seen[string(s.body)] = true
		p.signatures = append(p.signatures, s)
	}
}

// mergePackets puts the packets of a key and of its copies in one order: the primary key, its user
// ids and its subkeys, each once and followed by the signatures over it, each once. go-crypto
// would believe only the last of two equal user ids.
func mergePackets(packets []packet) []packet {
	type name struct {
		tag  byte
		body string
	}
	var parts []*keyPart
	var current *keyPart
	heads := map[name]*keyPart{}
	for _, p := range packets {
		switch p.tag {
		case tagPublicKey, tagPublicSubkey, tagUserID, tagUserAttribute:
			named := name{p.tag, string(p.body)}
			if current = heads[named]; current == nil {
				current = &keyPart{head: p}
				heads[named], parts = current, append(parts, current)
			}
		case tagSignature:
			if current != nil {
				current.add(p)
			}
		case tagTrust, tagMarker, tagPadding: // gpg's own keyrings have trust behind each packet
		default: // something of a later version, with signatures over it
			current = nil
		}
	}
	order := map[byte]int{tagPublicKey: 0, tagUserID: 1, tagUserAttribute: 2, tagPublicSubkey: 3}
	slices.SortStableFunc(parts, func(a, b *keyPart) int { return cmp.Compare(order[a.head.tag], order[b.head.tag]) })
	var merged []packet
	for _, p := range parts {
		merged = append(append(merged, p.head), p.signatures...)
	}
	return merged
}

// appendPackets writes packets in the new format.
func appendPackets(out []byte, packets []packet) []byte {
	for _, p := range packets {
		out = append(out, 0xc0|p.tag, 255)
		out = binary.BigEndian.AppendUint32(out, uint32(len(p.body)))
		out = append(out, p.body...)
	}
	return out
}
