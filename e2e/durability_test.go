package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeCalls are the system calls that change what a disk holds or tell a client so. Those that
// this machine's kernel lacks are left out.
const writeCalls = "?write,?pwrite64,?writev,?pwritev,?pwritev2,?fsync,?fdatasync,?sync_file_range,?msync," +
	"?ftruncate,?fallocate,?copy_file_range,?sendto,?sendmsg,?rename,?renameat,?renameat2,?link,?linkat,?symlinkat," +
	"?unlink,?unlinkat,?mkdir,?mkdirat"

// A tracer is strace at a running server.
type tracer struct {
	command *exec.Cmd
	lines   <-chan string // that are about the data directory or a client
	err     error         // of reading them, when they have ended
}

// trace attaches strace to the server and all its threads. Each system call of writeCalls keeps
// its thread for hold, after it is done and told.
func (s *server) trace(t testing.TB, hold time.Duration) *tracer {
	t.Helper()
	need(t, "strace")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-f", "-y", "-s", "48", "-e", "trace=" + writeCalls, "-e", "signal=none", "-o", "/dev/fd/3"}
	if hold > 0 {
		args = append(args, "-e", fmt.Sprintf("inject=%s:delay_exit=%d", writeCalls, hold.Microseconds()))
	}
	c := exec.Command("strace", append(args, "-p", strconv.Itoa(s.command.Process.Pid))...)
	stderr := newOutput()
	c.ExtraFiles, c.Stderr = []*os.File{w}, stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // strace has it
	ended, end := context.WithCancel(context.Background())
	go func() {
		defer end()
		_ = c.Wait() // it ends with the server, by whatever signal that got
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has ended where the test came to its end
		<-ended.Done()
		_ = r.Close()
	})
	if _, err := stderr.await(ended, regexp.MustCompile(`attached`)); err != nil {
		if strings.Contains(stderr.String(), "Operation not permitted") {
			lack(t, "strace may not attach to a process here; run the tests as root, or allow ptrace")
		}
		t.Fatalf("%v: %v\n%s", c.Args, err, stderr)
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	told := &tracer{command: c, lines: lines}
	go func() {
		defer close(lines)
		all := bufio.NewScanner(r)
		for all.Scan() {
			line := all.Text()
			if !strings.Contains(line, s.data) && !strings.Contains(line, "<socket:") && !isResumed(line) {
				continue
			}
			select {
			case lines <- line:
			case <-t.Context().Done():
				return
			}
		}
		told.err = all.Err()
	}()
	return told
}

// next returns the next line that is about the data directory or a client; false at the end.
func (r *tracer) next(t testing.TB) (string, bool) {
	t.Helper()
	line, ok := <-r.lines
	if !ok && r.err != nil {
		t.Fatalf("reading strace: %v", r.err)
	}
	return line, ok
}

// behind returns the k-th call from now on, while it is held. A server does not always make as many: it is
// the last one where none comes for a while after the client has its answer.
func (r *tracer) behind(t testing.TB, k int, answered <-chan struct{}) (last string) {
	t.Helper()
	var over <-chan time.Time
	for seen := 0; seen < k; {
		select {
		case line, ok := <-r.lines:
			if !ok {
				t.Fatalf("strace ended behind call %d: %v", seen, r.err)
			}
			if !isResumed(line) {
				last = line
				seen++
			}
		case <-answered:
			answered, over = nil, time.After(2*hold)
		case <-over:
			t.Logf("there are %d calls this time", seen)
			return last
		}
	}
	return last
}

// finish detaches strace and returns what it told that next has not returned.
func (r *tracer) finish(t testing.TB) []string {
	t.Helper()
	if err := r.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return r.rest(t)
}

func (r *tracer) rest(t testing.TB) []string {
	t.Helper()
	var lines []string
	for line, ok := r.next(t); ok; line, ok = r.next(t) {
		lines = append(lines, line)
	}
	return lines
}

// An appending is one upload that a server is killed in: to an image that has a signature by alice,
// which was answered 201 before, carol adds hers, and the server countersigns.
type appending struct {
	data              string // to be copied: each run has its own
	image             image
	reference         string
	first, second     []byte
	body              string // of the upload of second
	before, afterward []string
}

const appendHost = "registry.example.test:5000"

func newAppending(t *testing.T) appending {
	t.Helper()
	a := appending{image: newImage("durable"), reference: appendHost + "/ns/app:v1"}
	a.before = []string{"alice " + a.reference}
	a.afterward = []string{"alice " + a.reference, "carol " + a.reference, "server " + a.reference}
	s := trusting(t, "-host", appendHost, "-sign-on", "none")
	s.push(t, a.image, "ns/app", "v1")
	a.first = sign(t, "alice", a.reference, a.image.digest())
	a.second = sign(t, "carol", a.reference, a.image.digest())
	a.body = wire(t, entry{2, a.image.digest() + "@" + digestOf(a.second)[len("sha256:"):][:32], "atomic", a.second})
	s.upload(t, "ns/app", a.image.digest(), a.first).want(t, 201)
	s.stop(t)
	a.data = s.data
	return a
}

// start starts a server on a copy of the directory.
func (a appending) start(t *testing.T) *server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	copyData(t, a.data, data)
	return startIn(t, data, "-host", appendHost, "-sign-on", "upload")
}

// copyData copies a directory that no server has open, modes too: what is the owner's alone stays
// so.
func copyData(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm())
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, content, 0o600); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// send uploads carol's signature, and returns the status or 0 where no answer came.
func (a appending) send(ctx context.Context, address string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "PUT", "http://"+address+extension("ns/app", a.image.digest()), strings.NewReader(a.body))
	if err != nil {
		return 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil // killed
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, nil
}

// check starts a server on what a killed one left, and asserts that it has everything that was
// answered 201, nothing half, no hole, and the same by both protocols; that what the server was to
// sign is signed, if the upload is there, without anybody asking again; and that the upload can be
// repeated.
func (a appending) check(t *testing.T, killed *server, answered int) {
	t.Helper()
	s := startIn(t, killed.data, "-host", appendHost, "-sign-on", "upload")
	got := s.signed(t, "ns/app", a.image.digest())
	stored := a.afterward[:len(a.afterward)-1] // and the server's still to come
	if !slices.Equal(got, a.afterward) && !slices.Equal(got, stored) && (answered == 201 || !slices.Equal(got, a.before)) {
		t.Errorf("after a kill that the client saw as %d, there are\n\t%q, want\n\t%q, or without 201\n\t%q", answered, got, a.afterward, a.before)
	}
	a.checkDense(t, s)
	if slices.Equal(got, stored) {
		eventually(t, "the server signs what it had begun", func() bool { return len(s.signatures(t, "ns/app", a.image.digest())) == len(a.afterward) })
		if got := s.signed(t, "ns/app", a.image.digest()); !slices.Equal(got, a.afterward) {
			t.Errorf("when the queue has finished, there are\n\t%q, want\n\t%q", got, a.afterward)
		}
	}
	a.checkDense(t, s)
	s.upload(t, "ns/app", a.image.digest(), a.second).want(t, 201)
	if got := s.signed(t, "ns/app", a.image.digest()); !slices.Equal(got, a.afterward) {
		t.Errorf("after the upload was repeated, there are\n\t%q, want\n\t%q", got, a.afterward)
	}
	a.checkDense(t, s)
	s.upload(t, "ns/app", a.image.digest(), a.first).want(t, 201)
	s.stop(t)
}

func (a appending) checkDense(t *testing.T, s *server) {
	t.Helper()
	list := s.signatures(t, "ns/app", a.image.digest())
	for n, e := range list {
		if body := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside("ns/app", a.image.digest()), n+1)).want(t, 200).body; body != string(e.Content) {
			t.Errorf("signature-%d is not what the extension lists there", n+1)
		}
	}
	s.get(t, fmt.Sprintf("%s/signature-%d", lookaside("ns/app", a.image.digest()), len(list)+1)).want(t, 404)
}

// hold is how long each system call is kept, so that the kill comes before the next.
const hold = 300 * time.Millisecond

// TestKilledInAppend kills the server behind each write-class system call of one upload, which
// is also in front of the next one. strace could inject the signal itself, but counts the calls of
// each thread apart, and Go moves a request between threads; so it holds each call when it is
// done, and the test, which counts them all, kills meanwhile.
func TestKilledInAppend(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a := newAppending(t)
	n := len(slices.DeleteFunc(a.calls(t), isResumed))
	if n < 3 {
		t.Fatalf("an upload makes %d write-class calls; it cannot be durable with fewer than 3: content, sync, answer", n)
	}
	points := pointsOf(n, 1, n/2+1, n)
	t.Logf("an upload makes %d write-class calls; killing behind those: %d", n, points)
	for _, k := range points {
		t.Run(fmt.Sprint("behind call ", k), func(t *testing.T) {
			t.Parallel()
			a.killBehind(t, k)
		})
	}
}

// pointsOf are those of n calls behind which to kill: some, and all of them in a soak.
func pointsOf(n int, some ...int) []int {
	if !soak() {
		return some
	}
	all := make([]int, n)
	for k := range all {
		all[k] = k + 1
	}
	return all
}

// calls is the write-class calls of one upload that nothing disturbs.
func (a appending) calls(t *testing.T) []string {
	t.Helper()
	s := a.start(t)
	r := s.trace(t, 0)
	if status, err := a.send(t.Context(), s.address); status != 201 || err != nil {
		t.Fatalf("the upload is answered %d, %v", status, err)
	}
	lines := r.finish(t)
	s.stop(t)
	return lines
}

// isResumed tells the second line of a call, which strace writes when another thread's came
// between.
func isResumed(line string) bool { return strings.Contains(line, " resumed>") }

func (a appending) killBehind(t *testing.T, k int) {
	t.Helper()
	s := a.start(t)
	r := s.trace(t, hold)
	status, answered := 0, make(chan struct{})
	go func() {
		defer close(answered)
		var err error
		if status, err = a.send(t.Context(), s.address); err != nil {
			t.Error(err)
		}
	}()
	last := r.behind(t, k, answered)
	s.kill(t)
	<-answered
	t.Logf("killed behind %.150s: the client saw %d", last, status)
	for _, late := range r.rest(t) {
		if strings.Contains(late, "(DELAYED)") {
			t.Logf("the kill came later than wanted, behind %.150s", late)
		}
	}
	a.check(t, s, status)
}
