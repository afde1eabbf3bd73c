package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An opening is an upload that opens the gate of a list: carol's, of its last instance. The server
// signs three instances and the list for it, each with a change of its own.
type opening struct {
	data    string // to be copied: each run has its own
	index   image
	content []byte // the upload
}

const openingReference = appendHost + "/ns/list:v1"

func newOpening(t *testing.T) opening {
	t.Helper()
	o := opening{index: newIndex("opening", "amd64", "arm64")}
	s := gating(t, "-host", appendHost)
	s.push(t, o.index, "ns/list", "v1")
	last := len(o.index.children) - 1
	for n, child := range o.index.children {
		for _, person := range []string{"alice", "carol"} {
			content := sign(t, person, openingReference, child.digest())
			if n == last && person == "carol" {
				o.content = content
				continue
			}
			s.upload(t, "ns/list", child.digest(), content).want(t, 201)
		}
	}
	s.idle(t)
	s.wantSigned(t, "ns/list", o.index.digest())
	s.stop(t)
	o.data = s.data
	return o
}

func (o opening) last() image { return o.index.children[len(o.index.children)-1] }

// start starts a server on a copy of the directory.
func (o opening) start(t *testing.T) *server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	copyData(t, o.data, data)
	return o.startIn(t, data)
}

func (o opening) startIn(t *testing.T, data string) *server {
	t.Helper()
	return startIn(t, data, "-host", appendHost, "-config", config(t, fmt.Sprintf(
		"signing:\n  rules:\n  - {scope: '', on: [upload], require: %s}\n", gatePolicy(t, "alice", "carol"))))
}

// send uploads, and returns the status or 0 where no answer came.
func (o opening) send(ctx context.Context, address string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+address+lookaside("ns/list", o.last().digest()), strings.NewReader(string(o.content)))
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

// TestKilledInGate kills the server behind each write-class system call of the upload that opens
// the gate of a list. What it had begun is finished by the next start, and nothing is signed twice.
func TestKilledInGate(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	o := newOpening(t)
	s := o.start(t)
	r := s.trace(t, 0)
	if status, err := o.send(t.Context(), s.address); status != 201 || err != nil {
		t.Fatalf("the upload is answered %d, %v", status, err)
	}
	n := len(slices.DeleteFunc(r.finish(t), isResumed))
	o.check(t, s)
	s.stop(t)
	// Of the queue's own tries while nothing is due there is none: what is counted is the upload's.
	points := pointsOf(n, n/5, n/2, n*4/5)
	t.Logf("the upload makes %d write-class calls; killing behind those: %d", n, points)
	for _, k := range points {
		t.Run(fmt.Sprint("behind call ", k), func(t *testing.T) {
			t.Parallel()
			o.killBehind(t, k)
		})
	}
}

func (o opening) killBehind(t *testing.T, k int) {
	t.Helper()
	s := o.start(t)
	r := s.trace(t, hold)
	status, answered := 0, make(chan struct{})
	go func() {
		defer close(answered)
		var err error
		if status, err = o.send(t.Context(), s.address); err != nil {
			t.Error(err)
		}
	}()
	_ = r.behind(t, k, answered)
	s.kill(t)
	<-answered
	r.rest(t)
	again := o.startIn(t, s.data)
	if stored := len(again.signatures(t, "ns/list", o.last().digest())); stored < 2 {
		if status == 201 {
			t.Errorf("what was answered 201 is gone")
		}
		t.Logf("killed behind call %d: nothing was stored, and the client was told nothing", k)
		again.idle(t)
		again.wantSigned(t, "ns/list", o.index.digest())
		again.do(t, "POST", lookaside("ns/list", o.last().digest()), string(o.content)).want(t, 201)
	} else {
		t.Logf("killed behind call %d: the upload was stored, the client saw %d", k, status)
	}
	o.check(t, again)
	again.stop(t)
}

// check waits until all of the list is signed, once.
func (o opening) check(t *testing.T, s *server) {
	t.Helper()
	eventually(t, "the list is signed", func() bool { return len(s.signatures(t, "ns/list", o.index.digest())) > 0 })
	s.idle(t)
	s.wantSigned(t, "ns/list", o.index.digest(), "server "+openingReference)
	for _, child := range o.index.children {
		s.wantSigned(t, "ns/list", child.digest(), "alice "+openingReference, "carol "+openingReference, "server "+openingReference)
	}
	if got := strings.Count(s.cli(t, 0, "audit"), " signed by countersign "); got != 1+len(o.index.children) {
		t.Errorf("the audit trail says %d times that something was signed, want %d", got, 1+len(o.index.children))
	}
}
