package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// runs runs the binary, which must succeed, and returns what it wrote.
func runs(t testing.TB, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestGenerate makes keys of every algorithm; stock gpg reads both parts, and a key that shuts out
// clients comes with a warning.
func TestGenerate(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	for algorithm, want := range map[string]struct{ algorithm, bits string }{
		"": {"1", "3072"}, "rsa4096": {"1", "4096"}, "p256": {"19", "256"}, "p384": {"19", "384"}, "ed25519": {"22", "255"},
	} {
		file := filepath.Join(t.TempDir(), "release.key")
		args := []string{"keys", "generate", "-user-id", "Release <release@example.test>"}
		if algorithm != "" {
			args = append(args, "-algorithm", algorithm, "-expires", "730d")
		}
		out := runs(t, append(args, file)...)
		public := strings.TrimSuffix(file, ".key") + ".asc"
		for path, kind := range map[string]string{file: "sec", public: "pub"} {
			got := inspectKey(t, path)
			if got.kind != kind || got.user != "Release <release@example.test>" || !strings.Contains(out, got.fingerprint) {
				t.Errorf("%q: gpg reads %s as %+v, want %s of that user, and its fingerprint in %s", algorithm, path, got, kind, out)
			}
			if got.algorithm != want.algorithm || got.bits != want.bits {
				t.Errorf("%q: gpg reads %+v, want algorithm %s of %s bits", algorithm, got, want.algorithm, want.bits)
			}
		}
		if warned := strings.Contains(out, "warning:"); warned != (want.algorithm != "1") {
			t.Errorf("%q: %s, want a warning: %v", algorithm, out, !warned)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: mode %v, %v; want 0600", algorithm, info.Mode(), err)
		}
		before := read(t, file)
		if out := refusal(t, append(args, file)...); !strings.Contains(out, "there already") || read(t, file) != before {
			t.Errorf("%q: a second key over the first: %s", algorithm, out)
		}
	}
	for name, args := range map[string][]string{
		"no file":   {},
		"algorithm": {"-algorithm", "rsa1024", "x"},
		"past":      {"-expires", "2020-01-01", "x"},
		"nonsense":  {"-expires", "soon", "x"},
	} {
		if out := refusal(t, append([]string{"keys", "generate"}, args...)...); !strings.Contains(out, "countersign keys") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// TestTrust lets people upload: into the trusted directory, and by a policy for a scope.
func TestTrust(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	keys := t.TempDir()
	for _, name := range people {
		write(t, filepath.Join(keys, name+".asc"), string(built.keys[name]))
	}
	s := start(t, "-sign-on", "none")
	i := newImage("trust")
	upload := func(s *server, name, repository string) answer {
		return s.upload(t, repository, i.digest(), sign(t, name, s.address+"/"+repository+":v1", i.digest()))
	}
	upload(s, "alice", "ns/app").refused(t, 403, "DENIED")
	elsewhere := config(t, "data: "+t.TempDir()+"\n") // a flag wins over the file
	runs(t, "keys", "trust", filepath.Join(keys, "alice.asc"), "-data", s.data, "-config", elsewhere)
	upload(s, "alice", "ns/app").want(t, 201)
	s.stop(t)

	// With a scope the policy is made, and said what to do with it.
	policy := filepath.Join(s.data, "admission.json")
	out := runs(t, "keys", "trust", filepath.Join(keys, "bob.asc"), "-scope", s.address+"/ns", "-data", s.data)
	if !strings.Contains(out, "admission.policy: "+policy) || !strings.Contains(out, built.fingerprints["bob"]) {
		t.Errorf("a new policy: %s, want what to set", out)
	}
	settings := config(t, "admission: {policy: "+policy+"}\n")
	s = startIn(t, s.data, "-listen", s.address, "-sign-on", "none", "-config", settings)
	upload(s, "bob", "ns/two").want(t, 201)
	upload(s, "bob", "other/app").refused(t, 403, "DENIED")
	upload(s, "carol", "ns/two").refused(t, 403, "DENIED")

	// A more precise scope keeps who was let in; the server follows the file.
	out = runs(t, "keys", "trust", filepath.Join(keys, "carol.asc"), "-scope", s.address+"/ns/two", "-config", settings)
	if !strings.Contains(out, "So may those of scope") {
		t.Errorf("a scope within another: %s, want a word about those who were let in already", out)
	}
	upload(s, "carol", "ns/two").want(t, 201)
	upload(s, "carol", "ns/three").refused(t, 403, "DENIED")
	upload(s, "bob", "ns/two").want(t, 201)

	// Once more changes nothing.
	before := read(t, policy)
	runs(t, "keys", "trust", "-scope", s.address+"/ns/two", "-policy", policy, filepath.Join(keys, "carol.asc"))
	if read(t, policy) != before {
		t.Errorf("trusted twice:\n%s\nbefore:\n%s", read(t, policy), before)
	}
	// What somebody wrote stays; what does not read is left alone.
	write(t, policy, `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"a.example":[{"type":"reject"}]},"atomic":{"":[{"type":"reject"}]}}}`)
	runs(t, "keys", "trust", filepath.Join(keys, "carol.asc"), "-scope", "a.example/ns", "-policy", policy)
	var got struct {
		Default    []map[string]string
		Transports map[string]map[string][]map[string]string
	}
	if err := json.Unmarshal([]byte(read(t, policy)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Default[0]["type"] != "insecureAcceptAnything" || got.Transports["docker"]["a.example"][0]["type"] != "reject" || got.Transports["atomic"][""][0]["type"] != "reject" || len(got.Transports["docker"]["a.example/ns"]) != 1 {
		t.Errorf("the policy lost what was in it: %s", read(t, policy))
	}
	write(t, policy, `{"default":[]}`)
	if out := refusal(t, "keys", "trust", filepath.Join(keys, "carol.asc"), "-scope", "a.example", "-policy", policy); !strings.Contains(out, policy) || read(t, policy) != `{"default":[]}` {
		t.Errorf("a policy that does not read: %s", out)
	}
	for name, args := range map[string][]string{
		"a private key":      {filepath.Join(s.data, "keys", "server.key"), "-data", s.data},
		"no key":             {settings, "-data", s.data},
		"no scope":           {filepath.Join(keys, "carol.asc"), "-config", settings},
		"a scope with https": {filepath.Join(keys, "carol.asc"), "-scope", "https://a.example", "-data", s.data},
	} {
		if out := refusal(t, append([]string{"keys", "trust"}, args...)...); !strings.Contains(out, "countersign keys") {
			t.Errorf("%s: %s", name, out)
		}
	}
	write(t, policy, before)
}

// TestTrustShutsNobodyOut narrows a policy down: who was let in by the default, or a wider scope, still is,
// and nobody is who was not.
func TestTrustShutsNobodyOut(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	dir, port := t.TempDir(), freePorts(t, 1)[0]
	for _, name := range people {
		write(t, filepath.Join(dir, name+".asc"), string(built.keys[name]))
	}
	policy := filepath.Join(dir, "admission.json")
	signedBy := func(name string) string {
		return `{"type":"signedBy","keyType":"GPGKeys","keyPath":"` + filepath.Join(dir, name+".asc") + `"}`
	}
	write(t, policy, `{"default":[`+signedBy("alice")+`],"transports":{"docker":{"`+port+`/shut":[`+signedBy("alice")+`,{"type":"reject"}]}}}`)
	s := start(t, "-listen", port, "-sign-on", "none", "-config", config(t, "admission: {policy: "+policy+"}\n"))
	i := newImage("shuts nobody out")
	upload := func(name, repository string) answer {
		return s.upload(t, repository, i.digest(), sign(t, name, port+"/"+repository+":v1", i.digest()))
	}
	carol := filepath.Join(dir, "carol.asc")
	if out := runs(t, "keys", "trust", carol, "-scope", port+"/ns", "-policy", policy); !strings.Contains(out, "So may those of the default") {
		t.Errorf("within the default: %s", out)
	}
	upload("alice", "ns/app").want(t, 201)
	upload("carol", "ns/app").want(t, 201)
	upload("carol", "other/app").refused(t, 403, "DENIED")

	before := read(t, policy)
	if out := refusal(t, "keys", "trust", carol, "-scope", port+"/shut", "-policy", policy); !strings.Contains(out, "has a reject") || read(t, policy) != before {
		t.Errorf("a scope that lets nobody in: %s", out)
	}
	runs(t, "keys", "trust", carol, "-scope", port+"/shut/app", "-policy", policy)
	upload("carol", "shut/app").want(t, 201)
	upload("alice", "shut/app").refused(t, 403, "DENIED")
}

// TestKeys asks for the calendar: keys that end soon are on top, with what it concerns, in the log and
// in the metrics; keys that have ended do not stop the start.
func TestKeys(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	dir := t.TempDir()
	soon, long, ci := filepath.Join(dir, "soon.key"), filepath.Join(dir, "long.key"), filepath.Join(dir, "ci.key")
	runs(t, "keys", "generate", "-expires", "20d", soon)
	runs(t, "keys", "generate", "-expires", "60d", ci)
	runs(t, "keys", "generate", long)
	both := "signing:\n  keys: {soon: {file: " + soon + "}, long: {file: " + long + "}}\n  rules:\n" +
		"  - {scope: '', key: soon, on: [push]}\n"
	s := start(t, "-config", config(t, both))
	s.push(t, newImage("keys 1"), "ns/app", "v1")
	s.push(t, newImage("keys 2"), "ns/app", "v2")
	s.stop(t)
	s = s.again(t, "-config", config(t, both+"  - {scope: '', key: long, on: [push]}\n"))
	s.push(t, newImage("keys 2"), "ns/app", "v2")
	s.push(t, newImage("keys 3"), "ns/app", "v3")
	runs(t, "keys", "trust", strings.TrimSuffix(ci, ".key")+".asc", "-data", s.data)
	four, home := newImage("keys 4"), gpgHome(t, ci) // nobody signs what is not pushed
	c := gpgCommand(home, "--sign")
	c.Stdin = bytes.NewReader(claim(s.address+"/ns/app:v4", four.digest()))
	uploaded, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	s.upload(t, "ns/app", four.digest(), uploaded).want(t, 201)

	fingerprint := inspectKey(t, soon).fingerprint
	var answer struct {
		Keys []struct {
			Fingerprint, Spent, Ends string
			Own, Admitted            bool
			References, Alone        int
		}
	}
	if err := json.Unmarshal([]byte(s.cli(t, 0, "keys", "-json")), &answer); err != nil {
		t.Fatal(err)
	}
	if k := answer.Keys[1]; k.Fingerprint != inspectKey(t, ci).fingerprint || k.Own || !k.Admitted || k.References != 1 || k.Alone != 1 || k.Ends == "" {
		t.Errorf("behind it is %+v, want the key of CI, with one tag that is its alone", k)
	}
	if len(answer.Keys) != 3 || answer.Keys[0].Fingerprint != fingerprint || answer.Keys[0].References != 3 || answer.Keys[0].Alone != 1 || !answer.Keys[0].Own || answer.Keys[0].Ends == "" {
		t.Errorf("the calendar is %+v, want %s on top, with 3 tags and one alone", answer.Keys, fingerprint)
	}
	if out := s.cli(t, 0, "keys"); !strings.Contains(out, "ALONE") || strings.Index(out, fingerprint) > strings.Index(out, inspectKey(t, long).fingerprint) {
		t.Errorf("the table:\n%s", out)
	}
	s.stop(t)
	s = s.again(t, "-config", config(t, both)) // it looks at the start, and then every hour
	if _, err := s.stderr.await(s.gone, regexp.MustCompile(`a key is about to expire.*"days":19`)); err != nil {
		t.Errorf("no warning: %v", err)
	}
	if _, err := s.stderr.await(s.gone, regexp.MustCompile(`a key is about to expire.*"own":false.*"days":59`)); err != nil {
		t.Errorf("no warning of an uploader's key: %v", err)
	}
	eventually(t, "the metrics of keys", func() bool {
		metrics := ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body
		return strings.Contains(metrics, "countersign_key_usable{fingerprint=\""+fingerprint+"\",use=\"own\"} 1") &&
			strings.Contains(metrics, "countersign_key_end_timestamp_seconds{fingerprint=\""+fingerprint+"\"") &&
			strings.Contains(metrics, "countersign_key_references{fingerprint=\""+inspectKey(t, ci).fingerprint+"\",use=\"admitted\"} 1") &&
			strings.Contains(metrics, "countersign_key_references{fingerprint=\""+fingerprint+"\",use=\"own\"} 1")
	})
}

// TestExportKeys writes what every client reads: one binary keyring, and one armored block a file.
func TestExportKeys(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new")
	together := filepath.Join(from, "people.asc") // of which clients without gpgme read the first alone
	write(t, together, string(built.keys["alice"])+string(built.keys["bob"]))
	runs(t, "keys", "generate", filepath.Join(from, "release.key"))
	out := runs(t, "keys", "export", "-o", to, together, filepath.Join(from, "release.asc"))
	all := []string{built.fingerprints["alice"], built.fingerprints["bob"], inspectKey(t, filepath.Join(from, "release.asc")).fingerprint}
	listed := string(gpg(t, []byte(read(t, filepath.Join(to, "countersign.gpg"))), "--with-colons", "--show-keys"))
	for _, fingerprint := range all {
		file := filepath.Join(to, fingerprint+".asc")
		if content := read(t, file); strings.Count(content, "-----BEGIN PGP PUBLIC KEY BLOCK-----") != 1 || inspectKey(t, file).fingerprint != fingerprint {
			t.Errorf("%s is not that key in one block:\n%s", file, content)
		}
		if !strings.Contains(listed, fingerprint) || !strings.Contains(out, fingerprint) {
			t.Errorf("key %s is missing in the keyring:\n%s\nor in what is said:\n%s", fingerprint, listed, out)
		}
	}
	if got := read(t, filepath.Join(to, "countersign.gpg")); strings.Contains(got, "BEGIN") || strings.Count(listed, "\npub:")+1 < len(all) {
		t.Errorf("the keyring is not binary, or lacks keys:\n%s", listed)
	}
	// A server publishes its own over HTTP, and those that its policies of nodes name.
	policy := filepath.Join(from, "policy.json")
	write(t, policy, `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example.test":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"`+filepath.Join(from, "release.asc")+`"}]}}}`)
	s := start(t, "-config", config(t, "nodes: {production: "+policy+"}\n"))
	published := filepath.Join(from, "published")
	out = runs(t, "keys", "export", "-server", "http://"+s.address, "-o", published)
	listed = string(gpg(t, []byte(read(t, filepath.Join(published, "countersign.gpg"))), "--with-colons", "--show-keys"))
	for _, fingerprint := range []string{inspectKey(t, s.serverKey()).fingerprint, all[2]} {
		if !strings.Contains(listed, fingerprint) || !strings.Contains(out, fingerprint) || inspectKey(t, filepath.Join(published, fingerprint+".asc")).fingerprint != fingerprint {
			t.Errorf("key %s is missing in what the server publishes:\n%s\n%s", fingerprint, listed, out)
		}
	}
	for name, args := range map[string][]string{
		"private key": {"-o", to, filepath.Join(from, "release.key")}, "-o is missing": {together}, "no public key": {"-o", to, "-data", from}, "127.0.0.1:1": {"-o", to, "-server", "http://127.0.0.1:1"},
	} {
		if out := refusal(t, append([]string{"keys", "export"}, args...)...); !strings.Contains(out, name) {
			t.Errorf("want a sentence with %q: %s", name, out)
		}
	}
}
