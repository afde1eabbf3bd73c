package differential

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/signature"
)

// A form is one of OpenPGP's ways to sign a claim, or to fail to.
type form struct {
	name   string
	admits signature.Clients // who must be able to read it where it is admitted; empty: it is refused
	keys   []byte            // that the policy names
	blob   []byte
}

const app = "registry.example.com/ns/app"

// claim is what is signed, with the optional members' JSON.
func claim(reference, digest, optional string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},`+
		`"type":"atomic container signature"},"optional":{%s}}`, reference, digest, optional)
}

func theClaim() []byte {
	return claim(app+":v1", digest.FromBytes(imageManifest()).String(), `"creator":"test","timestamp":1600000000`)
}

// byKeys is the requirement that one of these keys signed.
func byKeys(keys []byte, identity string) string {
	return fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyData":%q%s}`, base64.StdEncoding.EncodeToString(keys), identity)
}

// within is a policy for the host of app.
func within(requirements string) string {
	return `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.com":[` + requirements + `]}}}`
}

func (f form) question() question {
	return question{policy: within(byKeys(f.keys, "")), transport: "docker", reference: app + ":v1", signatures: [][]byte{f.blob}}
}

// Keys, how they are made, and who reads what they sign.
var algorithms = []struct {
	name, algorithm, expires string
	args                     []string
	admits                   signature.Clients
}{
	{"RSA 2048", "rsa2048", "never", nil, signature.AllClients},
	{"RSA 3072", "rsa3072", "never", nil, signature.AllClients},
	{"self-signed with SHA-1", "rsa2048", "never", []string{"--cert-digest-algo", "SHA1"}, signature.AllClients},
	{"not yet expired", "rsa2048", "2099-01-01", nil, signature.AllClients},
	{"Ed25519", "ed25519", "never", nil, signature.RecentClients},
	{"P-256", "nistp256", "never", nil, signature.RecentClients},
	{"P-384", "nistp384", "never", nil, signature.RecentClients},
	{"P-521", "nistp521", "never", nil, signature.RecentClients},
	{"RSA 1024", "rsa1024", "never", nil, ""},
	{"DSA 2048", "dsa2048", "never", nil, ""},
	{"secp256k1", "secp256k1", "never", nil, ""},
	{"expired", "rsa2048", keysExpire, nil, ""},
}

// Ways to sign with a good key.
var ways = []struct {
	name, at string
	args     []string
	admits   signature.Clients
}{
	{"compressed with ZLIB", atSigning, []string{"--compress-algo", "zlib", "--sign"}, signature.AllClients},
	{"compressed with BZip2", atSigning, []string{"--compress-algo", "bzip2", "--sign"}, signature.AllClients},
	{"not compressed", atSigning, []string{"-z0", "--sign"}, signature.AllClients},
	{"as text", atSigning, []string{"--textmode", "--sign"}, signature.AllClients},
	{"as text, not compressed", atSigning, []string{"-z0", "--textmode", "--sign"}, signature.AllClients},
	{"with a file name", atSigning, []string{"--set-filename", "claim.json", "--sign"}, signature.AllClients},
	{"SHA-224", atSigning, []string{"--digest-algo", "SHA224", "--sign"}, signature.AllClients},
	{"SHA-256", atSigning, []string{"--digest-algo", "SHA256", "--sign"}, signature.AllClients},
	{"SHA-384", atSigning, []string{"--digest-algo", "SHA384", "--sign"}, signature.AllClients},
	{"SHA-512", atSigning, []string{"--digest-algo", "SHA512", "--sign"}, signature.AllClients},
	{"not yet expired", atSigning, []string{"--default-sig-expire", "2099-01-01", "--sign"}, signature.AllClients},
	{"with a notation", atSigning, []string{"--sig-notation", "a@example.org=b", "--sign"}, signature.AllClients},
	{"with a policy URL", atSigning, []string{"--sig-policy-url", "http://example.org/", "--sign"}, signature.AllClients},
	{"with a critical notation", atSigning, []string{"--sig-notation", "!a@example.org=b", "--sign"}, ""},
	{"SHA-1", atSigning, []string{"--digest-algo", "SHA1", "--sign"}, ""},
	{"RIPEMD-160", atSigning, []string{"--digest-algo", "RIPEMD160", "--sign"}, ""},
	{"MD5", atSigning, []string{"--digest-algo", "MD5", "--sign"}, ""},
	{"expired", atSigning, []string{"--default-sig-expire", "1d", "--sign"}, ""},
	{"dated in the future", farFuture, []string{"--sign"}, ""},
	{"older than the key", beforeKeys, []string{"--sign"}, ""},
	{"armored", atSigning, []string{"--armor", "--sign"}, ""},
	{"clearsigned", atSigning, []string{"--clear-sign"}, ""},
	{"detached", atSigning, []string{"--detach-sign"}, ""},
	{"not signed", atSigning, []string{"--store"}, ""},
	{"encrypted", atSigning, []string{"--passphrase", "x", "--symmetric"}, ""},
	{"signed and encrypted", atSigning, []string{"--passphrase", "x", "--symmetric", "--sign"}, ""},
	{"by two", atSigning, []string{"--local-user", "=RSA 2048", "--local-user", "=RSA 3072", "--sign"}, ""},
	{"by two, the second unknown", atSigning, []string{"--local-user", "=RSA 2048", "--local-user", "=unknown", "--sign"}, ""},
	{"by two, the first unknown", atSigning, []string{"--local-user", "=unknown", "--local-user", "=RSA 2048", "--sign"}, ""},
	{"by two, not compressed", atSigning, []string{"-z0", "--local-user", "=RSA 2048", "--local-user", "=RSA 3072", "--sign"}, ""},
	{"of an unknown key", atSigning, []string{"--local-user", "=unknown", "--sign"}, ""},
}

// gpgForms is all that gpg makes, and what is made of that.
func gpgForms(t *testing.T) []form {
	g := newGPG(t)
	var forms []form
	for _, a := range algorithms {
		g.key(t, a.name, a.algorithm, a.expires, a.args...)
		blob := g.run(t, atSigning, theClaim(), "--local-user", "="+a.name, "--sign")
		forms = append(forms, form{"key " + a.name, a.admits, g.export(t, a.name), blob})
	}
	g.key(t, "unknown", "rsa2048", "never")
	keys := g.export(t, "RSA 2048", "RSA 3072")
	for _, w := range ways {
		args := w.args
		if !slices.Contains(args, "--local-user") {
			args = append([]string{"--local-user", "=RSA 2048"}, args...)
		}
		forms = append(forms, form{"signed " + w.name, w.admits, keys, g.run(t, w.at, theClaim(), args...)})
	}
	forms = append(forms, lifeForms(t, g)...)
	forms = append(forms, ringForms(t, g)...)
	return append(forms, builtForms(t, g, keys)...)
}

// lifeForms are of keys that something has happened to since, and of subkeys.
func lifeForms(t *testing.T, g gpgHome) (forms []form) {
	add := func(name string, admits signature.Clients, key string, part int) {
		blob := g.run(t, atSigning, theClaim(), "--local-user", g.fingerprint(t, key, part)+"!", "--sign")
		forms = append(forms, form{name, admits, nil, blob})
	}
	for reason, name := range map[string]string{"0": "revoked", "1": "revoked as compromised", "2": "revoked as superseded", "3": "revoked as retired"} {
		g.key(t, name, "rsa2048", "never")
		add("key "+name, "", name, 0)
		g.revoke(t, name, reason)
		forms[len(forms)-1].keys = g.export(t, name)
	}
	for name, expires := range map[string]string{"signing subkey": "never", "expired signing subkey": keysExpire} {
		g.key(t, name, "rsa2048", "never")
		g.run(t, atKeys, nil, "--quick-add-key", g.fingerprint(t, name, 0), "rsa2048", "sign", expires)
		admits := signature.RecentClients
		if expires != "never" {
			admits = ""
		}
		add(name, admits, name, 1)
		forms[len(forms)-1].keys = g.export(t, name)
		add("primary key of the "+name, signature.AllClients, name, 0)
		forms[len(forms)-1].keys = g.export(t, name)
	}
	slices.SortFunc(forms, func(a, b form) int { return strings.Compare(a.name, b.name) })
	return forms
}

// ringForms are a good signature and keyrings in all forms.
func ringForms(t *testing.T, g gpgHome) []form {
	blob := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "--sign")
	block := func(name string) []byte { return g.run(t, atSigning, nil, "--armor", "--export", "="+name) }
	handed, err := signature.ReadKeyring(append(block("RSA 3072"), block("RSA 2048")...))
	if err != nil {
		t.Fatal(err)
	}
	return []form{
		{"keyring as it is handed out, armored", signature.AllClients, handed.Armored(), blob},
		{"keyring as it is handed out, binary", signature.AllClients, handed.Binary(), blob},
		{"keyring armored", signature.AllClients, block("RSA 2048"), blob},
		{"keyring of two binary ones, the second signed", signature.AllClients, append(g.export(t, "RSA 3072"), g.export(t, "RSA 2048")...), blob},
		{"keyring of two armored blocks, the first signed", signature.AllClients, append(block("RSA 2048"), block("RSA 3072")...), blob},
		{"keyring of two armored blocks, the second signed", signature.AllClients, append(block("RSA 3072"), block("RSA 2048")...), blob},
		{"keyring without the key", "", g.export(t, "RSA 3072"), blob},
		{"keyring without a key", "", []byte("hello"), blob},
	}
}

// builtForms are what gpg does not make, of what it does.
func builtForms(t *testing.T, g gpgHome, keys []byte) []form {
	zipped := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "--sign")
	plain := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "-z0", "--sign")
	other := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 3072", "-z0", "--sign")
	zlib := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "--compress-algo", "zlib", "--sign")
	unknown := g.run(t, atSigning, theClaim(), "--local-user", "=unknown", "--sign")
	literal := g.run(t, atSigning, theClaim(), "-z0", "--store")
	long := append(theClaim(), bytes.Repeat([]byte(" "), signature.MaxSize)...)
	parted := append(theClaim(), bytes.Repeat([]byte(" "), 20000)...)
	forms := []form{
		{"in parts", signature.AllClients, keys, g.run(t, atSigning, parted, "--local-user", "=RSA 2048", "-z0", "--sign")},
		{"long, not compressed", "", keys, g.run(t, atSigning, long, "--local-user", "=RSA 2048", "-z0", "--sign")},
		{"long, compressed", "", keys, g.run(t, atSigning, long, "--local-user", "=RSA 2048", "--sign")},
		{"a message behind", "", keys, slices.Concat(plain, other)},
		{"a message behind the compressed one", "", keys, slices.Concat(zipped, zipped)},
		{"a message of an unknown key in front", "", keys, slices.Concat(unknown, zipped)},
		{"a literal behind", "", keys, slices.Concat(plain, literal)},
		{"a literal in front", "", keys, slices.Concat(literal, plain)},
		{"garbage behind", "", keys, slices.Concat(plain, []byte("garbage"))},
		{"garbage behind the compressed message", "", keys, slices.Concat(zipped, []byte("garbage"))},
		{"garbage behind within the compressed packet", "", keys, compressed(t, slices.Concat(plain, []byte("garbage")))},
		{"compressed once by hand", signature.AllClients, keys, compressed(t, plain)},
		{"compressed twice", "", keys, compressed(t, compressed(t, plain))},
		{"cut", "", keys, zipped[:len(zipped)-20]},
		{"cut, not compressed", "", keys, plain[:len(plain)-20]},
		{"a signature in front of its data", "", keys, slices.Concat(g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "--detach-sign"), literal)},
		{"a key", "", keys, keys},
		{"empty", "", keys, nil},
		{"garbage", "", keys, []byte("garbage")},
		{"4000 one-pass packets", "", keys, slices.Concat(bytes.Repeat(plain[:15], 4000), plain)},
		{"garbage behind a compressed packet with its length", "", keys, slices.Concat(newPacket(8, zipped[1:]), []byte("garbage"))},
		{"compressed without its checksum", "", keys, zlib[:len(zlib)-4]},
		{"compressed with another checksum", "", keys, changed(compressed(t, plain), -1)},
		{"4 GiB by length", "", keys, []byte{0xc0 | 11, 255, 255, 255, 255, 255, 'b', 0, 0, 0, 0, 0, '{'}},
	}
	detached := g.run(t, atSigning, theClaim(), "--local-user", "=RSA 2048", "--detach-sign")
	return append(forms, alteredForms(plain, detached, keys)...)
}

// changed has another byte at a place, from the end if it is negative.
func changed(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[(at+len(b))%len(b)] ^= 1
	return b
}

// compressed puts a message into a compressed packet as RFC 4880 has it.
func compressed(t *testing.T, message []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packet.SerializeCompressed(nopCloser{&b}, packet.CompressionZLIB, nil)
	if err == nil {
		_, err = w.Write(message)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type nopCloser struct{ *bytes.Buffer }

func (nopCloser) Close() error { return nil }
