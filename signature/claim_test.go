package signature_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// The claim of testdata/door.
const (
	doorReference = "registry.example.com/ns/app:v1"
	doorDigest    = "sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f"
	doorClaim     = `{"critical":{"identity":{"docker-reference":"` + doorReference + `"},"image":{"docker-manifest-digest":"` + doorDigest + `"},` +
		`"type":"atomic container signature"},"optional":{"creator":"test","timestamp":1600000000}}`
)

func optional(members string) string {
	return strings.Replace(doorClaim, `"creator":"test","timestamp":1600000000`, members, 1)
}

func swapped(old, new string) string { return strings.Replace(doorClaim, old, new, 1) }

func TestParseClaim(t *testing.T) {
	t.Parallel()
	good := signature.Claim{Reference: doorReference, Digest: doorDigest, Creator: "test", Timestamp: time.Unix(1600000000, 0).UTC()}
	bare := signature.Claim{Reference: doorReference, Digest: doorDigest}
	dated := func(seconds int64) signature.Claim {
		c := bare
		c.Timestamp = time.Unix(seconds, 0).UTC()
		return c
	}
	other := good
	other.Reference = "busybox@" + doorDigest
	for claim, want := range map[string]signature.Claim{
		doorClaim:                                good,
		" \t\r\n" + doorClaim + " \n":            good,
		swapped(`"critical"`, `"\u0063ritical"`): good,
		swapped(doorReference, other.Reference):  other,
		optional(""):                             bare,
		optional(`"x":{"y":[1,{"z":null}]}`):     bare,
		optional(`"Timestamp":"1","Creator":1`):  bare,
		optional(`"timestamp":9999999999`):       dated(9999999999),
		optional(`"timestamp":1e9`):              dated(1e9),
		optional(`"timestamp":1.0`):              dated(1),
		optional(`"timestamp":0`):                dated(0),
		optional(`"x":` + strings.Repeat("[", 30) + strings.Repeat("]", 30)): bare,
	} {
		if got, err := signature.ParseClaim([]byte(claim)); err != nil || got != want {
			t.Errorf("%.300s:\ngot  %+v, %v\nwant %+v", claim, got, err, want)
		}
	}
}

// malformedClaims are what is refused, and what the message says.
func malformedClaims() map[string]struct{ claim, says string } {
	return map[string]struct{ claim, says string }{
		"unknown key":                  {swapped(`"optional"`, `"x":1,"optional"`), `unknown key "x"`},
		"unknown critical key":         {swapped(`"type"`, `"y":1,"type"`), `unknown key "y"`},
		"unknown image key":            {swapped(`"docker-manifest-digest"`, `"z":1,"docker-manifest-digest"`), `unknown key "z"`},
		"unknown identity key":         {swapped(`"docker-reference"`, `"w":1,"docker-reference"`), `unknown key "w"`},
		"no optional":                  {swapped(`,"optional":{"creator":"test","timestamp":1600000000}`, ""), `key "optional" is missing`},
		"optional null":                {swapped(`{"creator":"test","timestamp":1600000000}`, "null"), "null where an object belongs"},
		"no critical":                  {`{"optional":{}}`, `key "critical" is missing`},
		"no type":                      {swapped(`,"type":"atomic container signature"`, ""), `key "type" is missing`},
		"no identity":                  {swapped(`"identity":{"docker-reference":"`+doorReference+`"},`, ""), `key "identity" is missing`},
		"no image":                     {swapped(`"image":{"docker-manifest-digest":"`+doorDigest+`"},`, ""), `key "image" is missing`},
		"timestamp a string":           {optional(`"timestamp":"1"`), `optional.timestamp is "1", not a number`},
		"timestamp null":               {optional(`"timestamp":null`), "optional.timestamp is null, not a number"},
		"timestamp 1.5":                {optional(`"timestamp":1.5`), "optional.timestamp 1.5 is not whole seconds"},
		"timestamp negative":           {optional(`"timestamp":-1`), "optional.timestamp -1 is not whole seconds"},
		"timestamp after year 9999":    {optional(`"timestamp":1e12`), "optional.timestamp 1e12 is not whole seconds"},
		"timestamp infinite":           {optional(`"timestamp":1e400`), "optional.timestamp 1e400 is not whole seconds"},
		"creator a number":             {optional(`"creator":1`), `"1" where a string belongs`},
		"creator null":                 {optional(`"creator":null`), "null where a string belongs"},
		"type of cosign":               {swapped("atomic container signature", "cosign container image signature"), `critical.type is "cosign container image signature"`},
		"critical twice":               {swapped(`"optional"`, `"critical":{},"optional"`), `key "critical" stands there twice`},
		"critical twice, once escaped": {swapped(`"optional"`, `"\u0063ritical":{},"optional"`), `key "critical" stands there twice`},
		"key of optional twice":        {optional(`"creator":"a","creator":"b"`), `key "creator" stands there twice`},
		"key deep in optional twice":   {optional(`"x":[{"y":1,"y":2}]`), `key "y" stands there twice`},
		"optional nested deeply":       {optional(`"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)), "optional is nested deeper than"},
		"data behind":                  {doorClaim + "{}", "not one JSON value"},
		"key in another case":          {swapped(`"critical"`, `"Critical"`), `unknown key "Critical"`},
		"byte order mark":              {"\ufeff" + doorClaim, "not one JSON value"},
		"no JSON":                      {"hello", "not one JSON value"},
		"array":                        {"[" + doorClaim + "]", `"[" where an object belongs`},
		"nothing":                      {"", "not one JSON value"},
		"no UTF-8":                     {optional("\"x\":\"\xff\""), "in UTF-8"},
		"too large":                    {doorClaim + strings.Repeat(" ", signature.MaxSize), "larger than 65536 bytes"},
		"SHA-512 digest":               {swapped(doorDigest, string(digest.SHA512.FromString("x"))), "is not a sha256 digest"},
		"digest in upper case":         {swapped(doorDigest, "sha256:"+strings.ToUpper(doorDigest[7:])), "is not a sha256 digest"},
		"digest too short":             {swapped(doorDigest, doorDigest[:70]), "is not a sha256 digest"},
		"no digest":                    {swapped(doorDigest, ""), `docker-manifest-digest "" is not a sha256 digest`},
		"untagged reference":           {swapped(doorReference, "registry.example.com/ns/app"), "has neither tag nor digest; sign it with one"},
		"no reference":                 {swapped(doorReference, ""), `docker-reference "": `},
		"reference in upper case":      {swapped(doorReference, strings.ToUpper(doorReference)), "must be lowercase"},
		"reference with a space":       {swapped(doorReference, " "+doorReference), "invalid reference format"},
		"reference that is an ID":      {swapped(doorReference, strings.Repeat("a", 64)), "cannot specify 64-byte hexadecimal strings"},
		"reference too long":           {swapped(doorReference, strings.Repeat("a/", 10_000)+"b:v1"), "must not be more than 255 characters"},
		"reference not a string":       {swapped(`"`+doorReference+`"`, `{}`), `"{" where a string belongs`},
	}
}

func TestParseClaimRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range malformedClaims() {
		got, err := signature.ParseClaim([]byte(test.claim))
		if !errors.Is(err, signature.ErrMalformed) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %+v and %v, want ErrMalformed and %q", name, got, err, test.says)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: the message has %d bytes", name, len(err.Error()))
		}
	}
}

// What clients write is what is read.
func TestPayload(t *testing.T) {
	t.Parallel()
	claim, err := signature.ParseClaim([]byte(doorClaim))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(claim.Payload()); got != doorClaim {
		t.Errorf("got  %s\nwant %s", got, doorClaim)
	}
}
