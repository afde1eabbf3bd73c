package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	eventually(t, "the listener is closed", func() bool { return !dials(s.address) })
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

// TestSecondSignal ends a server at once that somebody does not want to wait for.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := start(t)
	begun := s.do(t, "POST", "/v2/ns/app/blobs/uploads/", "").want(t, 202)
	s.begin(t, "PUT", s.where(t, begun, "digest="+newImage("never").digest()), strings.Repeat("x", 1000))
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listener is closed", func() bool { return !dials(s.address) })
	if s.gone.Err() != nil {
		t.Fatal("the server ended with a request in flight")
	}
	eventually(t, "a second signal ends the server", func() bool {
		_ = s.command.Process.Signal(syscall.SIGTERM) // until it counts; at last there is no process
		return s.gone.Err() != nil
	})
	s.ended(t, -1)
}

// TestHangup reloads a server that still waits for its database: it goes on, and reads its files again as
// soon as it has any.
func TestHangup(t *testing.T) {
	t.Parallel()
	database, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = database.Close() })
	if err := database.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s := launch(t, filepath.Join(t.TempDir(), "data"), func(*exec.Cmd) {}, "-sign-on", "none",
		"-config", config(t, fmt.Sprintf("store: {database: 'postgres://u@%s/x?sslmode=disable', timeout: 2s}\n", database.Addr())))
	silent, err := database.Accept()
	if err != nil {
		t.Fatalf("the server does not ask its database: %v", err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	if err := s.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.locate(t)
	if n := strings.Count(s.stderr.String(), "policy read"); n != 2 {
		t.Errorf("the policy was read %d times, want at the start and for SIGHUP:\n%s", n, s.stderr)
	}
}

func dials(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// A slow request has sent all but the last half of its body, and somebody reads that.
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
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", method, path, s.address, len(body))
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	got := make([]byte, len(proceed))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != proceed {
		t.Fatalf("%s %s: %q, %v, want %q", method, path, got, err, proceed)
	}
	if _, err := io.WriteString(conn, body[:len(body)/2]); err != nil {
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

// eventually asks again until the answer is yes, the more rarely the longer that takes: who asks takes
// the processors from who answers.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, yes)
}

func eventuallyWithin(t testing.TB, within time.Duration, what string, yes func() bool) {
	t.Helper()
	await(t, within, 500*time.Millisecond, what, yes)
}

// amid asks often, for what does not stay so.
func amid(t testing.TB, what string, yes func() bool) {
	t.Helper()
	await(t, patience, 0, what, yes)
}

// await waits between two questions for an eighth of the time that it has asked, for slowest at most.
func await(t testing.TB, within, slowest time.Duration, what string, yes func() bool) {
	t.Helper()
	began := time.Now()
	for late := began.Add(within); !yes(); {
		if time.Now().After(late) {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(max(10*time.Millisecond, min(time.Since(began)/8, slowest)))
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
