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
	hashed  []byte // of the signature packet: what is signed beside the literal
	values  [][]byte
	issuer  string
	keyID   uint64
}

// Parse reads a message strictly (protocol.md 5.2): one packet of compressed data or none around
// it, one one-pass signature, one literal, one signature of version 4, and nothing behind, raw
// and inflated at most MaxSize bytes. Its errors say what was sent instead, and wrap ErrMalformed, or
// ErrUnverified where the digest or the algorithm is weak or unknown.
func Parse(u Untrusted) (*Message, error) {
	if err := checkForm(u); err != nil {
		return nil, err
	}
	packets, err := splitMessage(u, tagCompressed)
	if err != nil {
		return nil, err
	}
	if packets[0].tag == tagCompressed {
		inflated, err := inflate(packets[0].body)
		if err != nil {
			return nil, err
		}
		if packets, err = splitMessage(inflated, tagOnePass); err != nil {
			return nil, err
		}
	}
	return newMessage(u, packets)
}

// splitMessage reads all of data as the packets of a signed message, or as compressed data where
// that is what it may begin with. What does not belong there is refused before it is read.
func splitMessage(data []byte, first byte) (packets []packet, err error) {
	for len(data) > 0 {
		if err := misplaced(packets, data[0], first); err != nil {
			return nil, err
		}
		p, rest, err := nextPacket(data)
		if err != nil {
			return nil, err
		}
		packets, data = append(packets, p), rest
	}
	if len(packets) == 0 {
		return nil, malformed("there is nothing in it")
	}
	return packets, nil
}

// misplaced says what is wrong with a packet behind those, by its first byte.
func misplaced(before []packet, next, first byte) error {
	tag := packetTag(next)
	switch {
	case len(before) == 0 && next&0x80 == 0:
		return malformed("it does not begin as a binary OpenPGP message does")
	case len(before) == 0 && tag != tagOnePass && tag != first:
		return malformed("%s", kind(tag))
	case len(before) == 1 && before[0].tag == tagCompressed:
		return malformed("there is something behind the compressed message")
	case len(before) == 1 && tag == tagOnePass:
		return malformed("it has more than one signature; clients read only one")
	case len(before) == 1 && tag != tagLiteral, len(before) == 2 && tag != tagSignature:
		return malformed("it is not a one-pass signature, its data and one signature")
	case len(before) == 3:
		return malformed("there is more in it than one signed message")
	}
	return nil
}

// checkForm refuses what people send by mistake with a sentence of its own.
func checkForm(u Untrusted) error {
	switch {
	case len(u) == 0:
		return malformed("it is empty")
	case len(u) > MaxSize:
		return malformed("it has %d bytes, more than %d", len(u), MaxSize)
	}
	switch text := bytes.TrimLeft(u, " \t\r\n"); {
	case bytes.HasPrefix(text, []byte("-----BEGIN PGP SIGNED MESSAGE")):
		return malformed("it is clearsigned; sign with gpg --sign")
	case bytes.HasPrefix(text, armorBegin):
		return malformed("it is armored; sign without --armor, or gpg --dearmor it: some clients read no armor")
	}
	return nil
}

func newMessage(u Untrusted, packets []packet) (*Message, error) {
	if len(packets) != 3 {
		return nil, malformed("it ends before its signature")
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
	if b[1] == 1 && !bytes.Equal(m.signed, canonicalText(m.signed)) {
		return malformed("it is signed as text, and its lines do not end as signed text does, in CR and LF")
	}
	if err := checkDigest(b[3]); err != nil {
		return err
	}
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

// canonicalText has every line end in CR and LF, as it is hashed where text is signed. Clients differ
// in what they make of other text, and nothing but these bytes is to be the same signature.
func canonicalText(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\r"), []byte("\n"))
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

// checkDigest takes the digests of SHA-2 alone (RFC 4880, 9.4).
func checkDigest(algorithm byte) error {
	switch algorithm {
	case 8, 9, 10, 11:
		return nil
	case 1, 2, 3:
		name := [...]string{1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"}[algorithm]
		return fmt.Errorf("%w: its digest is %s, which is weak; sign with gpg --digest-algo SHA256", ErrUnverified, name)
	}
	return fmt.Errorf("%w: its digest is of algorithm %d, which not every client knows; sign with gpg --digest-algo SHA256", ErrUnverified, algorithm)
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
		if err := eachSubpacket(area, m.subpacket); err != nil {
			return err
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

// eachSubpacket visits what is in an area of a signature, until an error.
func eachSubpacket(area []byte, visit func(kind byte, b []byte) error) error {
	for len(area) > 0 {
		length, partial, rest, err := newLength(area)
		if err != nil || partial || length == 0 || uint64(length) > uint64(len(rest)) {
			return malformed("its signature has a cut subpacket")
		}
		if err := visit(rest[0]&0x7f, rest[1:length]); err != nil {
			return err
		}
		area = rest[length:]
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

// Public-key algorithms whose signatures are multi-precision integers (RFC 4880, 9.1).
const (
	algorithmRSA     = 1
	algorithmRSASign = 3
	algorithmDSA     = 17
	algorithmECDSA   = 19
	algorithmEdDSA   = 22
)

func (m *Message) integers(algorithm byte, b []byte) error {
	want := map[byte]int{algorithmRSA: 1, algorithmRSASign: 1, algorithmECDSA: 2, algorithmEdDSA: 2}[algorithm]
	switch {
	case algorithm == algorithmDSA:
		return fmt.Errorf("%w: it is by a DSA key, which is weak and which not every client reads; sign with an RSA key", ErrUnverified)
	case want == 0:
		return fmt.Errorf("%w: it is of public-key algorithm %d, which not every client knows; sign with an RSA key", ErrUnverified, algorithm)
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
	if algorithm == algorithmECDSA {
		m.values = m.values[:1]
	}
	return nil
}

// Issuer is the key that is said to have signed: its fingerprint, or its key ID where the message
// has no more. It is for messages and never decides.
func (m *Message) Issuer() string { return m.issuer }
