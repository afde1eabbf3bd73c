package differential

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// A policyCase asks for a good signature of alice's under some policy. ALICE and BOB stand for a
// signedBy of theirs, KEY for alice's key in base64, FILE for a file of it.
type policyCase struct {
	name      string
	accepted  bool // by us
	policy    string
	reference string // if not app:v1
}

// scoped are the scopes of transport docker, beside a default that rejects.
func scoped(scopes string) string {
	return `{"default":[{"type":"reject"}],"transports":{"docker":{` + scopes + `}}}`
}

// identified is a requirement of alice's key and an identity.
func identified(identity string) string {
	return scoped(`"":[{"type":"signedBy","keyType":"GPGKeys","keyData":"KEY","signedIdentity":` + identity + `}]`)
}

// only is a default of one requirement.
func only(requirement string) string { return `{"default":[` + requirement + `]}` }

const anything = `{"type":"insecureAcceptAnything"}`

func policyCases() []policyCase {
	return []policyCase{
		// The whole file.
		{"anything", true, only(anything), ""},
		{"reject", false, only(`{"type":"reject"}`), ""},
		{"alice", true, only(`ALICE`), ""},
		{"alice and bob", false, only(`ALICE,BOB`), ""},
		{"alice and anything", true, only(`ALICE,` + anything), ""},
		{"alice and reject", false, only(`ALICE,{"type":"reject"}`), ""},
		{"alice twice", true, only(`ALICE,ALICE`), ""},
		{"no default", false, `{"transports":{}}`, ""},
		{"no requirement", false, `{"default":[]}`, ""},
		{"default null", false, `{"default":null}`, ""},
		{"empty", false, ``, ""},
		{"null", false, `null`, ""},
		{"an array", false, `[]`, ""},
		{"unknown key", false, `{"default":[` + anything + `],"x":1}`, ""},
		{"key in another case", false, `{"Default":[` + anything + `]}`, ""},
		{"key twice", false, `{"default":[` + anything + `],"default":[` + anything + `]}`, ""},
		{"data behind", false, only(anything) + "{}", ""},
		{"a byte order mark", false, "\ufeff" + only(anything), ""},
		{"white space around", true, " \n" + only(anything) + "\n", ""},
		{"a comment", false, "// trust\n" + only(anything), ""},
		{"transports null", false, `{"default":[` + anything + `],"transports":null}`, ""},
		{"unknown transport", true, `{"default":[` + anything + `],"transports":{"x":{"y":[{"type":"reject"}]}}}`, ""},
		{"transport twice", false, `{"default":[` + anything + `],"transports":{"x":{},"x":{}}}`, ""},
		{"transport in another case", true, `{"default":[` + anything + `],"transports":{"Docker":{"":[{"type":"reject"}]}}}`, ""},
		{"scope of atomic that is none", true, `{"default":[` + anything + `],"transports":{"atomic":{"/x":[` + anything + `]}}}`, ""},
		{"wildcard of atomic", true, `{"default":[` + anything + `],"transports":{"atomic":{"*.example.com":[` + anything + `]}}}`, ""},

		// Scopes.
		{"scope of the tag", true, scoped(`"` + app + `:v1":[ALICE],"` + app + `":[{"type":"reject"}]`), ""},
		{"scope of another tag", false, scoped(`"` + app + `:v2":[ALICE]`), ""},
		{"scope of the repository", true, scoped(`"` + app + `":[ALICE],"registry.example.com/ns":[{"type":"reject"}]`), ""},
		{"scope of the namespace", true, scoped(`"registry.example.com/ns":[ALICE],"registry.example.com":[{"type":"reject"}]`), ""},
		{"scope of half a namespace", false, scoped(`"registry.example.com/n":[ALICE]`), ""},
		{"scope of the host", true, scoped(`"registry.example.com":[ALICE],"*.example.com":[{"type":"reject"}]`), ""},
		{"scope of the domain", true, scoped(`"*.example.com":[ALICE],"*.com":[{"type":"reject"}]`), ""},
		{"scope of the domain above", true, scoped(`"*.com":[ALICE],"":[{"type":"reject"}]`), ""},
		{"scope of every host", false, scoped(`"*":[ALICE]`), ""},
		{"scope of the host itself as wildcard", false, scoped(`"*.registry.example.com":[ALICE]`), ""},
		{"scope of a wildcard with namespace", false, scoped(`"*.example.com/ns":[ALICE]`), ""},
		{"scope of the transport", true, scoped(`"":[ALICE]`), ""},
		{"scope in another case", false, scoped(`"Registry.example.com":[ALICE]`), ""},
		{"scope twice", false, scoped(`"":[ALICE],"":[ALICE]`), ""},
		{"scope with a slash behind", false, scoped(`"registry.example.com/":[ALICE]`), ""},
		{"scope of a port", false, scoped(`"registry.example.com:443":[ALICE]`), ""},
		{"scope without requirement", false, scoped(`"":[]`), ""},

		// Requirements.
		{"no type", false, only(`{}`), ""},
		{"type null", false, only(`{"type":null}`), ""},
		{"type unknown", false, only(`{"type":"zzz"}`), ""},
		{"type twice", false, only(`{"type":"insecureAcceptAnything","type":"insecureAcceptAnything"}`), ""},
		{"type in another case", false, only(`{"type":"insecureacceptanything"}`), ""},
		{"anything with a key", false, only(`{"type":"insecureAcceptAnything","x":1}`), ""},
		{"a file", true, only(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"FILE"}`), ""},
		{"a file that is missing", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/nonexistent"}`), ""},
		{"a file that is missing, elsewhere", false, scoped(`"":[ALICE],"x":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/nonexistent"}]`), ""},
		{"two files", true, only(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":["FILE","FILE"]}`), ""},
		{"no file", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyPaths":[]}`), ""},
		{"path and data", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"FILE","keyData":"KEY"}`), ""},
		{"path and paths", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"FILE","keyPaths":["FILE"]}`), ""},
		{"empty path and data", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyPath":"","keyData":"KEY"}`), ""},
		{"no key", false, only(`{"type":"signedBy","keyType":"GPGKeys"}`), ""},
		{"no keyType", false, only(`{"type":"signedBy","keyData":"KEY"}`), ""},
		{"keyType unknown", false, only(`{"type":"signedBy","keyType":"x","keyData":"KEY"}`), ""},
		{"keyType signedByGPGKeys", false, only(`{"type":"signedBy","keyType":"signedByGPGKeys","keyData":"KEY"}`), ""},
		{"keyType X509Certificates", false, only(`{"type":"signedBy","keyType":"X509Certificates","keyData":"KEY"}`), ""},
		{"keyType signedByX509CAs", false, only(`{"type":"signedBy","keyType":"signedByX509CAs","keyData":"KEY"}`), ""},
		{"unknown key of signedBy", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyData":"KEY","foo":1}`), ""},
		{"keyData not base64", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyData":"%"}`), ""},
		{"keyData without padding", false, only(`{"type":"signedBy","keyType":"GPGKeys","keyData":"aGVsbG8"}`), ""},
		{"keyData no key, elsewhere", false, scoped(`"":[ALICE],"x":[{"type":"signedBy","keyType":"GPGKeys","keyData":"aGVsbG8="}]`), ""},
		{"keyData with line breaks", true, only(`{"type":"signedBy","keyType":"GPGKeys","keyData":"\nKEY\r\n"}`), ""},
		{"signedBaseLayer", false, only(`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}`), ""},
		{"signedBaseLayer without identity", false, only(`{"type":"signedBaseLayer"}`), ""},
		{"sigstoreSigned", false, only(`{"type":"sigstoreSigned","keyPath":"/nonexistent"}`), ""},
		{"sigstoreSigned elsewhere", true, scoped(`"":[ALICE],"x":[{"type":"sigstoreSigned","keyPath":"/nonexistent"}]`), ""},
		{"sigstoreSigned without key", false, only(`{"type":"sigstoreSigned"}`), ""},
		{"sigstoreSigned without key, elsewhere", false, scoped(`"":[ALICE],"x":[{"type":"sigstoreSigned"}]`), ""},

		// Identities.
		{"matchExact", true, identified(`{"type":"matchExact"}`), ""},
		{"matchRepoDigestOrExact", true, identified(`{"type":"matchRepoDigestOrExact"}`), ""},
		{"matchRepository", true, identified(`{"type":"matchRepository"}`), app + ":v2"},
		{"matchRepository of another", false, identified(`{"type":"matchRepository"}`), app + "2:v1"},
		{"exactReference", true, identified(`{"type":"exactReference","dockerReference":"` + app + `:v1"}`), "registry.example.com/x:y"},
		{"exactReference of another", false, identified(`{"type":"exactReference","dockerReference":"` + app + `:v2"}`), ""},
		{"exactReference without tag", false, identified(`{"type":"exactReference","dockerReference":"` + app + `"}`), ""},
		{"exactRepository", true, identified(`{"type":"exactRepository","dockerRepository":"` + app + `"}`), "registry.example.com/x:y"},
		{"exactRepository of another", false, identified(`{"type":"exactRepository","dockerRepository":"` + app + `2"}`), ""},
		{"exactRepository with tag", false, identified(`{"type":"exactRepository","dockerRepository":"` + app + `:v1"}`), ""},
		{"remapIdentity", true, identified(`{"type":"remapIdentity","prefix":"mirror.example.com","signedPrefix":"registry.example.com"}`), "mirror.example.com/ns/app:v1"},
		{"remapIdentity of a namespace", true, identified(`{"type":"remapIdentity","prefix":"mirror.example.com/a/b","signedPrefix":"registry.example.com/ns"}`), "mirror.example.com/a/b/app:v1"},
		{"remapIdentity of the repository", true, identified(`{"type":"remapIdentity","prefix":"mirror.example.com/a","signedPrefix":"` + app + `"}`), "mirror.example.com/a:v1"},
		{"remapIdentity of half a name", false, identified(`{"type":"remapIdentity","prefix":"mirror.example.com/a","signedPrefix":"` + app + `"}`), "mirror.example.com/ab:v1"},
		{"remapIdentity of another", true, identified(`{"type":"remapIdentity","prefix":"mirror.example.com","signedPrefix":"x.example.com"}`), ""},
		{"remapIdentity away", false, identified(`{"type":"remapIdentity","prefix":"registry.example.com","signedPrefix":"x.example.com"}`), ""},
		{"remapIdentity with tag", false, identified(`{"type":"remapIdentity","prefix":"` + app + `:v1","signedPrefix":"x.example.com"}`), ""},
		{"remapIdentity of a short name", false, identified(`{"type":"remapIdentity","prefix":"busybox/x","signedPrefix":"x.example.com"}`), ""},
		{"remapIdentity with slash behind", false, identified(`{"type":"remapIdentity","prefix":"mirror.example.com/","signedPrefix":"registry.example.com/"}`), "mirror.example.com/ns/app:v1"},
		{"remapIdentity without prefix", false, identified(`{"type":"remapIdentity","signedPrefix":"x.example.com"}`), ""},
		{"identity null", false, identified(`null`), ""},
		{"identity unknown", false, identified(`{"type":"x"}`), ""},
		{"identity with a key of another", false, identified(`{"type":"matchExact","prefix":"x"}`), ""},
	}
}

func testPolicies(t *testing.T, c *comparison) {
	alice, bob := newSigner(t, "alice"), newSigner(t, "bob")
	good := alice.sign(t, theClaim())
	fill := strings.NewReplacer(
		"ALICE", byKeys(alice.keys, ""), "BOB", byKeys(bob.keys, ""),
		"KEY", base64.StdEncoding.EncodeToString(alice.keys), "FILE", keyFile(t, alice.keys))
	for _, pc := range policyCases() {
		q := question{policy: fill.Replace(pc.policy), transport: "docker", reference: app + ":v1", signatures: [][]byte{good}}
		if pc.reference != "" {
			q.reference = pc.reference
		}
		name := "policy: " + pc.name
		if err := c.ask(t, name, q, c.oracles...); err != nil {
			t.Error(err)
		}
		if err := evaluate(q); (err == nil) != pc.accepted {
			t.Errorf("%s: got %v, want accepted is %v", name, err, pc.accepted)
		}
		q.transport, q.policy = "atomic", strings.ReplaceAll(q.policy, `"docker":`, `"atomic":`)
		if err := c.ask(t, fmt.Sprintf("%s, of atomic", name), q, library); err != nil {
			t.Error(err)
		}
	}
}
