package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// explain runs countersign verify and returns what it shows and its exit code.
func (s *server) explain(t testing.TB, args ...string) (string, int) {
	t.Helper()
	c := command(t.Context(), append([]string{"verify", "-server", "http://" + s.address}, args...)...)
	out, err := c.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// explains asserts the exit code, and words of what a person sees.
func (s *server) explains(t testing.TB, code int, args []string, words ...string) {
	t.Helper()
	out, got := s.explain(t, args...)
	if got != code {
		t.Errorf("verify %v: exit code %d, want %d\n%s", args, got, code, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("verify %v: what the person sees lacks %q\n%s", args, word, out)
		}
	}
}

// signedByFile is a policy file that accepts what a key signed below a scope.
func signedByFile(t testing.TB, scope, keyPath string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	write(t, path, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, scope, keyPath))
	return path
}

func keyFile(t testing.TB, person string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), person+".asc")
	write(t, path, string(publicKey(t, person)))
	return path
}

func TestVerify(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	i := newImage("verified")
	s.push(t, i, "ns/app", "v1")
	reference := s.address + "/ns/app:v1"
	alice := signedByFile(t, s.address, keyFile(t, "alice"))

	s.explains(t, 0, []string{reference}, reference+" is accepted", "profile default", i.digest(), "signature-1")
	s.explains(t, 0, []string{s.address + "/ns/app@" + i.digest()}, "is accepted")
	s.explains(t, 1, []string{"-policy", alice, reference}, "is rejected by your policy", "key is not known", "advice: none of the keys that signed")
	s.explains(t, 1, []string{s.address + "/ns/app@" + digestOf([]byte("nobody has it"))}, "is rejected", "advice:", "has no signature")
	local := strings.Replace(s.address, "127.0.0.1", "localhost", 1)
	s.explains(t, 1, []string{local + "/ns/app:v1"}, "is rejected", "advice: it is signed as "+reference)

	s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v2", i.digest())).want(t, 201)
	s.explains(t, 1, []string{"-policy", alice, reference}, "advice: it is signed as "+s.address+"/ns/app:v2")
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	s.explains(t, 0, []string{"-policy", alice, reference}, "is accepted by your policy")

	// What cannot be told is neither.
	s.explains(t, 2, []string{s.address + "/ns/app:none"}, "ns/app:none")
	s.explains(t, 2, []string{"registry.example.com/ns/app:v1"}, "registry.example.com/ns/app:v1", "digest")
	s.explains(t, 2, []string{"UPPER"}, "UPPER")
	s.explains(t, 2, []string{"-profile", "production", reference}, `"production"`, "default")
	s.explains(t, 2, []string{"-policy", "/nowhere", reference}, "/nowhere")
	s.explains(t, 2, []string{"-server", "http://127.0.0.1:1", reference}, "hint:")
	s.explains(t, 2, nil, "REFERENCE")
	bad := filepath.Join(t.TempDir(), "bad.json")
	write(t, bad, `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyFile":"x"}]}`)
	s.explains(t, 2, []string{"-policy", bad, reference}, bad, "default[0]")

	out, _ := s.explain(t, "-json", reference)
	var verdict struct {
		Accepted  bool
		Profile   string
		Manifests []struct {
			Digest     string
			Signatures []struct{ Fingerprint, Reference string }
		}
	}
	if err := json.Unmarshal([]byte(out), &verdict); err != nil || !verdict.Accepted || verdict.Profile != "default" ||
		len(verdict.Manifests) != 1 || verdict.Manifests[0].Digest != i.digest() || len(verdict.Manifests[0].Signatures) != 3 {
		t.Errorf("-json: %v: %s", err, out)
	}
}

// A list is accepted if every instance is that a node could choose; the one that is not is named.
func TestVerifyList(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	index := newIndex("verified list ", "amd64", "arm64")
	s.push(t, index, "ns/list", "v1")
	reference, alice := s.address+"/ns/list:v1", signedByFile(t, s.address, keyFile(t, "alice"))
	upload := func(digest string) {
		t.Helper()
		s.upload(t, "ns/list", digest, sign(t, "alice", reference, digest)).want(t, 201)
	}
	upload(index.digest())
	upload(index.children[0].digest())
	s.explains(t, 1, []string{"-policy", alice, reference}, "is rejected", "(linux/amd64) is accepted", "(linux/arm64) is rejected", "(the list) is accepted", "advice: linux/arm64, "+index.children[1].digest())
	upload(index.children[1].digest())
	s.explains(t, 0, []string{"-policy", alice, reference}, reference+" is accepted", "(linux/arm64) is accepted", "(unknown/unknown) is rejected")
}

// The API takes no path to a file of the server's, and no more than it can read.
func TestVerifyAPI(t *testing.T) {
	t.Parallel()
	s := start(t)
	const path = "/api/v1/verify"
	s.do(t, "GET", path, "").refused(t, 405, "UNSUPPORTED")
	for name, test := range map[string]struct{ body, says string }{
		"nothing":         {``, "EOF"},
		"no reference":    {`{}`, "reference"},
		"unknown member":  {`{"reference":"x","keyring":"y"}`, "keyring"},
		"something more":  {`{"reference":"x"} {}`, "follows"},
		"two policies":    {`{"reference":"x","profile":"default","policy":{"default":[{"type":"reject"}]}}`, "leave one out"},
		"a path in it":    {`{"reference":"x","policy":{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/etc/shadow"}]}}`, "keyData"},
		"a broken policy": {`{"reference":"x","policy":{"default":[]}}`, "default"},
	} {
		t.Run(name, func(t *testing.T) {
			s.do(t, "POST", path, test.body).refused(t, 400, "UNSUPPORTED", test.says)
		})
	}
	s.do(t, "POST", path, `{"reference":"`+strings.Repeat("x", 1<<20)+`"}`).refused(t, 413, "SIGNATURE_INVALID", "1048576")
	s.do(t, "POST", path, `{"reference":"x"}`, "Origin: http://evil.example").refused(t, 403, "DENIED")
}

// Several profiles, and none named: the answer would be a guess.
func TestVerifyProfiles(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	anything := filepath.Join(t.TempDir(), "anything.json")
	write(t, anything, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	alice := signedByFile(t, "127.0.0.1", keyFile(t, "alice"))
	s := start(t, "-config", config(t, fmt.Sprintf("nodes: {test: %s, production: %s}\n", anything, alice)))
	s.push(t, newImage("profiles"), "ns/app", "v1")
	reference := s.address + "/ns/app:v1"
	s.explains(t, 2, []string{reference}, "production, test")
	s.explains(t, 0, []string{"-profile", "test", reference}, "is accepted by profile test")
	s.explains(t, 1, []string{"-profile", "production", reference}, "is rejected by profile production")
}

// TestAdmissionPolicy lets a policy file say who may sign what, and follows it.
func TestAdmissionPolicy(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	dir := t.TempDir()
	file, keys := filepath.Join(dir, "admission.json"), filepath.Join(dir, "keys.asc")
	write(t, keys, string(publicKey(t, "alice")))
	rules := func(scope string) string {
		return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, scope, keys)
	}
	const host = "registry.example.test"
	write(t, file, rules(host+"/prod"))
	s := start(t, "-host", host, "-config", config(t, "admission: {policy: "+file+"}\n"))
	digest := digestOf([]byte("a manifest"))
	try := func(person, repository string) answer {
		t.Helper()
		return s.upload(t, repository, digest, sign(t, person, host+"/"+repository+":v1", digest))
	}
	try("alice", "prod/app").want(t, 201)
	try("alice", "test/app").refused(t, 403, "DENIED", "rejects everything")
	try("bob", "prod/app").refused(t, 403, "DENIED", fingerprintOf(t, "bob"), "admission policy")

	write(t, keys, string(publicKey(t, "alice"))+string(publicKey(t, "bob"))) // two armored blocks
	try("bob", "prod/app").want(t, 201)

	write(t, file, "{")
	try("carol", "prod/app").refused(t, 403, "DENIED", fingerprintOf(t, "carol"))
	try("bob", "prod/other").want(t, 201) // what was read before is in force
	current := func() float64 {
		all, _ := s.scrape(t)
		return all.sum("countersign_policy_current", `policy="admission"`)
	}
	if got := current(); got != 0 {
		t.Errorf("countersign_policy_current is %v while the file does not read, want 0", got)
	}
	write(t, file, rules(host+"/test"))
	try("alice", "prod/late").refused(t, 403, "DENIED")
	try("alice", "test/app").want(t, 201)
	if got := current(); got != 1 {
		t.Errorf("countersign_policy_current is %v, want 1", got)
	}

	before := strings.Count(s.stderr.String(), "policy read")
	if err := s.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP reads the policy again", func() bool { return strings.Count(s.stderr.String(), "policy read") > before })
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	try("alice", "test/more").want(t, 201)
	if got := current(); got != 0 {
		t.Errorf("countersign_policy_current is %v while everybody may write the file, want 0", got)
	}
}

// TestBrokenKeyOfAPolicy breaks a key file that a policy names: the start is refused and says which
// file it is, and a server that runs goes on with what it has read.
func TestBrokenKeyOfAPolicy(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	const host = "registry.example.test"
	keys := keyFile(t, "alice")
	file := signedByFile(t, host, keys)
	settings := config(t, "admission: {policy: "+file+"}\n")
	s := start(t, "-host", host, "-sign-on", "none", "-config", settings)
	n := 0
	try := func(person string) answer {
		t.Helper()
		n++
		digest := digestOf(fmt.Append(nil, n))
		return s.upload(t, "ns/app", digest, sign(t, person, host+"/ns/app:v1", digest))
	}
	try("alice").want(t, 201)
	for name, test := range map[string]struct {
		content string
		mode    os.FileMode // 0: there is none
		says    string
	}{
		"no key":        {"no key", 0o644, "it is not OpenPGP"},
		"cut":           {string(publicKey(t, "alice")[:700]), 0o644, "does not read"},
		"empty":         {"", 0o644, "there is no key in it"},
		"for everybody": {string(publicKey(t, "bob")), 0o666, "chmod o-w"},
		"gone":          {"", 0, "no such file"},
	} {
		if err := os.Remove(keys); err != nil {
			t.Fatal(err)
		}
		if test.mode != 0 {
			write(t, keys, test.content)
			if err := os.Chmod(keys, test.mode); err != nil {
				t.Fatal(err)
			}
		}
		before := len(s.stderr.String())
		try("bob").refused(t, 403, "DENIED", fingerprintOf(t, "bob"))
		try("alice").want(t, 201)
		out := refusal(t, "serve", "-data", filepath.Join(t.TempDir(), "data"), "-listen", "127.0.0.1:0", "-host", host, "-config", settings)
		eventually(t, name+": the log has a line about it", func() bool { return strings.Contains(s.stderr.String()[before:], test.says) })
		for where, said := range map[string]string{"the log": s.stderr.String()[before:], "the refusal to start": out} {
			if !strings.Contains(said, file) || !strings.Contains(said, keys) || !strings.Contains(said, test.says) {
				t.Errorf("%s: %s does not name %s, %s and %q:\n%s", name, where, file, keys, test.says, tail(said, 2000))
			}
		}
		write(t, keys, string(publicKey(t, "alice"))) // mended
		if err := os.Chmod(keys, 0o644); err != nil {
			t.Fatal(err)
		}
		try("alice").want(t, 201)
	}
}
