package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// generated makes two private keys with the program itself: release, encrypted, and staging.
func generated(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	pass := filepath.Join(dir, "release.pass")
	if err := os.WriteFile(pass, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{"release": {"-passphrase-file", pass}, "staging": nil} {
		args := append(append([]string{"keys", "generate"}, flags...), filepath.Join(dir, name+".key"))
		if out, err := command(t.Context(), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return dir
}

// TestSigningKeys signs with several keys, each where its rule says so.
func TestSigningKeys(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	dir := generated(t)
	const host = "registry.example.test:5000"
	s := trusting(t, "-host", host, "-config", config(t, fmt.Sprintf(`signing:
  keys:
    release: {file: %[1]s/release.key, passphraseFile: %[1]s/release.pass}
    staging: {file: %[1]s/staging.key}
  rules:
  - {scope: %[2]s/prod, key: release, on: [push]}
  - {scope: %[2]s/dev, key: staging, on: [push]}
`, dir, host)))
	if _, err := os.Stat(filepath.Join(s.data, "keys", "server.key")); err == nil {
		t.Error("there are keys in the settings, and the server made one")
	}
	keys := map[string]string{}
	for _, name := range []string{"release", "staging"} {
		public := filepath.Join(s.data, "keys", name+".asc")
		if got := inspectKey(t, public); got.kind != "pub" || got.fingerprint != inspectKey(t, filepath.Join(dir, name+".asc")).fingerprint {
			t.Errorf("%s is %+v, want the public part of %s", public, got, name)
		}
		keys[name] = inspectKey(t, public).fingerprint
	}
	i := newImage("several keys")
	for repository, want := range map[string]string{"prod/app": keys["release"], "dev/app": keys["staging"], "else/app": ""} {
		for _, blob := range i.blobs {
			s.pushBlob(t, repository, blob)
		}
		s.tag(t, i, repository, "v1")
		out := s.cli(t, 0, "list", "-json", repository)
		if (want == "") != (out == "") || !strings.Contains(out, want) || strings.Count(out, "\n") > 1 {
			t.Errorf("%s is signed so, want by %q alone:\n%s", repository, want, out)
		}
	}
	// The one profile accepts what any of the keys has signed.
	shows(t, s.cli(t, 1, "coverage"), "2 of 3 tags are accepted", host+"/else/app:v1 is rejected")
}

// TestSigningStarts reads what stops a start.
func TestSigningStarts(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	dir := generated(t)
	open, everything := filepath.Join(dir, "open.key"), filepath.Join(dir, "anything.json")
	write(t, open, read(t, filepath.Join(dir, "staging.key"))) // 0644
	write(t, everything, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	pipe, writable := filepath.Join(dir, "pipe"), filepath.Join(dir, "writable.asc")
	write(t, writable, read(t, filepath.Join(dir, "staging.asc")))
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Chmod(writable, 0o666)); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own.json")
	write(t, own, fmt.Sprintf(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"%s/staging.asc"}]}`, dir))
	twice := gatePolicy(t, "alice", "alice")
	staging := "keys: {staging: {file: " + dir + "/staging.key}}"
	for name, test := range map[string]struct {
		signing string
		flags   []string
		says    []string
	}{
		"a key that is missing":        {staging + ", rules: [{scope: '', key: release, on: [push]}]", nil, []string{"signing.rules[0]", `"release"`, "staging"}},
		"a file that is missing":       {"keys: {staging: {file: " + dir + "/none}}", nil, []string{"signing.keys.staging", "no such file"}},
		"a file that others may read":  {"keys: {staging: {file: " + open + "}}", nil, []string{open, "chmod 600"}},
		"a pipe":                       {"keys: {staging: {file: " + pipe + "}}", nil, []string{pipe, "no regular file"}},
		"a pipe of a public key":       {"keys: {staging: {gpg: " + dir + ", public: " + pipe + "}}", nil, []string{pipe, "no regular file"}},
		"everybody's public key":       {"keys: {staging: {socket: " + dir + "/s, public: " + writable + "}}", nil, []string{writable, "chmod o-w"}},
		"no passphrase":                {"keys: {release: {file: " + dir + "/release.key}}", nil, []string{"release.key", "passphrase"}},
		"another passphrase":           {"keys: {release: {file: " + dir + "/release.key, passphraseFile: " + dir + "/staging.key}}", nil, []string{"passphrase"}},
		"a public key":                 {"keys: {staging: {file: " + dir + "/staging.asc}}", nil, []string{"staging.asc"}},
		"one key twice":                {"keys: {a: {file: " + dir + "/staging.key}, b: {file: " + dir + "/staging.key}}", nil, []string{"the same key"}},
		"several keys and no rule":     {"keys: {a: {file: " + dir + "/staging.key}, release: {file: " + dir + "/release.key, passphraseFile: " + dir + "/release.pass}}", nil, []string{"signing.rules", "-sign-on none"}},
		"rules and -sign-on":           {"rules: [{scope: '', on: [push]}]", []string{"-sign-on", "push"}, []string{"-sign-on", "leave one out"}},
		"a rule without a scope":       {"rules: [{on: [push]}]", nil, []string{"signing.rules[0]", "scope is missing"}},
		"a field that is not known":    {"rules: [{scope: '', when: [push]}]", nil, []string{"when"}},
		"a trigger that is none":       {"rules: [{scope: '', on: [pull]}]", nil, []string{"pull"}},
		"a gate that nothing looks at": {"rules: [{scope: '', on: [push], require: " + gatePolicy(t, "alice") + "}]", nil, []string{"neither upload nor request"}},
		"a gate that is not there":     {"rules: [{scope: '', on: [upload], require: " + dir + "/none.json}]", nil, []string{"require", "none.json"}},
		"a gate that accepts anything": {"rules: [{scope: '', on: [upload], require: " + everything + "}]", nil, []string{"insecureAcceptAnything"}},
		"a gate of one signer twice":   {"rules: [{scope: '', on: [upload], require: " + twice + "}]", nil, []string{"both name key", fingerprintOf(t, "alice")}},
		"a gate of the server's own":   {staging + ", rules: [{scope: '', on: [upload], require: " + own + "}]", nil, []string{"the server's own key"}},
		"a delay of nanoseconds":       {"rules: [{scope: '', on: [push], supersede: 60ns}]", nil, []string{"supersede", "24h"}},
		"a scope of another host":      {"rules: [{scope: other.example.test/ns, on: [push]}]", nil, []string{"other.example.test/ns", "the first of hosts"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"serve", "-data", filepath.Join(t.TempDir(), "data"), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0",
				"-config", config(t, "signing: {"+test.signing+"}\n")}, test.flags...)
			out := refusal(t, args...)
			shows(t, out, test.says...)
			if strings.Contains(out, "listening") {
				t.Errorf("it listened:\n%s", out)
			}
		})
	}
}

// TestGateFollowsItsFiles edits a gate while the server runs. What cannot be a gate leaves the old one
// in force, and says so.
func TestGateFollowsItsFiles(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	file := gatePolicy(t, "alice")
	s := trusting(t, "-config", config(t, "signing:\n  rules:\n  - {scope: '', on: [upload], require: "+file+"}\n"))
	current := func() float64 {
		all, _ := s.scrape(t)
		return all.sum("countersign_policy_current", `policy="gate/everything"`)
	}
	push := func(text string) (image, string) {
		i := newImage(text)
		s.push(t, i, "ns/app", text)
		return i, s.address + "/ns/app:" + text
	}
	first, reference := push("first")
	s.upload(t, "ns/app", first.digest(), sign(t, "alice", reference, first.digest())).want(t, 201)
	s.wantSigned(t, "ns/app", first.digest(), "alice "+reference, "server "+reference)

	write(t, file, read(t, gatePolicy(t, "alice", "carol")))
	second, reference := push("second")
	s.upload(t, "ns/app", second.digest(), sign(t, "alice", reference, second.digest())).want(t, 201)
	s.idle(t)
	s.wantSigned(t, "ns/app", second.digest(), "alice "+reference)

	write(t, file, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	third, reference := push("third")
	s.upload(t, "ns/app", third.digest(), sign(t, "alice", reference, third.digest())).want(t, 201)
	s.idle(t)
	s.wantSigned(t, "ns/app", third.digest(), "alice "+reference)
	if current() != 0 {
		t.Error("a gate that does not read is called current")
	}
	s.upload(t, "ns/app", third.digest(), sign(t, "carol", reference, third.digest())).want(t, 201)
	s.wantSigned(t, "ns/app", third.digest(), "alice "+reference, "carol "+reference, "server "+reference)

	write(t, file, read(t, gatePolicy(t, "carol")))
	s.tag(t, second, "ns/app", "second") // alice alone is not enough now
	s.idle(t)
	s.wantSigned(t, "ns/app", second.digest(), "alice "+s.address+"/ns/app:second")
	if current() != 1 {
		t.Error("a gate that reads is not called current")
	}
}
