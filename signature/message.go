package signature

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Message is well formed and not believed: one binary OpenPGP message with one signature over
// one literal, and nothing else. It tells nothing of what is signed before somebody verified it.
type Message struct {
	content []byte // as it came
	signed  []byte // of the literal
	text    bool   // signed with line endings made alike
	hashed  []byte // of the signature packet: what is signed beside the literal
	values  [][]byte
	issuer  string
	keyID   uint64
}

// Parse reads a message strictly (protocol.md 5.2): one packet of compressed data or none around
// it, one one-pass signature, one literal, one signature of version 4, and nothing behind, raw
// and inflated at most MaxSize bytes. Its errors wrap ErrMalformed and say what was sent instead.
func Parse(u Untrusted) (*Message, error) {
	if err := checkForm(u); err != nil {
		return nil, err
	}
	packets, err := splitPackets(u, 3)
	if err != nil {
		return nil, err
	}
	if packets[0].tag == tagCompressed {
		if len(packets) != 1 {
			return nil, malformed("there is something behind the compressed message")
		}
		inflated, err := inflate(packets[0].body)
		if err != nil {
			return nil, err
		}
		if packets, err = splitPackets(inflated, 3); err != nil {
			return nil, err
		}
	}
	return newMessage(u, packets)
}

// checkForm refuses what people send by mistake with a sentence of its own.
func checkForm(u Untrusted) error {
	switch {
	case len(u) == 0:
		return malformed("it is empty")
	case len(u) > MaxSize:
		return malformed("it has %d bytes, more than %d", len(u), MaxSize)
	case bytes.HasPrefix(u, []byte("-----BEGIN PGP SIGNED MESSAGE")):
		return malformed("it is clearsigned; sign with gpg --sign")
	case bytes.HasPrefix(u, []byte("-----BEGIN PGP")):
		return malformed("it is armored; sign without --armor, or gpg --dearmor it: some clients read no armor")
	}
	return nil
}

func newMessage(u Untrusted, packets []packet) (*Message, error) {
	if len(packets) == 0 {
		return nil, malformed("there is nothing in it")
	}
	if packets[0].tag != tagOnePass {
		return nil, malformed("%s", kind(packets[0].tag))
	}
	if len(packets) > 1 && packets[1].tag == tagOnePass {
		return nil, malformed("it has more than one signature; clients read only one")
	}
	if len(packets) != 3 || packets[1].tag != tagLiteral || packets[2].tag != tagSignature {
		return nil, malformed("it is not a one-pass signature, its data and one signature")
	}
	m := &Message{content: bytes.Clone(u)}
	if err := m.literal(packets[1].body); err != nil {
		return nil, err
	}
	if err := m.signature(packets[2].body); err != nil {
		return nil, err
	}
	return m, m.onePass(packets[0].body, packets[2].body)
}

// onePass says whether the packet in front announces the signature behind: version 3, type, hash,
// algorithm, key ID, and that no other follows.
func (m *Message) onePass(b, signature []byte) error {
	if len(b) != 13 || b[0] != 3 || b[12] != 1 {
		return malformed("its one-pass packet is not of version 3, or announces more than one signature")
	}
	// The signature has the algorithm before the hash, the one-pass packet behind it.
	if b[1] != signature[1] || b[2] != signature[3] || b[3] != signature[2] || binary.BigEndian.Uint64(b[4:12]) != m.keyID {
		return malformed("its one-pass packet announces another signature than follows")
	}
	return nil
}

func (m *Message) literal(b []byte) error {
	if len(b) < 2 || len(b) < 6+int(b[1]) || !strings.ContainsRune("btu", rune(b[0])) {
		return malformed("its literal is cut or of an unknown mode")
	}
	m.signed = b[6+int(b[1]):]
	return nil
}

// signature reads a signature packet of version 4 (RFC 4880, 5.2.3).
func (m *Message) signature(b []byte) error {
	if len(b) < 6 || b[0] != 4 {
		return malformed("its signature is not of version 4")
	}
	if b[1] > 1 {
		return malformed("its signature is of type 0x%02x, not one of a document", b[1])
	}
	m.text = b[1] == 1
	hashed, rest, ok := cutArea(b[4:])
	if !ok {
		return malformed("its signature is cut")
	}
	m.hashed = b[:6+len(hashed)]
	unhashed, rest, ok := cutArea(rest)
	if !ok || len(rest) < 2 {
		return malformed("its signature is cut")
	}
	if err := m.issuers(hashed, unhashed); err != nil {
		return err
	}
	return m.integers(b[2], rest[2:])
}

func cutArea(b []byte) (area, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// Subpackets that name the key (RFC 4880, 5.2.3.5; the fingerprint is of RFC 9580).
const (
	subIssuer            = 16
	subIssuerFingerprint = 33
)

// issuers reads who is said to have signed. Both areas may say so; what they say must agree.
func (m *Message) issuers(areas ...[]byte) error {
	for _, area := range areas {
		for len(area) > 0 {
			length, partial, rest, err := newLength(area)
			if err != nil || partial || length == 0 || uint64(length) > uint64(len(rest)) {
				return malformed("its signature has a cut subpacket")
			}
			if err := m.subpacket(rest[0]&0x7f, rest[1:length]); err != nil {
				return err
			}
			area = rest[length:]
		}
	}
	if m.keyID == 0 {
		return malformed("its signature does not name its key")
	}
	if m.issuer == "" {
		m.issuer = fmt.Sprintf("%016X", m.keyID)
	}
	return nil
}

func (m *Message) subpacket(kind byte, b []byte) error {
	var id uint64
	switch {
	case kind == subIssuer && len(b) == 8:
		id = binary.BigEndian.Uint64(b)
	case kind == subIssuerFingerprint && len(b) == 21 && b[0] == 4:
		fingerprint := strings.ToUpper(hex.EncodeToString(b[1:]))
		if m.issuer != "" && m.issuer != fingerprint {
			return malformed("its signature names two keys")
		}
		m.issuer, id = fingerprint, binary.BigEndian.Uint64(b[13:])
	default:
		return nil
	}
	if m.keyID != 0 && m.keyID != id {
		return malformed("its signature names two keys")
	}
	m.keyID = id
	return nil
}

// Public-key algorithms whose signatures are multi-precision integers (RFC 4880, 9.1), and
// those whose second integer could be another one without the key (r decides).
const (
	algorithmRSA   = 1
	algorithmDSA   = 17
	algorithmECDSA = 19
	algorithmEdDSA = 22
)

func (m *Message) integers(algorithm byte, b []byte) error {
	want := map[byte]int{algorithmRSA: 1, 3: 1, algorithmDSA: 2, algorithmECDSA: 2, algorithmEdDSA: 2}[algorithm]
	if want == 0 {
		return malformed("its signature is of algorithm %d, which gpg 2.2 and older clients do not read", algorithm)
	}
	for range want {
		if len(b) < 2 {
			return malformed("its signature is cut")
		}
		n := (int(binary.BigEndian.Uint16(b)) + 7) / 8
		if len(b)-2 < n {
			return malformed("its signature is cut")
		}
		m.values, b = append(m.values, bytes.TrimLeft(b[2:2+n], "\x00")), b[2+n:]
	}
	if len(b) > 0 {
		return malformed("there is something behind its signature's value")
	}
	// Of (r, s) and (r, n-s) both verify: r alone tells one such signature from another.
	if algorithm == algorithmDSA || algorithm == algorithmECDSA {
		m.values = m.values[:1]
	}
	return nil
}

// Issuer is the key that is said to have signed: its fingerprint, or its key ID where the message
// has no more. It is for messages and never decides.
func (m *Message) Issuer() string { return m.issuer }
