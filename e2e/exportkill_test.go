package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A liveTree is an export of an image with several signatures, of which the first stays.
type liveTree struct {
	s         *server
	image     image
	directory string
	reference string
	kept      string // the content of the signature that stays
	all       []string
}

func newLiveTree(t *testing.T, name string) *liveTree {
	t.Helper()
	s := trusting(t, "-sign-on", "none")
	l := &liveTree{s: s, image: newImage(name), directory: filepath.Join(t.TempDir(), "live"), reference: s.address + "/ns/app:v1"}
	l.add(t)
	l.add(t)
	l.add(t)
	l.kept = l.all[0]
	return l
}

// add uploads another signature.
func (l *liveTree) add(t *testing.T) {
	t.Helper()
	content := sign(t, "alice", l.reference, l.image.digest())
	l.s.upload(t, "ns/app", l.image.digest(), content).want(t, 201)
	l.all = append(l.all, string(content))
}

// withdraw stops the second signature: the first one stays.
func (l *liveTree) withdraw(t *testing.T) {
	t.Helper()
	name := l.s.signatures(t, "ns/app", l.image.digest())[1].Name
	l.s.do(t, "POST", "/api/v1/withdrawals", fmt.Sprintf(`{"repository":"ns/app","digest":%q,"scope":"signature","name":%q,"reason":"x"}`,
		l.image.digest(), name)).want(t, 201)
}

// follow starts an export that follows, and waits until it has written everything.
func (l *liveTree) follow(t *testing.T) *follower {
	t.Helper()
	f := l.s.follow(t, "-host", l.s.address, l.directory)
	if _, err := f.said.await(f.gone, regexp.MustCompile(`signatures of .*\n`)); err != nil {
		t.Fatalf("%v\n%s", err, f.said)
	}
	return f
}

// check looks at the tree when nobody writes: it is dense, each file is whole, and what stays is there.
func (l *liveTree) check(t *testing.T, step string) {
	t.Helper()
	got := files(t, l.directory)
	met := false
	for index := 1; ; index++ {
		name := fmt.Sprintf("%s/signature-%d", treePath("ns/app", l.image.digest()), index)
		content, ok := got[name]
		if !ok {
			break
		}
		delete(got, name)
		met = met || content == l.kept
		if !slices.Contains(l.all, content) {
			t.Errorf("%s: %s is no signature that ever was: %d bytes", step, name, len(content))
		}
	}
	for name := range got {
		if strings.HasPrefix(filepath.Base(name), "signature-") {
			t.Errorf("%s: there is %s behind a hole", step, name)
		}
	}
	if !met {
		t.Errorf("%s: what stays is not there", step)
	}
}

// TestExportKilled kills an export that follows behind each write-class system call of an update. What
// nginx would serve then is dense and whole, and the next export ends it.
func TestExportKilled(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	l := newLiveTree(t, "export killed")
	f := l.follow(t)
	asked := &server{command: f.command, data: l.directory}
	r := asked.trace(t, 0)
	l.withdraw(t)
	trimmed := func() bool { return countFiles(t, l.directory) == len(l.s.signatures(t, "ns/app", l.image.digest())) }
	eventually(t, "the tree follows", trimmed)
	inTree := func(line string) bool { return strings.Contains(line, l.directory) && !isResumed(line) }
	n := len(slices.DeleteFunc(r.finish(t), func(line string) bool { return !inTree(line) }))
	f.end(t)
	points := pointsOf(n, n/2+1, n-1)
	t.Logf("an update makes %d write-class calls in the tree; killing behind those: %d", n, points)
	for _, k := range points {
		l.add(t)
		f := l.follow(t)
		asked := &server{command: f.command, data: l.directory}
		r := asked.trace(t, hold)
		l.withdraw(t)
		for seen := 0; seen < k; {
			line, ok := r.next(t)
			if !ok {
				t.Fatalf("strace ended behind call %d of %d", seen, k)
			}
			if inTree(line) {
				seen++
			}
		}
		f.kill()
		_ = r.rest(t)
		l.check(t, fmt.Sprint("killed behind call ", k))
		l.s.cli(t, 0, "export", "-host", l.s.address, l.directory)
		l.check(t, fmt.Sprint("exported again after call ", k))
		if !trimmed() || len(files(t, l.directory)) != countFiles(t, l.directory) {
			t.Errorf("behind call %d, exported again: the tree has %q, and %d signatures are served",
				k, files(t, l.directory), len(l.s.signatures(t, "ns/app", l.image.digest())))
		}
	}
}

// TestExportUnderReaders has readers behind nginx go through a live tree again and again, while
// signatures come and go: each meets the one that stays, and nothing that is not whole.
func TestExportUnderReaders(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "nginx")
	l := newLiveTree(t, "export under readers")
	f := l.follow(t)
	address := nginx(t, l.directory)
	known := map[string]bool{}
	var mu sync.Mutex // of known
	for _, content := range l.all {
		known[content] = true
	}
	done, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	reads := make([]int, 3)
	for n := range reads {
		readers.Go(func() {
			for done.Err() == nil {
				met := false
				for index := 1; ; index++ {
					a := ask(t, address, "GET", fmt.Sprintf("/%s/signature-%d", treePath("ns/app", l.image.digest()), index), "")
					if a.status == http.StatusNotFound {
						break
					}
					mu.Lock()
					whole := known[a.body]
					mu.Unlock()
					if a.status != http.StatusOK || !whole {
						t.Errorf("signature-%d is answered %d with %d bytes that were never uploaded", index, a.status, len(a.body))
					}
					met = met || a.body == l.kept
				}
				if !met {
					t.Error("a reader did not meet the signature that stays")
				}
				reads[n]++
			}
		})
	}
	rounds := 10
	if soak() {
		rounds = 200
	}
	for range rounds {
		content := sign(t, "alice", l.reference, l.image.digest())
		mu.Lock()
		known[string(content)] = true
		mu.Unlock()
		l.s.upload(t, "ns/app", l.image.digest(), content).want(t, 201)
		eventually(t, "the tree has what came", func() bool { return slices.Contains(contents(files(t, l.directory)), string(content)) })
		gone := l.s.signatures(t, "ns/app", l.image.digest())[1]
		l.withdraw(t)
		eventually(t, "the tree is without what went", func() bool { return !slices.Contains(contents(files(t, l.directory)), string(gone.Content)) })
	}
	stop()
	readers.Wait()
	f.end(t)
	t.Logf("%d changes under %v reads", 2*rounds, reads)
	for n, times := range reads {
		if times < rounds {
			t.Errorf("reader %d has read %d times, want a time for each change at least", n+1, times)
		}
	}
}

func contents(files map[string]string) (all []string) {
	for _, content := range files {
		all = append(all, content)
	}
	return all
}
