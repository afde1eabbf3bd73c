package policy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/policy"
)

// within is a policy whose one requirement, for one scope, stands on line 3.
func within(requirement string) string {
	return "{\"default\":[" + nothing + "],\n\"transports\":{\"docker\":{\"registry.example.com/ns\":[\n" + requirement + "]}}}"
}

const at = `line 3: transports.docker["registry.example.com/ns"][0]`

// What clients refuse, or could only mean by mistake, is refused with its place
// (protocol.md 6).
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ json, says string }{
		"nothing":            {``, "line 1: not JSON"},
		"half of it":         {"{\"default\":\n[", "line 2: not JSON"},
		"something behind":   {"{\"default\":[" + nothing + "]}\n{}", "line 2: not JSON"},
		"no object":          {`[]`, "line 1: an object is expected here, not an array"},
		"no default":         {`{}`, `line 1: "default" is missing`},
		"no requirement":     {`{"default":[]}`, "line 1: default: no requirement"},
		"null for them":      {`{"default":null}`, "line 1: default: an array is expected here, not null"},
		"one without a list": {`{"default":` + nothing + `}`, "line 1: default: an array is expected here, not an object"},
		"unknown key":        {"{\"default\":[" + nothing + "],\n\"more\":1}", "line 2: more: unknown key; known here are default, transports"},
		"wrong case":         {`{"Default":[` + nothing + `]}`, "line 1: Default: unknown key"},
		"default twice":      {"{\"default\":[" + nothing + "],\n\"default\":[" + anything + "]}", "line 2: default: duplicate key"},
		"transports null":    {`{"default":[` + nothing + `],"transports":null}`, "line 1: transports: an object is expected here, not null"},
		"scopes are a list":  {`{"default":[` + nothing + `],"transports":{"docker":[]}}`, "line 1: transports.docker: an object is expected"},
		"transport twice":    {`{"default":[` + nothing + `],"transports":{"docker":{},"docker":{}}}`, "line 1: transports.docker: duplicate key"},
		"scope twice":        {`{"default":[` + nothing + `],"transports":{"docker":{"a.b":[` + nothing + `],"a.b":[` + nothing + `]}}}`, `line 1: transports.docker["a.b"]: duplicate key`},
		"atomic scope":       {`{"default":[` + nothing + `],"transports":{"atomic":{"a/b/c/d":[` + nothing + `]}}}`, `line 1: transports.atomic["a/b/c/d"]: not a scope of the atomic transport`},
		"unknown transport, bad requirement": {`{"default":[` + nothing + `],"transports":{"dir":{"/x":[{}]}}}`,
			`line 1: transports.dir["/x"][0]: needs type, one of insecureAcceptAnything`},

		"requirement is a string":  {within(`"reject"`), at + `: an object is expected here, not the string "reject"`},
		"no type":                  {within(`{}`), at + ": needs type"},
		"type null":                {within(`{"type":null}`), at + ".type: a string is expected here, not null"},
		"type unknown":             {within(`{"type":"signedby"}`), at + `.type: "signedby" is none of`},
		"type twice":               {within(`{"type":"reject","type":"insecureAcceptAnything"}`), at + ".type: duplicate key"},
		"more than reject":         {within(`{"type":"reject","keyType":"GPGKeys"}`), at + ".keyType: unknown key; known here are type"},
		"more than accept":         {within(`{"type":"insecureAcceptAnything","signedIdentity":{"type":"matchExact"}}`), at + ".signedIdentity: unknown key"},
		"too many requirements":    {within(strings.Repeat(nothing+",", 256) + nothing), `line 2: transports.docker["registry.example.com/ns"]: 257 requirements`},
		"nested without end":       {strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000), "[0]: nested too deep"},
		"values without end":       {`{"default":[` + strings.Repeat("1,", 1<<16) + `1]}`, "more than 65536 values"},
		"a base layer without":     {within(`{"type":"signedBaseLayer"}`), at + ": needs baseLayerIdentity"},
		"a base layer of no match": {within(`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"x"}}`), at + `.baseLayerIdentity.type: "x" is none of`},
	} {
		refuses(t, name, test.json, test.says)
	}
	refuses(t, "a huge one", strings.Repeat(" ", policy.MaxSize+1), "more than the 16777216 that a policy may have")
}

func refuses(t *testing.T, name, json, says string) {
	t.Helper()
	p, err := policy.Parse([]byte(json))
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v, %v, want an error with %s", name, p, err, says)
	}
	if err != nil && len(err.Error()) > 1000 {
		t.Errorf("%s: the message has %d bytes: %.200s…", name, len(err.Error()), err)
	}
}

func TestParseRefusesSignedBy(t *testing.T) {
	t.Parallel()
	gpg := `{"type":"signedBy","keyType":"GPGKeys",`
	matching := func(identity string) string { return within(by("alice", `"signedIdentity":`+identity)) }
	for name, test := range map[string]struct{ json, says string }{
		"no keyType":         {within(`{"type":"signedBy","keyPath":"/alice"}`), at + ": needs keyType"},
		"keyType unknown":    {within(`{"type":"signedBy","keyType":"gpgkeys","keyPath":"/alice"}`), at + `.keyType: "gpgkeys" is none of GPGKeys`},
		"no key":             {within(`{"type":"signedBy","keyType":"GPGKeys"}`), at + ": needs exactly one of keyPath, keyPaths, keyData"},
		"two keys":           {within(gpg + `"keyPath":"/alice","keyPaths":["/bob"]}`), at + ": may have only one of keyPath and keyPaths"},
		"key in wrong case":  {within(gpg + `"keypath":"/alice"}`), at + ".keypath: unknown key; known here are keyData, keyPath, keyPaths"},
		"keyPath empty":      {within(gpg + `"keyPath":""}`), at + ".keyPath: must not be empty"},
		"keyPath a list":     {within(gpg + `"keyPath":["/alice"]}`), at + ".keyPath: a string is expected here, not an array"},
		"keyPaths a string":  {within(gpg + `"keyPaths":"/alice"}`), at + ".keyPaths: an array is expected here"},
		"keyPaths empty":     {within(gpg + `"keyPaths":[]}`), at + ".keyPaths: must not be empty"},
		"keyPaths of number": {within(gpg + `"keyPaths":["/alice",7]}`), at + ".keyPaths[1]: a string is expected here, not a number"},
		"keyData no base64":  {within(gpg + `"keyData":"-----BEGIN"}`), at + ".keyData: not base64"},
		"keyData no key":     {within(gpg + `"keyData":"aGVsbG8="}`), at + ".keyData: no usable public key"},

		"identity is a string": {matching(`"matchExact"`), at + ".signedIdentity: an object is expected here"},
		"identity null":        {matching(`null`), at + ".signedIdentity: an object is expected here, not null"},
		"identity unknown":     {matching(`{"type":"matchAnything"}`), at + `.signedIdentity.type: "matchAnything" is none of`},
		"matchExact with more": {matching(`{"type":"matchExact","prefix":"x"}`), at + ".signedIdentity.prefix: unknown key"},
		"exactReference without": {matching(`{"type":"exactReference"}`),
			at + ".signedIdentity: needs dockerReference"},
		"exactReference bare":  {matching(`{"type":"exactReference","dockerReference":"a.b/c"}`), at + `.signedIdentity.dockerReference: "a.b/c" has neither tag nor digest`},
		"exactReference wrong": {matching(`{"type":"exactReference","dockerReference":"UP:1"}`), at + `.signedIdentity.dockerReference: "UP:1"`},
		"exactRepository with the other's": {matching(`{"type":"exactRepository","dockerRepository":"a.b/c","dockerReference":"a.b/c:1"}`),
			at + ".signedIdentity.dockerReference: unknown key"},
		"exactRepository tagged": {matching(`{"type":"exactRepository","dockerRepository":"a.b/c:1"}`), at + `.signedIdentity.dockerRepository: "a.b/c:1" has a tag`},
		"remap without":          {matching(`{"type":"remapIdentity","prefix":"a.b"}`), at + ".signedIdentity: needs signedPrefix"},
		"remap of a tag":         {matching(`{"type":"remapIdentity","prefix":"a.b/c:1","signedPrefix":"a.b"}`), at + `.signedIdentity.prefix: "a.b/c:1"`},
		"remap to a short name":  {matching(`{"type":"remapIdentity","prefix":"a.b","signedPrefix":"ns/app"}`), at + `.signedIdentity.signedPrefix: "ns/app"`},
		"remap of IPv6":          {matching(`{"type":"remapIdentity","prefix":"[::1]:5000","signedPrefix":"a.b"}`), at + `.signedIdentity.prefix: "[::1]:5000"`},
		"reference of IPv6":      {matching(`{"type":"exactReference","dockerReference":"[::1]:5000/a:v1"}`), at + `.signedIdentity.dockerReference: "[::1]:5000/a:v1"`},
		"remap of a slash":       {matching(`{"type":"remapIdentity","prefix":"a.b/","signedPrefix":"a.b"}`), at + `.signedIdentity.prefix: "a.b/"`},
		"a long one":             {matching(`{"type":"remapIdentity","prefix":"` + strings.Repeat("x/", 1<<20) + `","signedPrefix":"a.b"}`), at + ".signedIdentity.prefix: 2097152 bytes are no reference"},
		"a long reference":       {matching(`{"type":"exactReference","dockerReference":"` + strings.Repeat("x/", 1<<20) + `x:1"}`), at + ".signedIdentity.dockerReference: 2097155 bytes are no reference"},
	} {
		refuses(t, name, test.json, test.says)
	}
}

func TestParseRefusesSigstoreSigned(t *testing.T) {
	t.Parallel()
	fulcio := func(members string) string { return `"fulcio":{` + members + `}` }
	const ca, rekor = `"caPath":"/ca","oidcIssuer":"https://i","subjectEmail":"a@b"`, `,"rekorPublicKeyPath":"/r"`
	for name, test := range map[string]struct{ members, says string }{
		"no source":            {`"signedIdentity":{"type":"matchExact"}`, ": needs exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki"},
		"two sources":          {`"keyPath":"/k","keyData":"YQ=="`, ": may have only one of keyPath and keyData"},
		"keyType":              {`"keyPath":"/k","keyType":"GPGKeys"`, ".keyType: unknown key"},
		"keyPath empty":        {`"keyPath":""`, ".keyPath: must not be empty"},
		"keyPaths empty":       {`"keyPaths":[]`, ".keyPaths: must not be empty"},
		"keyDatas of no data":  {`"keyDatas":["YQ==","?"]`, ".keyDatas[1]: not base64"},
		"two rekors":           {`"keyPath":"/k","rekorPublicKeyData":"YQ=="` + rekor, ": may have only one of rekorPublicKeyPath and rekorPublicKeyData"},
		"rekors empty":         {`"keyPath":"/k","rekorPublicKeyDatas":[]`, ".rekorPublicKeyDatas: must not be empty"},
		"identity unknown":     {`"keyPath":"/k","signedIdentity":{"type":"x"}`, `.signedIdentity.type: "x" is none of`},
		"fulcio without rekor": {fulcio(ca), ": fulcio needs a rekor public key"},
		"fulcio a string":      {`"fulcio":"x"` + rekor, ".fulcio: an object is expected"},
		"fulcio without ca":    {fulcio(`"oidcIssuer":"https://i","subjectEmail":"a@b"`) + rekor, ".fulcio: needs exactly one of caPath, caData"},
		"fulcio with both":     {fulcio(ca+`,"caData":"YQ=="`) + rekor, ".fulcio: may have only one of caPath and caData"},
		"fulcio, no issuer":    {fulcio(`"caPath":"/ca","subjectEmail":"a@b"`) + rekor, ".fulcio: needs oidcIssuer"},
		"fulcio, no email":     {fulcio(`"caPath":"/ca","oidcIssuer":"https://i"`) + rekor, ".fulcio: needs subjectEmail"},
		"fulcio, hostname":     {fulcio(ca+`,"subjectHostname":"h"`) + rekor, ".fulcio.subjectHostname: unknown key"},
		"pki with rekor":       {`"pki":{"caRootsPath":"/ca","subjectEmail":"a@b"}` + rekor, ": pki and rekorPublicKeyPath exclude each other"},
		"pki without roots":    {`"pki":{"subjectEmail":"a@b"}`, ".pki: needs exactly one of caRootsPath, caRootsData"},
		"pki without subject":  {`"pki":{"caRootsPath":"/ca"}`, ".pki: needs subjectEmail or subjectHostname"},
		"pki, intermediates":   {`"pki":{"caRootsPath":"/ca","subjectEmail":"a@b","caIntermediatesPath":"/i","caIntermediatesData":"YQ=="}`, ".pki: may have only one of caIntermediatesPath and caIntermediatesData"},
	} {
		refuses(t, name, within(`{"type":"sigstoreSigned",`+test.members+`}`), at+test.says)
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	keyData := encoded(testdata(t, "carol.asc"))
	for _, requirement := range []string{
		anything, nothing, by("alice"),
		`{"keyPath":"/alice","keyType":"GPGKeys","type":"signedBy"}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/alice","/bob"],"signedIdentity":{"type":"matchExact"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyData":"` + keyData + `"}`,
		// Clients parse these and reject everything by them; the data is no keyring.
		`{"type":"signedBy","keyType":"signedByGPGKeys","keyPath":"/alice"}`,
		`{"type":"signedBy","keyType":"X509Certificates","keyData":"aGVsbG8="}`,
		`{"type":"signedBy","keyData":"aGVsbG8=","keyType":"signedByX509CAs"}`,
		by("alice", `"signedIdentity":{"type":"matchRepoDigestOrExact"}`),
		by("alice", `"signedIdentity":{"type":"matchRepository"}`),
		by("alice", `"signedIdentity":{"type":"exactReference","dockerReference":"busybox:1"}`),
		by("alice", `"signedIdentity":{"type":"exactRepository","dockerRepository":"busybox"}`),
		by("alice", `"signedIdentity":{"type":"remapIdentity","prefix":"localhost:5000","signedPrefix":"docker.io/library/busybox"}`),
		`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}`,
		`{"type":"sigstoreSigned","keyPath":"/k"}`,
		`{"type":"sigstoreSigned","keyPaths":["/k"],"rekorPublicKeyPaths":["/r"],"signedIdentity":{"type":"matchRepository"}}`,
		`{"type":"sigstoreSigned","keyDatas":["YQ==","Yg=="],"rekorPublicKeyData":"YQ=="}`,
		`{"type":"sigstoreSigned","fulcio":{"caData":"YQ==","oidcIssuer":"https://i","subjectEmail":"a@b"},"rekorPublicKeyDatas":["YQ=="]}`,
		`{"type":"sigstoreSigned","pki":{"caRootsPath":"/ca","caIntermediatesPath":"/i","subjectEmail":"a@b","subjectHostname":"h"}}`,
	} {
		if _, err := policy.Parse([]byte(within(requirement))); err != nil {
			t.Errorf("%v\n%s", err, requirement)
		}
	}
	// Scopes of docker may be anything, and transports that nobody knows are no error.
	json := `{"transports":{"docker":{"":[` + nothing + `],"*.example.com":[` + nothing + `],"what ever?":[` + nothing + `]},
		"atomic":{"":[` + nothing + `],"host:5000/ns/stream:v1":[` + nothing + `]},"docker-daemon":{"":[` + anything + `]},"future":{"x":[` + nothing + `]}},
		"default":[` + nothing + `]}`
	if _, err := policy.Parse([]byte(json)); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse([]byte(`{"default":[` + by("alice") + `,` + by("alice") + `],"transports":{"docker":{
		"a.example.com":[{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/bob","/alice"]}],
		"b.example.com":[{"type":"sigstoreSigned","keyPath":"/never"},{"type":"signedBy","keyType":"X509Certificates","keyPath":"/never"}],
		"c.example.com":[{"type":"signedBy","keyType":"GPGKeys","keyData":"` + encoded(testdata(t, "carol.asc")) + `"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(p.Keyring().Keys()); got != 1 {
		t.Errorf("before Load the policy has %d keys, want carol's alone, of keyData", got)
	}
	read := map[string]int{}
	loaded, err := p.Load(func(path string) ([]byte, error) {
		read[path]++
		return files(t)(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(read); got != "map[/alice:1 /bob:1]" {
		t.Errorf("Load read %s, want alice and bob once each", got)
	}
	if got := len(loaded.Keyring().Keys()); got != 3 {
		t.Errorf("after Load the policy has %d keys, want 3", got)
	}
	if got := len(p.Keyring().Keys()); got != 1 {
		t.Errorf("Load changed the policy that it was called on: it has %d keys", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse([]byte(within(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/alice","/missing"]}`)))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		data []byte
		err  error
		says string
	}{
		"missing": {nil, fs.ErrNotExist, "file does not exist"},
		"no key":  {[]byte("hello"), nil, "no usable public key"},
	} {
		_, err := p.Load(func(path string) ([]byte, error) {
			if path == "/alice" {
				return files(t)(path)
			}
			return test.data, test.err
		})
		for _, says := range []string{at + `.keyPaths[1]: "/missing": `, test.says} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v, want %q in it", name, err, says)
			}
		}
		if test.err != nil && !errors.Is(err, test.err) {
			t.Errorf("%s: %v does not wrap %v", name, err, test.err)
		}
	}
}
