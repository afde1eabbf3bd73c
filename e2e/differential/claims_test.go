package differential

import (
	"bytes"
	"math/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"
)

// A signer makes the same signature of the same bytes, each time.
type signer struct {
	entity *pgp.Entity
	keys   []byte // public
}

// newSigner reads a private key of testdata that gpg made.
func newSigner(t *testing.T, name string) signer {
	t.Helper()
	file, err := os.Open("testdata/" + name + ".asc")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	entities, err := pgp.ReadArmoredKeyRing(file)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := entities[0].Serialize(&public); err != nil {
		t.Fatal(err)
	}
	return signer{entities[0], public.Bytes()}
}

// sign makes a message that is not compressed.
func (s signer) sign(t testing.TB, signed []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pgp.Sign(&b, []*pgp.Entity{s.entity}, nil, &packet.Config{
		Time: func() time.Time { return time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC) }, Rand: rand.New(rand.NewSource(1)),
	})
	if err == nil {
		_, err = w.Write(signed)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A claimCase is a good signature over some claim.
type claimCase struct {
	name      string
	accepted  bool // by us
	signed    string
	reference string // that is asked for; empty: app:v1
	identity  string // type of signedIdentity; empty: the default
}

// claimCases are those of transcript 30 and more.
func claimCases() []claimCase {
	var (
		good     = string(theClaim())
		manifest = digest.FromBytes(imageManifest()).String()
		empty    = string(claim(app+":v1", manifest, ""))
		byDigest = app + "@" + manifest
		other    = "sha256:" + strings.Repeat("0", 64)
		swap     = func(old, new string) string { return strings.Replace(good, old, new, 1) }
		optional = func(members string) string { return string(claim(app+":v1", manifest, members)) }
		named    = func(reference string) string { return string(claim(reference, manifest, "")) }
	)
	return []claimCase{
		{"good", true, good, "", ""},
		{"optional {}", true, empty, "", ""},
		{"a newline behind", true, good + "\n", "", ""},
		{"white space around", true, " \t\r\n" + good + " \t\r\n", "", ""},
		{"an unknown optional key", true, optional(`"x":{"y":[1,{"z":null}]}`), "", ""},
		{"a timestamp in the far future", true, optional(`"timestamp":9999999999`), "", ""},
		{"a timestamp with an exponent", true, optional(`"timestamp":1e9`), "", ""},
		{"a timestamp of 1.0", true, optional(`"timestamp":1.0`), "", ""},
		{"escaped keys", true, swap(`"critical"`, `"\u0063ritical"`), "", ""},
		{"an unknown key", false, swap(`"optional"`, `"x":1,"optional"`), "", ""},
		{"an unknown critical key", false, swap(`"type"`, `"x":1,"type"`), "", ""},
		{"an unknown image key", false, swap(`"docker-manifest-digest"`, `"x":1,"docker-manifest-digest"`), "", ""},
		{"an unknown identity key", false, swap(`"docker-reference"`, `"x":1,"docker-reference"`), "", ""},
		{"no optional", false, swap(`,"optional":{"creator":"test","timestamp":1600000000}`, ""), "", ""},
		{"optional null", false, swap(`{"creator":"test","timestamp":1600000000}`, "null"), "", ""},
		{"no critical", false, `{"optional":{}}`, "", ""},
		{"no type", false, swap(`,"type":"atomic container signature"`, ""), "", ""},
		{"no identity", false, swap(`"identity":{"docker-reference":"`+app+`:v1"},`, ""), "", ""},
		{"timestamp a string", false, optional(`"timestamp":"1"`), "", ""},
		{"timestamp 1.5", false, optional(`"timestamp":1.5`), "", ""},
		{"timestamp null", false, optional(`"timestamp":null`), "", ""},
		{"timestamp negative", false, optional(`"timestamp":-1`), "", ""},
		{"timestamp after the year 9999", false, optional(`"timestamp":1e12`), "", ""},
		{"timestamp 1e400", false, optional(`"timestamp":1e400`), "", ""},
		{"creator a number", false, optional(`"creator":1`), "", ""},
		{"creator null", false, optional(`"creator":null`), "", ""},
		{"type of cosign", false, swap("atomic container signature", "cosign container image signature"), "", ""},
		{"critical twice", false, swap(`"optional"`, `"critical":{},"optional"`), "", ""},
		{"a key of optional twice", false, optional(`"creator":"a","creator":"b"`), "", ""},
		{"a key deep in optional twice", false, optional(`"x":{"y":1,"y":2}`), "", ""},
		{"optional nested deeply", false, optional(`"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)), "", ""},
		{"data behind", false, good + "{}", "", ""},
		{"key in another case", false, swap(`"critical"`, `"Critical"`), "", ""},
		{"key of optional in another case", true, optional(`"Timestamp":"1","Creator":1`), "", ""},
		{"a byte order mark", false, "\ufeff" + good, "", ""},
		{"not JSON", false, "hello", "", ""},
		{"an array", false, "[" + good + "]", "", ""},
		{"nothing", false, "", "", ""},
		{"bytes that are not UTF-8", false, optional("\"x\":\"\xff\""), "", ""},
		{"another digest", false, string(claim(app+":v1", other, "")), "", ""},
		{"the SHA-512 digest", false, string(claim(app+":v1", digest.SHA512.FromBytes(imageManifest()).String(), "")), "", ""},
		{"the digest in upper case", false, string(claim(app+":v1", "sha256:"+strings.ToUpper(manifest[7:]), "")), "", ""},
		{"no digest", false, string(claim(app+":v1", "", "")), "", ""},
		{"another tag", false, named(app + ":v2"), "", ""},
		{"no tag", false, named(app), "", ""},
		{"another tag, by digest", true, named(app + ":v2"), byDigest, ""},
		{"no tag, by digest", false, named(app), byDigest, ""},
		{"no tag, of the repository", false, named(app), "", "matchRepository"},
		{"another tag, of the repository", true, named(app + ":v2"), "", "matchRepository"},
		{"by digest, asked for by tag", false, named(byDigest), "", ""},
		{"by digest", true, named(byDigest), byDigest, ""},
		{"by digest exactly", true, named(byDigest), byDigest, "matchExact"},
		{"by tag and digest, asked for by digest", true, named(app + ":v1@" + manifest), byDigest, ""},
		{"by another digest, asked for by digest", true, named(app + "@" + other), byDigest, ""},
		{"no reference", false, named(""), "", ""},
		{"reference in upper case", false, named(strings.ToUpper(app) + ":v1"), "", ""},
		{"reference with a space", false, named(" " + app + ":v1"), "", ""},
		{"short reference of another image", false, named("busybox:1"), "", ""},
		{"reference that is an image ID", false, named(strings.Repeat("a", 64)), "", ""},
	}
}

func testClaims(t *testing.T, c *comparison) {
	alice := newSigner(t, "alice")
	for _, cc := range claimCases() {
		q := question{transport: "docker", reference: app + ":v1", signatures: [][]byte{alice.sign(t, []byte(cc.signed))}}
		if cc.reference != "" {
			q.reference = cc.reference
		}
		identity := ""
		if cc.identity != "" {
			identity = `,"signedIdentity":{"type":"` + cc.identity + `"}`
		}
		q.policy = within(byKeys(alice.keys, identity))
		if err := c.ask(t, "claim: "+cc.name, q, c.oracles...); err != nil {
			t.Error(err)
		}
		if err := evaluate(q); (err == nil) != cc.accepted {
			t.Errorf("claim: %s: got %v, want accepted is %v", cc.name, err, cc.accepted)
		}
	}
}
