package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
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

// invoke starts "countersign serve" with these arguments and no others, and with these settings
// in its environment.
func invoke(t *testing.T, data string, environment []string, args ...string) *server {
	t.Helper()
	s := launch(t, data, func(c *exec.Cmd) {
		c.Args = append([]string{c.Args[0], "serve"}, args...)
		c.Env = append(c.Env, environment...)
	})
	s.locate(t)
	return s
}

// TestSettings moves things by flag, by environment and by file; a flag wins over the environment
// and that over the file.
func TestSettings(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	ports := freePorts(t, 4)
	anywhere := []string{"-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
	for name, test := range map[string]struct {
		flags, environment []string // DATA stands for the directory that is wanted, OTHER for one that is not
		file               string
		host               string
		listen, debug      string
		trigger            bool // whether a push is signed
	}{
		"flags": {
			flags: []string{"-data", "DATA", "-listen", ports[0], "-debug-listen", ports[1], "-host", "flag.example.test", "-sign-on", "push"},
			host:  "flag.example.test", listen: ports[0], debug: ports[1], trigger: true,
		},
		"environment": {
			environment: []string{"COUNTERSIGN_DATA=DATA", "COUNTERSIGN_LISTEN=" + ports[2], "COUNTERSIGN_DEBUG_LISTEN=" + ports[3], "COUNTERSIGN_HOST=env.example.test:5000,b.example.test"},
			host:        "env.example.test:5000", listen: ports[2], debug: ports[3], trigger: true,
		},
		"environment, for what a push does": {
			flags: append([]string{"-data", "DATA"}, anywhere...), environment: []string{"COUNTERSIGN_SIGN_ON=none"},
		},
		"file": {
			flags: anywhere, file: "data: 'DATA'\nhosts: [file.example.test]\n", environment: []string{"COUNTERSIGN_CONFIG=FILE"},
			host: "file.example.test", trigger: true,
		},
		"environment over file": {
			flags: anywhere, file: "data: 'OTHER'\nhosts: [file.example.test]\n", environment: []string{"COUNTERSIGN_CONFIG=FILE", "COUNTERSIGN_DATA=DATA", "COUNTERSIGN_HOST=env.example.test"},
			host: "env.example.test", trigger: true,
		},
		"flag over environment and file": {
			flags: append([]string{"-config", "FILE", "-data", "DATA", "-host", "flag.example.test", "-sign-on", "push"}, anywhere...),
			file:  "data: 'OTHER'\nlisten: 127.0.0.1:1\nhosts: [file.example.test]\n",
			environment: []string{"COUNTERSIGN_CONFIG=/does/not/exist", "COUNTERSIGN_DATA=OTHER", "COUNTERSIGN_HOST=env.example.test",
				"COUNTERSIGN_SIGN_ON=none", "COUNTERSIGN_LISTEN=127.0.0.1:1"},
			host: "flag.example.test", trigger: true,
		},
		"file, for what lies elsewhere": {
			flags: append([]string{"-config", "FILE", "-data", "DATA"}, anywhere...),
			file:  "registry: {embedded: 'DATA/r'}\nstore: {directory: 'DATA/s'}\nadmission: {trusted: 'DATA/t'}\nhosts: [h.example.test]\n",
			host:  "h.example.test", trigger: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data, other := filepath.Join(dir, "data"), filepath.Join(dir, "other")
			place := strings.NewReplacer("DATA", data, "OTHER", other, "FILE", filepath.Join(dir, "settings.yaml"))
			write(t, filepath.Join(dir, "settings.yaml"), place.Replace(test.file))
			s := invoke(t, data, replaceAll(place, test.environment), replaceAll(place, test.flags)...)
			if test.listen != "" && (s.address != test.listen || s.debug != test.debug) {
				t.Errorf("listens at %s and %s, want %s and %s", s.address, s.debug, test.listen, test.debug)
			}
			if _, err := os.Stat(other); err == nil {
				t.Errorf("%s was made, and another directory is named by what wins", other)
			}
			i := newImage(name)
			s.push(t, i, "ns/app", "v1")
			var want []string
			if test.trigger {
				want = []string{"server " + test.host + "/ns/app:v1"}
			}
			s.wantSigned(t, "ns/app", i.digest(), want...)
		})
	}
}

// replaceAll also keeps COUNTERSIGN_DATA, in which DATA is no place.
func replaceAll(r *strings.Replacer, words []string) []string {
	out := make([]string, len(words))
	for n, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if ok {
			out[n] = name + "=" + r.Replace(value)
		} else {
			out[n] = r.Replace(word)
		}
	}
	return out
}

// freePorts are addresses that were free a moment ago.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all at once at the end, so that they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// TestRefusedStarts asserts that what is wrong stops the start with a sentence about it, and
// that nothing was made.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // behind the subtests, which a defer is not
	port := freePorts(t, 1)[0]
	_, number, _ := net.SplitHostPort(port)
	for name, test := range map[string]struct {
		args  []string
		file  string
		words []string
	}{
		"one port twice":                {args: []string{"-listen", port, "-debug-listen", port}, words: []string{number}},
		"one port at two addresses":     {args: []string{"-listen", port, "-debug-listen", "127.0.0.2:" + number}, words: []string{number}},
		"every address":                 {args: []string{"-listen", "0.0.0.0:0"}, words: []string{"0.0.0.0:0", "hint:"}},
		"every address, in IPv6":        {args: []string{"-listen", "[::]:0"}, words: []string{"[::]:0", "hint:"}},
		"every address, unsaid":         {args: []string{"-listen", ":0"}, words: []string{":0", "hint:"}},
		"an address of others":          {args: []string{"-listen", "192.0.2.1:0"}, words: []string{"192.0.2.1:0", "hint:"}},
		"an address in use":             {args: []string{"-listen", taken.Addr().String()}, words: []string{taken.Addr().String(), "in use", "hint:"}},
		"a debug address in use":        {args: []string{"-debug-listen", taken.Addr().String()}, words: []string{taken.Addr().String(), "in use", "hint:"}},
		"profiles for everybody":        {args: []string{"-pprof", "-debug-listen", "0.0.0.0:0"}, words: []string{"pprof", "hint:"}},
		"no address":                    {args: []string{"-listen", "nonsense"}, words: []string{"nonsense"}},
		"no host":                       {args: []string{"-host", "https://registry.example.test"}, words: []string{"https://registry.example.test"}},
		"a host with a path":            {args: []string{"-host", "registry.example.test/ns"}, words: []string{"registry.example.test/ns"}},
		"a host twice":                  {args: []string{"-host", "a.example.test,a.example.test"}, words: []string{"a.example.test"}},
		"a trigger that is none":        {args: []string{"-sign-on", "pull"}, words: []string{"pull"}},
		"a flag that is none":           {args: []string{"-lisen", port}, words: []string{"lisen", "hint:"}},
		"an argument":                   {args: []string{"now"}, words: []string{"now"}},
		"no such file":                  {args: []string{"-config", "/does/not/exist.yaml"}, words: []string{"/does/not/exist.yaml"}},
		"an unknown field":              {file: "advertize: true\n", words: []string{"advertize", "line 1"}},
		"an unknown field, deeper":      {file: "advertise: true\nadmission:\n  trust: /x\n", words: []string{"trust", "line 3"}},
		"a field twice":                 {file: "advertise: true\nadvertise: false\n", words: []string{"advertise"}},
		"a second document":             {file: "advertise: true\n---\nhosts: []\n", words: []string{"document"}},
		"a value of another type":       {file: "advertise: perhaps\n", words: []string{"perhaps"}},
		"clients that are none":         {file: "admission: {clients: some}\n", words: []string{"admission.clients", "some"}},
		"a foreign that is none":        {file: "admission: {foreign: keep}\n", words: []string{"admission.foreign", "keep"}},
		"limits that clients fail at":   {file: "limits: {all: 128}\n", words: []string{"limits.all", "128"}},
		"a host that is none, in files": {file: "hosts: ['h.example.test/x']\n", words: []string{"h.example.test/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			args := []string{"serve", "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}
			if test.file != "" {
				args = append(args, "-config", config(t, test.file))
			}
			out := refusal(t, append(args, test.args...)...)
			for _, word := range test.words {
				if !strings.Contains(out, word) {
					t.Errorf("it does not say %q: %s", word, out)
				}
			}
			if strings.Contains(out, "goroutine ") || strings.Count(strings.TrimSpace(out), "\n") > 3 {
				t.Errorf("more than a sentence and a hint:\n%s", out)
			}
			if _, err := os.Stat(filepath.Join(data, "keys")); err == nil {
				t.Error("a key was made")
			}
		})
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
	if err := os.Chmod(private, 0o600); err != nil {
		t.Fatal(err)
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
	if log := without.stderr.String(); !strings.Contains(log, `"level":"WARN"`) || !strings.Contains(log, "server.key") {
		t.Errorf("the log does not warn about keys/server.key: %s", log)
	}
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

// TestDrain sends SIGTERM while a signature and a layer are on their way: both are answered, what
// came before the end is durable, nobody else is let in, and the exit code is 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	i, layer := newImage("drain"), strings.Repeat("slow", 1000)
	reference := s.address + "/ns/app:v1"
	body := wire(t, entry{2, i.digest() + "@0123456789abcdef0123456789abcdef", "atomic", sign(t, "alice", reference, i.digest())})
	signature := s.begin(t, "PUT", extension("ns/app", i.digest()), body)
	begun := s.do(t, "POST", "/v2/ns/app/blobs/uploads/", "").want(t, 202)
	blob := s.begin(t, "PUT", s.where(t, begun, "digest="+digestOf([]byte(layer))), layer)
	s.ready(t, 200)

	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	s.ready(t, 503) // health is answered to the last
	if s.gone.Err() != nil {
		t.Fatal("the server ended with requests in flight")
	}
	signature.end(t).want(t, 201)
	blob.end(t).want(t, 201)
	s.ended(t, 0)

	again := s.again(t, "-sign-on", "none")
	again.wantSigned(t, "ns/app", i.digest(), "alice "+reference)
	again.do(t, "HEAD", "/v2/ns/app/blobs/"+digestOf([]byte(layer)), "").want(t, 200)
}

// A slow request has sent all but the last half of its body.
type slow struct {
	request, rest string
	conn          net.Conn
}

func (s *server) begin(t *testing.T, method, path, body string) slow {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", method, path, s.address, len(body))
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, head+body[:len(body)/2]); err != nil {
		t.Fatal(err)
	}
	return slow{head, body[len(body)/2:], conn}
}

// end sends the rest and reads the answer.
func (w slow) end(t *testing.T) answer {
	t.Helper()
	if _, err := io.WriteString(w.conn, w.rest); err != nil {
		t.Fatal(err)
	}
	return receive(t, w.request, w.conn)
}

func (s *server) ready(t *testing.T, status int) {
	t.Helper()
	ask(t, s.debug, "GET", "/readyz", "").want(t, status)
}

// eventually asks again until the answer is yes.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(patience); !yes(); {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestDebugListener keeps what operators look at apart from what clients reach.
func TestDebugListener(t *testing.T) {
	t.Parallel()
	s, profiled := start(t), start(t, "-pprof")
	ask(t, s.debug, "GET", "/healthz", "").want(t, 200)
	if a := ask(t, s.debug, "GET", "/readyz", "").want(t, 200); !strings.Contains(a.body, "store") {
		t.Errorf("/readyz has no word about the store: %s", a.body)
	}
	ask(t, s.debug, "GET", "/metrics", "").want(t, 200)
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline"} {
		s.get(t, path).want(t, 404)
		profiled.get(t, path).want(t, 404)
		ask(t, s.debug, "GET", path, "", "Host: evil.example.test").want(t, 421)
		ask(t, s.debug, "GET", path, "", "Host: localhost").within(t, 200, 404)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
		ask(t, s.debug, "GET", path, "").refused(t, 404, "NAME_INVALID")
		ask(t, profiled.debug, "GET", path, "").want(t, 200)
	}
	for _, path := range []string{"/v2/", extension("ns/app", newImage("").digest()), "/"} {
		ask(t, s.debug, "GET", path, "").want(t, 404)
	}
	ask(t, s.debug, "POST", "/metrics", "").refused(t, 405, "UNSUPPORTED")
}

// ctrlC is what a person types.
const ctrlC = "\x03"

// TestTerminal starts the server as a person does, and does what it prints.
func TestTerminal(t *testing.T) {
	t.Parallel()
	need(t, "script", "skopeo", "gpg")
	data := filepath.Join(t.TempDir(), "data")
	s := &server{data: data, stdout: newOutput(), stderr: newOutput()}
	c := exec.Command("script", "--quiet", "--return", "--command",
		fmt.Sprintf("exec %s serve -data %s -listen 127.0.0.1:0 -debug-listen 127.0.0.1:0", built.program, data), "/dev/null")
	c.Env = command(t.Context()).Env
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = s.stderr, s.stderr // one terminal
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	s.command, s.gone = c, gone
	go func() {
		defer ended()
		_ = c.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-gone.Done()
	})
	s.locate(t)
	if _, err := s.stderr.await(gone, regexp.MustCompile(`(?s)--sign-by.*\.asc`)); err != nil {
		t.Fatalf("%v; the terminal shows\n%s", err, s.stderr)
	}
	shown := strings.ReplaceAll(s.stderr.String(), "\r", "")
	fingerprint := inspectKey(t, s.serverKey()).fingerprint
	for _, words := range []string{s.address + "/ns/app:v1", fingerprint, "skopeo copy", "policy.json", filepath.Join(data, "trusted"), `level=INFO`} {
		if !strings.Contains(shown, words) {
			t.Errorf("the terminal does not show %q:\n%s", words, shown)
		}
	}
	i := newImage("terminal")
	s.push(t, i, "ns/app", "v1")
	n := newNode(t)
	for _, line := range strings.Split(shown, "\n") {
		if paste := strings.TrimSpace(line); strings.HasPrefix(paste, "echo ") || strings.HasPrefix(paste, "skopeo --policy ") {
			works(t)(n.run(t, "sh", "-c", "cd "+n.dir+" && "+paste))
		}
	}
	if manifest := read(t, filepath.Join(n.dir, "app", "manifest.json")); !bytes.Equal([]byte(manifest), i.manifest) {
		t.Errorf("what the commands pulled is %s", manifest)
	}
	if _, err := io.WriteString(stdin, ctrlC); err != nil {
		t.Fatal(err)
	}
	s.ended(t, 0)
	if found := distress.FindString(s.stderr.String()); found != "" {
		t.Errorf("the terminal shows %q", found)
	}
}

// TestHelp reads as a person does who does not know the program yet.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"help"}, {"-h"}, {"serve", "-h"}, {"keys", "-h"}, {"keys", "adopt", "-h"}, {"version"}} {
		out, err := command(t.Context(), args...).Output()
		if err != nil || len(out) == 0 {
			t.Errorf("%v: %v, %d bytes on standard output; want help and exit code 0", args, err, len(out))
		}
	}
	for _, args := range [][]string{{}, {"sevre"}, {"keys"}, {"keys", "adpot"}, {"serve", "-nonsense"}} {
		if out := refusal(t, args...); !strings.Contains(out, "hint:") && !strings.Contains(out, "usage:") {
			t.Errorf("%v: no hint: %s", args, out)
		}
	}
}
