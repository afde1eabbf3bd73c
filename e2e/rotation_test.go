package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// rotating starts a server that signs with the old key, has the new one too, and a number of tags.
func rotating(t testing.TB, tags int) (s *server, settings string, old, next string, images []image) {
	t.Helper()
	dir := t.TempDir()
	old, next = filepath.Join(dir, "old.asc"), filepath.Join(dir, "next.asc")
	runs(t, "keys", "generate", filepath.Join(dir, "old.key"))
	runs(t, "keys", "generate", filepath.Join(dir, "next.key"))
	keys := fmt.Sprintf("signing:\n  keys: {old: {file: %s/old.key}, next: {file: %[1]s/next.key}}\n  rules:\n", dir)
	s = start(t, "-config", config(t, keys+"  - {scope: '', key: old, on: [push]}\n"))
	for n := range tags {
		i := newImage(fmt.Sprint("rotation ", n))
		s.push(t, i, fmt.Sprintf("ns/app%d", n%10), fmt.Sprintf("v%d", n))
		images = append(images, i)
	}
	return s, keys + "  - {scope: '', key: next, on: [push]}\n", old, next, images
}

// TestRotation signs a tenth of a thousand tags again, all of them in make soak, with a SIGKILL in
// the middle, while nodes with the old keyring, and with both keys, pull all the time. None of their
// pulls fails; in the end those that have only the new key pull everything.
func TestRotation(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "podman", "skopeo")
	tags := 100
	if soak() {
		tags = 1000
	}
	s, settings, old, next, images := rotating(t, tags)
	reference := func(n int) string { return fmt.Sprintf("%s/ns/app%d:v%d", s.address, n%10, n) }
	fails(t, "Source image rejected")(newNode(t).require(t, s.address, next).pull(t, reference(0)))
	s.stop(t)
	s = s.again(t, "-config", config(t, settings))

	exported := t.TempDir()
	runs(t, "keys", "export", "-data", s.data, "-o", exported)
	both := filepath.Join(exported, "countersign.gpg")
	var pulls, pulled atomic.Int64
	ended := make(chan struct{})
	var down sync.RWMutex // while the server is being started again, nobody pulls: that is not what is tried here
	var nodes sync.WaitGroup
	for _, keyring := range []string{old, both} {
		n := newNode(t).require(t, s.address, keyring)
		nodes.Go(func() {
			for i := 0; ; i = (i + 7) % tags {
				select {
				case <-ended:
					return
				default:
				}
				down.RLock()
				out, err := n.podman(t, "pull", "--quiet", "--tls-verify=false", reference(i))
				down.RUnlock()
				if err != nil {
					t.Errorf("podman with %s: %v\n%s", filepath.Base(keyring), err, out)
					return
				}
				pulls.Add(1)
				if out, err := n.podman(t, "rmi", "--all", "--force"); err != nil {
					t.Errorf("podman rmi: %v\n%s", err, out)
					return
				}
			}
		})
	}
	defer nodes.Wait()
	defer sync.OnceFunc(func() { close(ended) })()

	eventually(t, "both nodes pull", func() bool { return pulls.Load() >= 2 })
	c := command(t.Context(), "resign", "-server", "http://"+s.address, "-from", "old", "-to", "next")
	said := newOutput()
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var made int
	eventually(t, "some are signed again", func() bool {
		made = s.signedAgain(t)
		return made >= tags/10
	})
	down.Lock()
	s.kill(t)
	if err := c.Wait(); err == nil || !strings.Contains(said.String(), "hint:") {
		t.Errorf("resign, with the server killed: %v, want an error with a hint: %s", err, said)
	}
	s = s.again(t, "-config", config(t, settings))
	down.Unlock()
	if t.Logf("killed when %d of %d were signed again", made, tags); made >= tags {
		t.Error("that is not in the middle")
	}
	out := s.cli(t, 0, "resign", "-from", inspectKey(t, old).fingerprint, "-to", inspectKey(t, next).fingerprint)
	if want := fmt.Sprintf("%s tags and digests are signed by both keys", thousands(tags)); !strings.Contains(out, want) {
		t.Errorf("resign says %q, want %q", out, want)
	}
	before := pulls.Load()
	eventually(t, "both nodes have pulled since", func() bool { return pulls.Load() >= before+4 || t.Failed() })

	// With the new key alone, everything. skopeo does what podman does, but for keeping it.
	node := newNode(t).require(t, s.address, next)
	var all sync.WaitGroup
	for part := range 2 {
		all.Go(func() {
			for n := part; n < tags; n += 2 {
				if out, err := node.pull(t, reference(n)); err != nil {
					t.Errorf("%v\n%s", err, out)
					return
				}
				pulled.Add(1)
			}
		})
	}
	all.Wait()
	if int(pulled.Load()) != tags {
		t.Errorf("%d of %d were pulled with the new key alone", pulled.Load(), tags)
	}
	for n, i := range images[:3] {
		if got := len(s.signatures(t, fmt.Sprintf("ns/app%d", n%10), i.digest())); got != 2 {
			t.Errorf("%s has %d signatures, want one by each key", reference(n), got)
		}
	}
	// Once more makes nothing.
	if out := s.cli(t, 0, "resign", "-from", "old", "-to", "next"); !strings.Contains(out, ", 0 more than before") {
		t.Errorf("a second time: %q", out)
	}
	t.Logf("%d pulls with the old keyring and with both", pulls.Load())
}

// signedAgain counts what this process has signed again.
func (s *server) signedAgain(t testing.TB) (n int) {
	t.Helper()
	found := regexp.MustCompile(`countersign_signatures_made_total\{trigger="resign"\} (\d+)`).FindStringSubmatch(ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body)
	if found != nil {
		_, _ = fmt.Sscan(found[1], &n)
	}
	return n
}

// A listed is one line of countersign list -json.
type listed struct{ Fingerprint, Reference string }

func (s *server) list(t testing.TB, repository, digest string) (all []listed) {
	t.Helper()
	for line := range strings.Lines(s.cli(t, 0, "list", "-json", "-digest", digest, repository)) {
		var l listed
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, l)
	}
	return all
}

// signers are the fingerprints of who has signed an image, in order.
func (s *server) signers(t testing.TB, repository, digest string) (fingerprints []string) {
	t.Helper()
	for _, l := range s.list(t, repository, digest) {
		fingerprints = append(fingerprints, l.Fingerprint)
	}
	return fingerprints
}

// TestResign is about what is not simply signed again: a tag that has moved, an image that is gone,
// what was withdrawn, people's signatures, another scope, keys that there are not.
func TestResign(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	s, settings, old, next, images := rotating(t, 4)
	trust(t, s.data, "alice")
	moved := newImage("moved")
	s.push(t, moved, "ns/app0", "v0") // images[0] is left by its tag
	s.do(t, "DELETE", "/v2/ns/app1/manifests/"+images[1].digest(), "").want(t, 202)
	s.cli(t, 0, "withdraw", "-reason", "test", "-image", s.address+"/ns/app2@"+images[2].digest())
	s.upload(t, "ns/app3", images[3].digest(), sign(t, "alice", s.address+"/ns/app3:v3", images[3].digest())).want(t, 201)
	s.stop(t)
	s = s.again(t, "-config", config(t, settings))
	fingerprints := []string{inspectKey(t, old).fingerprint, inspectKey(t, next).fingerprint}

	s.cli(t, 0, "resign", "-from", "old", "-to", "next", s.address+"/ns/app3")
	if got := s.signers(t, "ns/app0", moved.digest()); !slices.Equal(got, fingerprints[:1]) {
		t.Errorf("outside of its scope it signed: %q", got)
	}
	if got := s.signers(t, "ns/app3", images[3].digest()); !slices.Equal(got, []string{fingerprints[0], fingerprintOf(t, "alice"), fingerprints[1]}) {
		t.Errorf("signed by %q, want the old key, alice and the new key", got)
	}
	s.cli(t, 0, "resign", "-from", "old", "-to", "next")
	new := newNode(t).require(t, s.address, next)
	works(t)(new.pull(t, s.address+"/ns/app0:v0"))
	// What its tag has left is pulled by digest, and never again under that tag.
	works(t)(new.pull(t, s.address+"/ns/app0@"+images[0].digest()))
	for _, e := range s.list(t, "ns/app0", images[0].digest()) {
		if e.Fingerprint == fingerprints[1] && !strings.HasSuffix(e.Reference, "@"+images[0].digest()) {
			t.Errorf("the new key signed %s as %s, which its tag has left", images[0].digest(), e.Reference)
		}
	}
	if got := s.signers(t, "ns/app1", images[1].digest()); slices.Contains(got, fingerprints[1]) {
		t.Errorf("what the registry does not have any more is signed: %q", got)
	}
	if got := s.signers(t, "ns/app2", images[2].digest()); len(got) != 0 {
		t.Errorf("what was withdrawn is signed again: %q", got)
	}
	for name, args := range map[string][]string{
		"-from": {"-from", "nothing", "-to", "next"}, "signing.keys": {"-from", "old", "-to", "nothing"}, "both are": {"-from", "old", "-to", "old"},
	} {
		if out := s.cli(t, 1, "resign", args...); !strings.Contains(out, name) && !strings.Contains(out, "neither a name") {
			t.Errorf("resign %q says %q, want a word about %s", args, out, name)
		}
	}
	s.cli(t, 2, "resign", "-from", "old")
	shows(t, s.cli(t, 1, "resign", "-from", "old", "-to", "next", "other.example.test/ns"), "is not for "+s.address)
}
