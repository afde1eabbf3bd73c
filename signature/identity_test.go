package signature_test

import (
	"bytes"
	"compress/flate"
	"crypto/elliptic"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"testing"

	"github.com/countersign-dev/countersign/signature"
)

// unzipped is what gpg compressed.
func unzipped(t testing.TB, blob []byte) []byte {
	t.Helper()
	body, err := io.ReadAll(flate.NewReader(bytes.NewReader(blob[2:])))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// taken are the three bodies of a message that gpg did not compress.
type taken struct{ onePass, literal, signature []byte }

// takeApart knows the lengths that gpg gives to such packets.
func takeApart(t testing.TB, plain []byte) taken {
	t.Helper()
	const literal = 15
	if plain[0] != 0x90 || plain[literal] != 0xcb {
		t.Fatalf("not as gpg writes it: % x", plain[:20])
	}
	length, from := int(plain[literal+1]), literal+2
	if length >= 192 {
		length, from = (length-192)<<8+int(plain[literal+2])+192, literal+3
	}
	behind := plain[from+length:]
	head := map[byte]int{0x88: 2, 0x89: 3}[behind[0]]
	return taken{plain[2:15], plain[from : from+length], behind[head:]}
}

// packetOf writes a packet with a length of five bytes.
func packetOf(tag byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0xc0 | tag, 255}, uint32(len(body))), body...)
}

func (m taken) together() []byte {
	return slices.Concat(packetOf(4, m.onePass), packetOf(11, m.literal), packetOf(2, m.signature))
}

// unhashed is where the subpackets that nobody signed begin, behind their length.
func (m taken) unhashed() int { return 6 + int(binary.BigEndian.Uint16(m.signature[4:])) + 2 }

// withSubpacket puts something in front of what nobody signed.
func (m taken) withSubpacket(b []byte) taken {
	at := m.unhashed()
	length := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(m.signature[at-2:])+uint16(len(b)))
	m.signature = slices.Concat(m.signature[:at-2], length, b, m.signature[at:])
	return m
}

// withLiteral says another mode, file name and date of the same content.
func (m taken) withLiteral(mode byte, name string) taken {
	content := m.literal[6+int(m.literal[1]):]
	m.literal = slices.Concat([]byte{mode, byte(len(name))}, []byte(name), []byte{1, 2, 3, 4}, content)
	return m
}

// otherS replaces the s of an ECDSA signature by n-s, which verifies as well.
func (m taken) otherS(t testing.TB, curve elliptic.Curve) taken {
	t.Helper()
	at := m.unhashed()
	at += int(binary.BigEndian.Uint16(m.signature[at-2:])) + 2
	at += 2 + (int(binary.BigEndian.Uint16(m.signature[at:]))+7)/8
	s := new(big.Int).SetBytes(m.signature[at+2:])
	s.Sub(curve.Params().N, s)
	m.signature = slices.Concat(m.signature[:at], binary.BigEndian.AppendUint16(nil, uint16(s.BitLen())), s.Bytes())
	return m
}

// OpenPGP messages can be written in many ways. One signature in whatever bytes is one: it has one
// identity, so that nobody multiplies it.
func TestIdentityOfOneSignature(t *testing.T) {
	t.Parallel()
	curves := map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()}
	for _, key := range []string{"good", "ed25519", "p256", "p384", "p521"} {
		ring, blob := ringOf(t, key), door(t, "by-"+key+".sig")
		want, err := parseAndVerify(ring, blob, signerNow)
		if err != nil {
			t.Fatal(err)
		}
		plain := unzipped(t, blob)
		m := takeApart(t, plain)
		variants := map[string][]byte{
			"not compressed":          plain,
			"with other lengths":      m.together(),
			"compressed anew":         zipped(t, m.together()),
			"with another file name":  m.withLiteral('b', "another").together(),
			"with another mode":       m.withLiteral('u', "").together(),
			"with something unsigned": m.withSubpacket([]byte{3, 100, 'h', 'i'}).together(),
		}
		if curve := curves[key]; curve != nil {
			variants["with the other s"] = m.otherS(t, curve).together()
		}
		for name, variant := range variants {
			got, err := parseAndVerify(ring, variant, signerNow)
			if err != nil {
				t.Errorf("%s, %s: %v", key, name, err)
			} else if got.Identity != want.Identity {
				t.Errorf("%s, %s: the identity is another", key, name)
			}
		}
	}
}

// Signatures that differ in anything that is signed are different ones.
func TestIdentityOfOthers(t *testing.T) {
	t.Parallel()
	ring := ringOf(t, "good", "rsa3072", "many", "p256", "ed25519")
	seen := map[string]string{}
	for _, name := range []string{"by-good", "sha224", "sha384", "ends-late", "parts", "text", "by-rsa3072", "by-many", "by-subkey-of-many", "by-p256", "by-ed25519"} {
		s, err := parseAndVerify(ring, door(t, name+".sig"), signerNow)
		if err != nil {
			t.Fatal(err)
		}
		if other := seen[s.Identity]; other != "" {
			t.Errorf("%s and %s have one identity", name, other)
		}
		seen[s.Identity] = name
	}
	// Another reference by the same key at the same time.
	signer := newSigner(t, privateKey(t, "plain"), at(signerNow))
	for _, reference := range []string{"a.example.com/b:v1", "a.example.com/b:v2"} {
		blob, err := signer.Sign(t.Context(), signature.Claim{Reference: reference, Digest: doorDigest})
		if err != nil {
			t.Fatal(err)
		}
		if s := verified(t, signer.Key(), blob, signerNow); seen[s.Identity] != "" {
			t.Errorf("%s and %s have one identity", reference, seen[s.Identity])
		} else {
			seen[s.Identity] = reference
		}
	}
}
