package differential

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"slices"
	"testing"
)

// mutations is how many blobs are made of good ones. gpg is a process each time.
func mutations() int {
	if library == gpgme && !soak() {
		return 500
	}
	return 10_000
}

// A mutant is a good message that something happened to.
type mutant struct {
	keys []byte
	blob []byte
	how  string
}

// A breeder makes mutants, the same ones each time.
type breeder struct {
	*rand.Rand
	t     *testing.T
	good  []form   // messages in three packets, not compressed
	other [][]byte // other messages, to take pieces of
}

// goodForms are messages of all kinds that are admitted, not compressed.
func goodForms(t *testing.T) []form {
	g := newGPG(t)
	var good []form
	for _, algorithm := range []string{"rsa2048", "rsa3072", "ed25519", "nistp256", "nistp521"} {
		g.key(t, algorithm, algorithm, "never")
	}
	g.run(t, atKeys, nil, "--quick-add-key", g.fingerprint(t, "rsa2048", 0), "rsa2048", "sign", "never")
	add := func(name, key string, args ...string) {
		args = append([]string{"-z0", "--local-user", key}, args...)
		good = append(good, form{name: name, keys: g.export(t, "rsa2048", name), blob: g.run(t, atSigning, theClaim(), args...)})
	}
	for _, key := range []string{"rsa2048", "rsa3072", "ed25519", "nistp256", "nistp521"} {
		add(key, g.fingerprint(t, key, 0)+"!", "--sign")
	}
	add("rsa2048", g.fingerprint(t, "rsa2048", 0)+"!", "--textmode", "--sign")
	add("rsa2048", g.fingerprint(t, "rsa2048", 0)+"!", "--digest-algo", "SHA256", "--sig-notation", "a@example.org=b", "--sign")
	add("rsa2048", g.fingerprint(t, "rsa2048", 1)+"!", "--sign")
	lines := bytes.ReplaceAll(theClaim(), []byte(","), []byte(",\n  "))
	for _, mode := range []string{"--textmode", "--no-textmode"} {
		blob := g.run(t, atSigning, lines, "-z0", "--local-user", g.fingerprint(t, "rsa2048", 0)+"!", mode, "--sign")
		good = append(good, form{name: "lines", keys: g.export(t, "rsa2048"), blob: blob})
	}
	return good
}

// mutant makes one. Half of them are only written in another way, and mostly stay good.
func (b breeder) mutant() mutant {
	f := b.good[b.Intn(len(b.good))]
	m := mutant{f.keys, f.blob, f.name}
	if b.Intn(10) < 6 {
		m.blob, m.how = b.rewritten(m.blob), m.how+", rewritten"
	}
	if b.Intn(10) < 4 {
		for range 1 + b.Intn(3) {
			m.blob = b.damaged(m.blob)
		}
		m.how += ", damaged"
	}
	if b.Intn(2) == 0 {
		m.blob, m.how = b.packed(m.blob), m.how+", compressed"
		if b.Intn(10) == 0 {
			m.blob, m.how = b.damaged(m.blob), m.how+", damaged"
		}
	}
	return m
}

// rewritten says what nobody signed in another way.
func (b breeder) rewritten(blob []byte) []byte {
	tags, bodies := packetsOf(blob)
	if b.Intn(2) == 0 { // of the literal: mode, file name, date
		content := bodies[1][6+int(bodies[1][1]):]
		name := make([]byte, b.Intn(20))
		b.Read(name)
		bodies[1] = slices.Concat([]byte{"btu"[b.Intn(3)], byte(len(name))}, name, binary.BigEndian.AppendUint32(nil, b.Uint32()), content)
	}
	if s := bodies[2]; b.Intn(2) == 0 { // of the signature: another subpacket that is not hashed
		at := 6 + int(binary.BigEndian.Uint16(s[4:]))
		extra := make([]byte, 1+b.Intn(10))
		b.Read(extra)
		extra[0] = byte(b.Intn(128))
		extra = append([]byte{byte(len(extra))}, extra...)
		length := binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(s[at:])+uint16(len(extra)))
		bodies[2] = slices.Concat(s[:at], length, extra, s[at+2:])
	}
	var out []byte
	for i, tag := range tags {
		out = append(out, b.packet(tag, bodies[i])...)
	}
	return out
}

// packet writes one in any of the ways to say its length.
func (b breeder) packet(tag byte, body []byte) []byte {
	n := len(body)
	switch b.Intn(4) {
	case 0:
		return slices.Concat([]byte{0x80 | tag<<2 | 1}, binary.BigEndian.AppendUint16(nil, uint16(n)), body)
	case 1:
		return slices.Concat([]byte{0x80 | tag<<2 | 2}, binary.BigEndian.AppendUint32(nil, uint32(n)), body)
	case 2:
		if tag == 11 && n > 512 {
			return slices.Concat([]byte{0xc0 | tag, 224 + 9}, body[:512], []byte{255}, binary.BigEndian.AppendUint32(nil, uint32(n-512)), body[512:])
		}
		if n < 192 {
			return slices.Concat([]byte{0xc0 | tag, byte(n)}, body)
		}
	}
	return slices.Concat([]byte{0xc0 | tag, 255}, binary.BigEndian.AppendUint32(nil, uint32(n)), body)
}

// damaged changes, adds, takes away or moves bytes.
func (b breeder) damaged(blob []byte) []byte {
	if len(blob) < 2 {
		return []byte{byte(b.Intn(256))}
	}
	at, to := b.Intn(len(blob)), b.Intn(len(blob))
	if at > to {
		at, to = to, at
	}
	piece := blob[at:min(to, at+40)]
	switch b.Intn(9) {
	case 0, 1:
		blob = bytes.Clone(blob)
		blob[at] ^= 1 << b.Intn(8)
	case 2: // in the heads of packets
		blob = bytes.Clone(blob)
		blob[b.Intn(min(len(blob), 24))] = byte(b.Intn(256))
	case 3:
		blob = blob[:to]
	case 4:
		blob = slices.Concat(blob[:at], blob[at+len(piece):])
	case 5:
		blob = slices.Concat(blob[:to], piece, blob[to:])
	case 6:
		behind := make([]byte, 1+b.Intn(30))
		b.Read(behind)
		blob = slices.Concat(blob, behind)
	case 7:
		other := b.other[b.Intn(len(b.other))]
		blob = slices.Concat(blob[:at], other[min(at, len(other)):])
	case 8: // packets in another order, or twice
		other := b.other[b.Intn(len(b.other))]
		tags, bodies := packetsOf(other)
		var out []byte
		for range 1 + b.Intn(4) {
			i := b.Intn(len(tags))
			out = append(out, b.packet(tags[i], bodies[i])...)
		}
		blob = [][]byte{out, slices.Concat(blob, out), slices.Concat(out, blob)}[b.Intn(3)]
	}
	return blob
}

// packed is a compressed packet around it.
func (b breeder) packed(blob []byte) []byte {
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	if b.Intn(2) == 0 {
		out.WriteByte(1)
		w, err = flate.NewWriter(&out, b.Intn(10))
	} else {
		out.WriteByte(2)
		w, err = zlib.NewWriterLevel(&out, b.Intn(10))
	}
	if err == nil {
		_, err = w.Write(blob)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		b.t.Fatal(err)
	}
	if b.Intn(2) == 0 {
		return append([]byte{0xa3}, out.Bytes()...)
	}
	return b.packet(8, out.Bytes())
}

// Good messages are written in other ways and damaged. Whatever comes of that: what is admitted
// here, every client accepts.
func testMutated(t *testing.T, c *comparison) {
	b := breeder{Rand: rand.New(rand.NewSource(1)), t: t, good: goodForms(t)}
	for _, f := range b.good {
		b.other = append(b.other, f.blob)
	}
	asked, accepted := 0, 0
	for range mutations() {
		m := b.mutant()
		q := question{policy: within(byKeys(m.keys, "")), transport: "docker", reference: app + ":v1", signatures: [][]byte{m.blob}}
		_, here := admit(q)
		if node := evaluate(q); (node == nil) != (here == nil) {
			t.Errorf("%s: admission says %v, nodes say %v: %x", m.how, here, node, m.blob)
		}
		there := askLibrary(t.Context(), q)
		c.count(here == nil && there == nil)
		if asked++; here == nil && there == nil {
			accepted++
		}
		if err := c.judge(generated+" of "+m.how, library, here, there); err != nil {
			t.Errorf("%v: %x", err, m.blob)
		}
	}
	t.Logf("%s: of %d mutants %d were accepted by both", library, asked, accepted)
	if asked != mutations() || accepted*3 < asked {
		t.Errorf("of %d mutants only %d were accepted by both, less than a third", asked, accepted)
	}
}
