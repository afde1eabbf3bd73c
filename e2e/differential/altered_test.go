package differential

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// alteredForms are a good message that is not compressed, with something other than gpg writes in a
// place that clients do not all look at.
func alteredForms(plain, detached, keys []byte) []form {
	altered := func(change func(onePass, literal, signature []byte) [][]byte) []byte {
		_, bodies := packetsOf(plain)
		for i := range bodies {
			bodies[i] = bytes.Clone(bodies[i])
		}
		return slices.Concat(change(bodies[0], bodies[1], bodies[2])...)
	}
	in := func(which, at int, value byte) []byte {
		return altered(func(onePass, literal, signature []byte) [][]byte {
			[][]byte{onePass, literal, signature}[which][at] = value
			return [][]byte{newPacket(4, onePass), newPacket(11, literal), newPacket(2, signature)}
		})
	}
	unsigned := func(subpacket ...byte) []byte {
		return altered(func(onePass, literal, signature []byte) [][]byte {
			at := 6 + int(binary.BigEndian.Uint16(signature[4:]))
			length := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(signature[at:])+uint16(len(subpacket)))
			more := slices.Concat(signature[:at], length, subpacket, signature[at+2:])
			return [][]byte{newPacket(4, onePass), newPacket(11, literal), newPacket(2, more)}
		})
	}
	refused := func(name string, blob []byte) form { return form{name: name, keys: keys, blob: blob} }
	return []form{
		refused("a one-pass packet of another algorithm", in(0, 3, 19)),
		refused("a one-pass packet that is not the last", in(0, 12, 0)),
		refused("a literal of another mode", in(1, 0, 'x')),
		refused("a signature in front of the message", slices.Concat(detached, plain)),
		refused("a marker before the signature", altered(func(onePass, literal, signature []byte) [][]byte {
			return [][]byte{newPacket(4, onePass), newPacket(11, literal), newPacket(10, []byte("PGP")), newPacket(2, signature)}
		})),
		refused("a signature longer than it is", altered(func(onePass, literal, signature []byte) [][]byte {
			last := newPacket(2, signature)
			last[5]++
			return [][]byte{newPacket(4, onePass), newPacket(11, literal), last}
		})),
		refused("a packet of private use behind", slices.Concat(plain, newPacket(60, []byte("private")))),
		refused("a signature of another issuer as well", unsigned(9, 16, 1, 2, 3, 4, 5, 6, 7, 8)),
		refused("a signature of half an issuer as well", unsigned(5, 16, 1, 2, 3, 4)),
		refused("a signature with half a signature in it", unsigned(5, 32, 1, 2, 3, 4)),
	}
}

// newPacket writes one with a length of five bytes.
func newPacket(tag byte, body []byte) []byte {
	return slices.Concat([]byte{0xc0 | tag, 255}, binary.BigEndian.AppendUint32(nil, uint32(len(body))), body)
}

// packetsOf are those of a message, with the lengths that gpg writes.
func packetsOf(blob []byte) (tags []byte, bodies [][]byte) {
	for len(blob) > 0 {
		first, length, head := blob[0], 0, 0
		switch {
		case first&0x40 == 0:
			size := 1 << (first & 3)
			for _, c := range blob[1 : 1+size] {
				length = length<<8 + int(c)
			}
			first, head = (first&0x3c)>>2, 1+size
		case blob[1] < 192:
			length, head = int(blob[1]), 2
		default:
			length, head = int(blob[1]-192)<<8+int(blob[2])+192, 3
		}
		tags, bodies = append(tags, first&0x3f), append(bodies, blob[head:head+length])
		blob = blob[head+length:]
	}
	return tags, bodies
}
