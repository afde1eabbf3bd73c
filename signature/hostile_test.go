package signature_test

import (
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"math/rand"
	"slices"
	"testing"
)

// hostileUploads are small and would cost much to who reads all that they say.
func hostileUploads(t testing.TB) map[string][]byte {
	plain := door(t, "plain.sig")
	onePass := plain[:15]
	nested := plain
	for range 100 {
		nested = zipped(t, nested)
	}
	return map[string][]byte{
		"4,000 one-pass packets":                      slices.Concat(bytes.Repeat(onePass, 4000), plain[15:]),
		"4,000 one-pass packets, compressed":          zipped(t, slices.Concat(bytes.Repeat(onePass, 4000), plain[15:])),
		"30 million empty packets deflated, 60 KB":    deflated(t, []byte{0xca, 0}, 30_000_000),
		"50 million empty packets deflated":           deflated(t, []byte{0xca, 0}, 50_000_000),
		"a compression quine":                         quine(),
		"compressed a hundred times":                  nested,
		"a literal of 4 GiB":                          {0xcb, 255, 255, 255, 255, 255, 'b', 0, 0, 0, 0, 0, '{'},
		"a literal of 4 GiB behind its signature":     slices.Concat(onePass, []byte{0xcb, 255, 255, 255, 255, 255, 'b', 0, 0, 0, 0, 0, '{'}),
		"a literal in parts of 1 GiB":                 slices.Concat(onePass, []byte{0xcb, 254, 'b', 0, 0, 0, 0, 0, '{'}),
		"a literal in 60,000 parts of a byte":         slices.Concat(onePass, []byte{0xcb}, bytes.Repeat([]byte{224, 'b'}, 30_000)),
		"45 million zeros in one block of BZip2":      bombOfBZip2(),
		"blocks of BZip2 that are nothing else":       slices.Concat([]byte{0xa3, 3}, []byte("BZh9"), bytes.Repeat([]byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0, 0, 0, 0}, 6000)),
		"a signature of 16,384 bits, unknown":         bigSignature(0x1122334455667788, 16384),
		"a signature of 16,384 bits, by the good key": bigSignature(binary.BigEndian.Uint64(plain[6:14]), 16384),
		"a signature by a key of 16,384 bits":         bigSignature(keyID(bigKey(16384)), 16384),
		"20,000 subpackets":                           slices.Concat(onePass, packetOf(11, []byte("b\x00\x00\x00\x00\x00{}")), packetOf(2, slices.Concat([]byte{4, 0, 1, 10, 0xea, 0x60}, bytes.Repeat([]byte{2, 20, 0}, 20_000), []byte{0, 0, 0, 0, 0, 8, 255}))),
		"a claim of 30,000 brackets":                  slices.Concat(onePass, packetOf(11, slices.Concat([]byte("b\x00\x00\x00\x00\x00"), bytes.Repeat([]byte("["), 30_000))), plain[len(plain)-310:]),
	}
}

// deflated is a compressed packet of something again and again, millions of times. A million of them are
// deflated, into blocks that may stand behind each other as often as one likes.
func deflated(t testing.TB, what []byte, times int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	const million = 1_000_000
	if _, err := w.Write(bytes.Repeat(what, million)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	blocks := bytes.Clone(b.Bytes())
	b.Reset()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return slices.Concat([]byte{0xa3, 1}, bytes.Repeat(blocks, times/million), b.Bytes())
}

// bombOfBZip2 is what "head -c 45000000 /dev/zero | bzip2 -9" writes, in a compressed packet.
func bombOfBZip2() []byte {
	return append([]byte{0xa3, 3}, "BZh91AY&SY\xc9\x01\xb6\xc8\x01\x58\xab\x40\x20\xc0\x00\x10\x00\x00\x08\x20\x00\x30\xcc\x05\x29\xa6\x52\x48\x52\x6c\x54\x92\x14\x9e\x2e\xe4\x8a\x70\xa1\x21\x92\x03\x6d\x90"...)
}

// quine inflates to itself: whoever inflates until nothing is compressed any more does so for ever.
// It is made of blocks of five bytes: stored ones, which say what follows them (L), and such as
// repeat the last bytes of what they inflated to (R), after Russ Cox, Zip Files All The Way Down.
func quine() []byte {
	stored := func(length int) []byte { return []byte{0, byte(length), 0, ^byte(length), 255} }
	end := []byte{1, 0, 0, 255, 255}
	prefix := slices.Concat([]byte{0xa3, 1}, stored(0), stored(0)) // long enough for repeated
	n := len(prefix) + 5
	say, again, nothing := stored(n), repeated(n), stored(0)
	l1, l4, r4 := stored(5), stored(20), repeated(20)
	return slices.Concat(
		prefix, say, prefix, say, again,
		l1, again, l1, l1,
		l4, again, l1, l1, l4, r4,
		l4, r4, l4, r4, l4, r4,
		l4, nothing, nothing, r4, end, nothing, nothing, r4, end)
}

// repeated is a block that repeats the last n bytes, of 17 to 20, in two halves: five bytes long.
func repeated(n int) []byte {
	var bits, used uint64
	put := func(value, width uint64) { bits |= value << used; used += width }
	code := func(value, width uint64) { // most significant bit first
		for i := width; i > 0; i-- {
			put(value>>(i-1)&1, 1)
		}
	}
	put(0, 1) // not the last block
	put(1, 2) // with the codes of RFC 1951, 3.2.6
	for _, length := range []int{n / 2, n - n/2} {
		code(uint64(length-2), 7) // 1 is a length of 3
		code(8, 5)                // a distance of 17 and
		put(uint64(n-17), 3)
	}
	code(0, 7) // the end
	return binary.LittleEndian.AppendUint64(nil, bits)[:5]
}

func TestQuine(t *testing.T) {
	t.Parallel()
	q := quine()
	inflated, err := io.ReadAll(flate.NewReader(bytes.NewReader(q[2:])))
	if err != nil || !bytes.Equal(inflated, q) {
		t.Errorf("it inflates to something else: %v\n% x\n% x", err, q, inflated)
	}
}

// random bytes that are the same each time, as a number of OpenPGP of that many bits.
func number(bits int) []byte {
	b := make([]byte, bits/8)
	rand.New(rand.NewSource(int64(bits))).Read(b)
	b[0], b[len(b)-1] = b[0]|0x80, b[len(b)-1]|1
	return append(binary.BigEndian.AppendUint16(nil, uint16(bits)), b...)
}

// bigKey is the body of an RSA key of so many bits. Nobody knows its factors.
func bigKey(bits int) []byte {
	return slices.Concat([]byte{4, 0x5e, 0x0b, 0xe1, 0, 1}, number(bits), []byte{0, 17, 1, 0, 1})
}

func keyID(key []byte) uint64 {
	h := sha1.Sum(slices.Concat([]byte{0x99}, binary.BigEndian.AppendUint16(nil, uint16(len(key))), key))
	return binary.BigEndian.Uint64(h[12:])
}

// bigRing is a keyring of one such key, with many self-signatures that do not verify.
func bigRing(bits, signatures int) []byte {
	key := bigKey(bits)
	ring := slices.Concat(packetOf(6, key), packetOf(13, []byte("big")))
	for i := range signatures {
		ring = append(ring, packetOf(2, signatureBody(0x13, keyID(key), bits, uint32(i)))...)
	}
	return ring
}

func signatureBody(kind byte, id uint64, bits int, created uint32) []byte {
	hashed := binary.BigEndian.AppendUint32([]byte{5, 2}, 0x5e0be100+created)
	unhashed := binary.BigEndian.AppendUint64([]byte{9, 16}, id)
	return slices.Concat([]byte{4, kind, 1, 10, 0, byte(len(hashed))}, hashed, []byte{0, byte(len(unhashed))}, unhashed, []byte{0, 0}, number(bits))
}

// bigSignature is a message of a good form, signed by somebody.
func bigSignature(id uint64, bits int) []byte {
	onePass := slices.Concat(binary.BigEndian.AppendUint64([]byte{3, 0, 10, 1}, id), []byte{1})
	literal := append([]byte("b\x00\x00\x00\x00\x00"), doorClaim...)
	return slices.Concat(packetOf(4, onePass), packetOf(11, literal), packetOf(2, signatureBody(0, id, bits, 1)))
}
