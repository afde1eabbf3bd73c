package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const mark = "countersign (made without access control)"

// A keyInfo is what gpg says of the first key of a file.
type keyInfo struct {
	kind, bits, algorithm string
	fingerprint, user     string
}

var (
	primaryLine = regexp.MustCompile(`(?m)^(pub|sec):[^:]*:(\d+):(\d+):`)
	userLine    = regexp.MustCompile(`(?m)^uid:(?:[^:]*:){8}([^:]*):`)
)

func inspectKey(t testing.TB, path string) keyInfo {
	t.Helper()
	key := []byte(read(t, path))
	out := gpg(t, key, "--with-colons", "--show-keys")
	primary, user := primaryLine.FindSubmatch(out), userLine.FindSubmatch(out)
	if primary == nil || user == nil {
		t.Fatalf("%s is no key with a user id:\n%s", path, out)
	}
	return keyInfo{string(primary[1]), string(primary[2]), string(primary[3]), fingerprint(t, key), string(user[1])}
}

// TestFirstStart asserts what the first start makes, and that the second uses it.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := start(t)
	private, public := filepath.Join(s.data, "keys", "server.key"), s.serverKey()
	info, err := os.Stat(private)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the private key has mode %04o, want 0600", got)
	}
	got := inspectKey(t, public)
	if got.kind != "pub" || got.bits != "3072" && got.bits != "4096" || got.algorithm != "1" {
		t.Errorf("the public key is %+v, want pub, 3072 bits or more, algorithm 1 (RSA)", got)
	}
	if got.user != mark {
		t.Errorf("the key is called %q, want %q", got.user, mark)
	}
	if other := inspectKey(t, private); other.kind != "sec" || other.fingerprint != got.fingerprint {
		t.Errorf("the private key is %+v, want sec with the fingerprint %s", other, got.fingerprint)
	}
	for _, name := range []string{"trusted", "signatures/signatures.db", "registry"} {
		if _, err := os.Stat(filepath.Join(s.data, name)); err != nil {
			t.Errorf("what the first start makes: %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.data, "keys", ".*")); len(left) > 0 {
		t.Errorf("left beside the keys: %q", left)
	}
	before := read(t, private)
	s.stop(t)
	again := startIn(t, s.data)
	if read(t, private) != before || inspectKey(t, public).fingerprint != got.fingerprint {
		t.Error("the second start has another key")
	}
	// The public part is made again from the private one, whoever lost it.
	again.stop(t)
	if err := os.Remove(public); err != nil {
		t.Fatal(err)
	}
	startIn(t, s.data)
	if inspectKey(t, public).fingerprint != got.fingerprint {
		t.Error("the public key was not made again from the private one")
	}
}

// TestTwoAtOnce starts processes together on a fresh directory: one serves, the others say why
// not, and there is one key.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	data := filepath.Join(t.TempDir(), "data")
	var all []*server
	for range 3 {
		all = append(all, launch(t, data, func(*exec.Cmd) {}))
	}
	var winner *server
	for _, s := range all {
		if _, err := s.stderr.await(s.gone, listening); err == nil {
			if winner != nil {
				t.Fatal("two processes serve one directory")
			}
			winner = s
			s.locate(t)
			continue
		}
		s.ended(t, 1)
		if got := s.stderr.String(); !strings.Contains(got, filepath.Join(data, "signatures")) {
			t.Errorf("the process that lost does not name the directory that another has: %s", got)
		}
	}
	if winner == nil {
		t.Fatal("no process serves")
	}
	i := newImage("two at once")
	winner.push(t, i, "ns/app", "v1")
	winner.wantSigned(t, "ns/app", i.digest(), "server "+winner.address+"/ns/app:v1")

	// One that comes later is told the same, and disturbs nothing.
	out := refusal(t, "serve", "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0")
	if !strings.Contains(out, data) || strings.Contains(out, "listening") {
		t.Errorf("a second process says %q, want one sentence that names %s", out, data)
	}
	winner.wantSigned(t, "ns/app", i.digest(), "server "+winner.address+"/ns/app:v1")
	if keys, err := filepath.Glob(filepath.Join(data, "keys", "*")); err != nil || len(keys) != 2 {
		t.Errorf("keys are %q, want server.asc and server.key", keys)
	}
}

// TestKeyFile refuses a private key that is not the server's alone, and one that is none.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stop(t)
	private := filepath.Join(s.data, "keys", "server.key")
	args := []string{"serve", "-data", s.data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
	for _, mode := range []os.FileMode{0o604, 0o622, 0o602, 0o644, 0o666} {
		if err := os.Chmod(private, mode); err != nil {
			t.Fatal(err)
		}
		if out := refusal(t, args...); !strings.Contains(out, private) || !strings.Contains(out, "hint:") {
			t.Errorf("with mode %04o: %s, want a sentence that names %s, and a hint", mode, out, private)
		}
	}
	if os.Getuid() == 0 {
		refusedOwner(t, private, args)
	}
	for _, mode := range []os.FileMode{0o400, 0o640, 0o600} {
		if err := os.Chmod(private, mode); err != nil {
			t.Fatal(err)
		}
		startIn(t, s.data).stop(t)
	}
	key := read(t, private)
	for name, content := range map[string]string{"nothing": "", "half": key[:len(key)/2], "the public part": read(t, s.serverKey())} {
		if err := os.WriteFile(private, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := refusal(t, args...); !strings.Contains(out, private) {
			t.Errorf("with %s for a key: %s, want a sentence that names %s", name, out, private)
		}
		if read(t, private) != content {
			t.Errorf("%s for a key was written over", name)
		}
	}
	if err := os.WriteFile(private, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	startIn(t, s.data)
}

// refusedOwner gives the key to somebody else, who could read and change it.
func refusedOwner(t *testing.T, private string, args []string) {
	t.Helper()
	if err := errors.Join(os.Chmod(private, 0o600), os.Chown(private, 12345, 0)); err != nil {
		t.Fatal(err)
	}
	if out := refusal(t, args...); !strings.Contains(out, private) || !strings.Contains(out, "12345") {
		t.Errorf("with a key of user 12345: %s, want a sentence that names %s and whose it is", out, private)
	}
	if err := os.Chown(private, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// TestKeyGone starts where signatures exist without their key: they are served, nothing is
// signed, no key is made, and the log says so. The key that comes back is used again.
func TestKeyGone(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	one, two := newImage("key gone"), newImage("pushed without a key")
	s.push(t, one, "ns/app", "v1")
	signed := []string{"server " + s.address + "/ns/app:v1"}
	s.wantSigned(t, "ns/app", one.digest(), signed...)
	s.stop(t)
	private := filepath.Join(s.data, "keys", "server.key")
	if err := os.Rename(private, private+".away"); err != nil {
		t.Fatal(err)
	}

	without := s.again(t)
	without.tells(t, `"level":"WARN"`, "server.key")
	without.wantSigned(t, "ns/app", one.digest(), signed...)
	without.push(t, two, "ns/app", "v2")
	without.wantSigned(t, "ns/app", two.digest())
	upload := s.address + "/ns/app:v2"
	without.upload(t, "ns/app", two.digest(), sign(t, "alice", upload, two.digest())).want(t, 201)
	without.wantSigned(t, "ns/app", two.digest(), "alice "+upload)
	if _, err := os.Stat(private); err == nil {
		t.Error("a key was made where signatures exist without theirs")
	}
	without.stop(t)

	if err := os.Rename(private+".away", private); err != nil {
		t.Fatal(err)
	}
	with := without.again(t)
	with.push(t, two, "ns/app", "v2")
	with.wantSigned(t, "ns/app", two.digest(), "alice "+upload, "server "+upload)
}

// TestAdopt gives the key another name: the fingerprint stays, and with it what was signed.
func TestAdopt(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := start(t)
	i, j := newImage("adopt"), newImage("adopted")
	s.push(t, i, "ns/app", "v1")
	before := inspectKey(t, s.serverKey())
	s.stop(t)
	adopt := func(args ...string) string {
		t.Helper()
		out, err := command(t.Context(), append([]string{"keys", "adopt", "-data", s.data}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("keys adopt: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := adopt(); !strings.Contains(out, before.fingerprint) {
		t.Errorf("keys adopt does not say which key it was, %s: %s", before.fingerprint, out)
	}
	private := filepath.Join(s.data, "keys", "server.key")
	for _, path := range []string{s.serverKey(), private} {
		got := inspectKey(t, path)
		if got.fingerprint != before.fingerprint || got.bits != before.bits {
			t.Errorf("%s is %+v now, and was %+v", path, got, before)
		}
		if strings.Contains(got.user, "without access control") || strings.Contains(string(gpg(t, []byte(read(t, path)), "--with-colons", "--show-keys")), "without access control") {
			t.Errorf("%s still carries the mark", path)
		}
	}
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key: %v, %v; want mode 0600", info.Mode(), err)
	}
	again := s.again(t)
	again.push(t, j, "ns/app", "v2")
	again.wantSigned(t, "ns/app", i.digest(), "server "+s.address+"/ns/app:v1")
	again.wantSigned(t, "ns/app", j.digest(), "server "+s.address+"/ns/app:v2")
	again.stop(t)
	adopt("-user-id", "Example release <release@example.test>")
	if got := inspectKey(t, s.serverKey()); got.user != "Example release <release@example.test>" || got.fingerprint != before.fingerprint {
		t.Errorf("the key is %+v, want the name that was given and the same fingerprint", got)
	}
	if out := refusal(t, "keys", "adopt", "-data", t.TempDir()); !strings.Contains(out, "server.key") || !strings.Contains(out, "hint:") {
		t.Errorf("where there is no key: %s, want a sentence that names it, and a hint", out)
	}
}
