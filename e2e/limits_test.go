package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestLimits fills images to the default limits (design.md 4). The server's own signatures are
// outside of them, and clients still pull.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	trust(t, s.data, "bob")
	i := newImage("limits")
	reference := s.address + "/ns/limits:v1"
	post := func(person string) answer {
		return s.do(t, "POST", lookaside("ns/limits", i.digest()), string(sign(t, person, reference, i.digest())))
	}
	var want []string
	for n := range 64 {
		person := people[n/32]
		post(person).want(t, 201)
		want = append(want, person+" "+reference)
		if n == 31 {
			post(person).refused(t, 409, "SIGNATURE_LIMIT", "32", fingerprintOf(t, person))
		}
	}
	post("carol").refused(t, 409, "SIGNATURE_LIMIT", "64")
	s.upload(t, "ns/limits", i.digest(), sign(t, "carol", reference, i.digest())).refused(t, 409, "SIGNATURE_LIMIT", "64")
	s.wantSigned(t, "ns/limits", i.digest(), want...)
	// What is there already is not one too many.
	s.upload(t, "ns/limits", i.digest(), s.signatures(t, "ns/limits", i.digest())[63].Content).want(t, 201)

	s.push(t, i, "ns/limits", "v1")
	s.wantSigned(t, "ns/limits", i.digest(), append(want, "server "+reference)...)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
}

// TestLimitOfBytes fills an image with large signatures, as clients read no list above 4 MiB
// (protocol.md 3.4, 9.11).
func TestLimitOfBytes(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-config", config(t, "limits: {uploaded: 64, key: 64, bytes: 300000, all: 100}\n"))
	i, reference := newImage("bytes"), s.address+"/ns/bytes:v1"
	large := func(n int) []byte {
		payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},`+
			`"type":"atomic container signature"},"optional":{"n":%d,"filler":%q}}`, reference, i.digest(), n, strings.Repeat("x", 60<<10))
		return gpg(t, []byte(payload), "--compress-algo", "none", "--local-user", "alice@example.test", "--sign")
	}
	for n := range 3 { // 61 KiB each are 82 KiB encoded
		s.upload(t, "ns/bytes", i.digest(), large(n)).want(t, 201)
	}
	s.upload(t, "ns/bytes", i.digest(), large(3)).refused(t, 409, "SIGNATURE_LIMIT")
	s.push(t, i, "ns/bytes", "v1")
	s.wantSigned(t, "ns/bytes", i.digest(), "alice "+reference, "alice "+reference, "alice "+reference, "server "+reference)
}
