package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for the server. It is long because the race detector and two shared
// cores are slow; nothing waits that long unless it fails.
const patience = 3 * time.Minute

// listening is the line that says where the server is, in JSON or, on a terminal, in text.
var listening = regexp.MustCompile(`"?msg"?[=:]"?listening.*\n`)

var (
	addressOf = regexp.MustCompile(`"?\baddress"?[=:]"?([^\s",]+)`)
	debugOf   = regexp.MustCompile(`"?\bdebug"?[=:]"?([^\s",]+)`)
)

// distress is what no log of ours may contain, whatever a client does.
var distress = regexp.MustCompile(`panic|DATA RACE|fatal error:|goroutine \d+ \[`)

// A server is one running binary.
type server struct {
	data    string
	address string // host:port, as it stands in signatures
	debug   string
	command *exec.Cmd
	stdout  *output
	stderr  *output
	gone    context.Context // done when the process has ended

	credentials string // the Authorization that do sends, if any
}

// as is the same server, to which do sends these credentials.
func (s *server) as(authorization string) *server {
	other := *s
	other.credentials = authorization
	return &other
}

// start starts a server in a fresh directory; flags come behind the harness's own and win.
func start(t testing.TB, flags ...string) *server {
	t.Helper()
	return startIn(t, filepath.Join(t.TempDir(), "data"), flags...)
}

// startIn starts a server in a directory that may have been another's.
func startIn(t testing.TB, data string, flags ...string) *server {
	t.Helper()
	s := launch(t, data, func(*exec.Cmd) {}, flags...)
	s.locate(t)
	return s
}

// again starts a stopped server again: same directory, same address.
func (s *server) again(t testing.TB, flags ...string) *server {
	t.Helper()
	return startIn(t, s.data, append([]string{"-listen", s.address}, flags...)...)
}

// launch runs "countersign serve" and does not wait for anything.
func launch(t testing.TB, data string, adjust func(*exec.Cmd), flags ...string) *server {
	t.Helper()
	s := &server{data: data, stdout: newOutput(), stderr: newOutput()}
	s.command = command(context.Background(), append([]string{
		"serve", "-data", data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0",
	}, flags...)...)
	s.command.Stdout, s.command.Stderr = s.stdout, s.stderr
	adjust(s.command)
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	s.gone = gone
	go func() {
		defer ended()
		_ = s.command.Wait() // the exit code is in ProcessState; who expects one looks there
	}()
	t.Cleanup(func() { s.finish(t) })
	return s
}

// command is the binary with these arguments, and without settings of whoever runs the tests.
func command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, built.program, args...)
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "COUNTERSIGN_") {
			c.Env = append(c.Env, pair)
		}
	}
	c.Env = append(c.Env, "GORACE=atexit_sleep_ms=0") // a second at each exit; what races tells at once
	return c
}

// locate waits for the line that says where the server listens.
func (s *server) locate(t testing.TB) {
	t.Helper()
	line, err := s.stderr.await(s.gone, listening)
	if err != nil {
		t.Fatalf("the server did not say that it listens: %v", err)
	}
	address, debug := addressOf.FindStringSubmatch(line), debugOf.FindStringSubmatch(line)
	if address == nil || debug == nil {
		t.Fatalf("the line lacks address=host:port or debug=host:port: %s", line)
	}
	s.address, s.debug = address[1], debug[1]
}

// stop asks the server to end; it must drain and exit 0.
func (s *server) stop(t testing.TB) {
	t.Helper()
	if s.gone.Err() != nil {
		return
	}
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	s.ended(t, 0)
}

// kill ends the server as a power failure would.
func (s *server) kill(t testing.TB) {
	t.Helper()
	_ = s.command.Process.Kill() // it may have ended already, which is as good
	s.ended(t, -1)
}

// ended waits for the exit; the code is -1 when a signal ended the process.
func (s *server) ended(t testing.TB, code int) {
	t.Helper()
	select {
	case <-s.gone.Done():
	case <-time.After(patience):
		_ = s.command.Process.Kill()
		t.Fatalf("the server did not end within %v", patience)
	}
	if got := s.command.ProcessState.ExitCode(); got != code {
		t.Errorf("the server ended with %v, want exit code %d", s.command.ProcessState, code)
	}
}

// finish stops the server if the test has not, and judges its log.
func (s *server) finish(t testing.TB) {
	s.stop(t)
	log := s.stderr.String()
	if found := distress.FindString(log); found != "" {
		t.Errorf("the log contains %q", found)
	}
	if t.Failed() {
		t.Logf("log of %s %v:\n%s", filepath.Base(built.program), s.command.Args[1:], tail(log, 20_000))
	}
}

// refusal runs the binary, which must end by itself with a code other than 0, and returns what
// it wrote.
func refusal(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := command(ctx, args...).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() < 1 {
		t.Fatalf("%v: %v, want an exit code of 1 or more\n%s", args, err, out)
	}
	return string(out)
}

// config writes a settings file and returns its path.
func config(t testing.TB, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "countersign.yaml")
	write(t, path, yaml)
	return path
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

// An output collects what a process writes and wakes those who wait for it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed by the next Write
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// tells waits until the log has all these words, a line may be on its way, and returns the log.
func (s *server) tells(t testing.TB, words ...string) string {
	t.Helper()
	for _, word := range words {
		if _, err := s.stderr.await(s.gone, regexp.MustCompile(regexp.QuoteMeta(word))); err != nil {
			t.Errorf("the log lacks %q: %v:\n%s", word, err, tail(s.stderr.String(), 5000))
		}
	}
	return s.stderr.String()
}

// await returns the first match of what is written, now or later, until the writer is gone.
func (o *output) await(gone context.Context, re *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithTimeout(gone, patience)
	defer cancel()
	for {
		o.mu.Lock()
		over := ctx.Err()
		found, more := re.FindString(o.text.String()), o.more
		o.mu.Unlock()
		if found != "" || over != nil {
			return found, over
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}
