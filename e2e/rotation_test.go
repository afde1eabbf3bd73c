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
	"time"
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

// A pulling is nodes that pull one image after the other, until it ends. None of that may fail.
type pulling struct {
	down  sync.RWMutex // while somebody holds it, nobody pulls
	pulls atomic.Int64
	ended chan struct{}
	nodes sync.WaitGroup
}

// pull has podman on a node for each keyring pull all the time, once a second at most.
func pull(t *testing.T, scope string, tags int, reference func(int) string, keyrings ...string) *pulling {
	t.Helper()
	p := &pulling{ended: make(chan struct{})}
	for _, keyring := range keyrings {
		n := newNode(t).require(t, scope, keyring)
		p.nodes.Go(func() {
			ticker := time.NewTicker(time.Second)
			defer ticker.Stop()
			for i := 0; ; i = (i + 7) % tags {
				select {
				case <-p.ended:
					return
				case <-ticker.C:
				}
				p.down.RLock()
				out, err := n.podman(t, "pull", "--quiet", "--tls-verify=false", reference(i))
				p.down.RUnlock()
				if err != nil {
					t.Errorf("podman with %s: %v\n%s", filepath.Base(keyring), err, out)
					return
				}
				p.pulls.Add(1)
				if out, err := n.podman(t, "rmi", "--all", "--force"); err != nil {
					t.Errorf("podman rmi: %v\n%s", err, out)
					return
				}
			}
		})
	}
	return p
}

// more waits for further pulls.
func (p *pulling) more(t *testing.T, n int64) {
	t.Helper()
	before := p.pulls.Load()
	eventually(t, "the nodes pull", func() bool { return p.pulls.Load() >= before+n || t.Failed() })
}

func (p *pulling) end() {
	close(p.ended)
	p.nodes.Wait()
}

// wantAll pulls everything with one keyring. skopeo does what podman does, but for keeping it.
func wantAll(t *testing.T, scope string, tags int, reference func(int) string, keyring string) {
	t.Helper()
	node := newNode(t).require(t, scope, keyring)
	var pulled atomic.Int64
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
}

// TestRotation has two servers on one database sign a tenth of a thousand tags again, all of them in make
// soak. The one that was asked to is killed in the middle, while nodes with the old keyring, and with both
// keys, pull from the other all the time: none of their pulls waits or fails. In the end those that have
// only the new key pull everything, and nobody needs the old one.
func TestRotation(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "podman", "skopeo")
	tags := 100
	if soak() {
		tags = 1000
	}
	d, dir, port := newDatabase(t), t.TempDir(), freePorts(t, 1)[0]
	old, next := filepath.Join(dir, "old.asc"), filepath.Join(dir, "next.asc")
	runs(t, "keys", "generate", filepath.Join(dir, "old.key"))
	runs(t, "keys", "generate", filepath.Join(dir, "next.key"))
	replica := func(signs string, flags ...string) *server {
		settings := fmt.Sprintf("signing:\n  keys: {old: {file: %s/old.key}, next: {file: %[1]s/next.key}}\n  rules: [{scope: '', key: %s, on: [push]}]\nregistry: {embedded: %[1]s/registry}\n", dir, signs)
		return start(t, append([]string{"-config", config(t, settings), "-host", port, "-database-url", d.URL("postgres")}, flags...)...)
	}
	reference := func(n int) string { return fmt.Sprintf("%s/ns/app%d:v%d", port, n%10, n) }
	kept := replica("old", "-listen", port)
	for n := range tags {
		kept.push(t, newImage(fmt.Sprint("rotation ", n)), fmt.Sprintf("ns/app%d", n%10), fmt.Sprintf("v%d", n))
	}
	kept.stop(t)
	kept = replica("next", "-listen", port)
	killed := replica("next")
	exported := t.TempDir()
	runs(t, "keys", "export", "-server", "http://"+kept.address, "-o", exported)
	fails(t, "Source image rejected")(newNode(t).require(t, port, next).pull(t, reference(0)))

	p := pull(t, port, tags, reference, old, filepath.Join(exported, "countersign.gpg"))
	defer p.end()
	p.more(t, 2)
	c := command(t.Context(), "resign", "-server", "http://"+killed.address, "-from", "old", "-to", "next")
	said := newOutput()
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var made int
	amid(t, "both sign again", func() bool {
		made = killed.signedAgain(t) + kept.signedAgain(t)
		return made >= tags/10 && killed.signedAgain(t) > 0
	})
	killed.kill(t)
	if err := c.Wait(); err == nil || !strings.Contains(said.String(), "hint:") {
		t.Errorf("resign, with the server killed: %v, want an error with a hint: %s", err, said)
	}
	if t.Logf("killed when %d of %d were signed again", made, tags); made >= tags {
		t.Error("that is not in the middle")
	}
	out := kept.cli(t, 0, "resign", "-from", inspectKey(t, old).fingerprint, "-to", inspectKey(t, next).fingerprint)
	if want := fmt.Sprintf("%s tags and digests are signed by both keys", thousands(tags)); !strings.Contains(out, want) {
		t.Errorf("resign says %q, want %q", out, want)
	}
	p.more(t, 4)
	wantAll(t, port, tags, reference, next)
	// Once more makes nothing, and nobody needs the old key.
	if out := kept.cli(t, 0, "resign", "-from", "old", "-to", "next"); !strings.Contains(out, ", 0 more than before") {
		t.Errorf("a second time: %q", out)
	}
	if got := kept.alone(t, inspectKey(t, old).fingerprint); got != 0 {
		t.Errorf("%d tags are nobody's but the old key's, want 0", got)
	}
	t.Logf("%d pulls with the old keyring and with both", p.pulls.Load())
}

// TestRotationRestart is the same with one server and its own store, which is killed and started again.
func TestRotationRestart(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "podman", "skopeo")
	tags := 30
	if soak() {
		tags = 300
	}
	s, settings, old, next, images := rotating(t, tags)
	reference := func(n int) string { return fmt.Sprintf("%s/ns/app%d:v%d", s.address, n%10, n) }
	s.stop(t)
	s = s.again(t, "-config", config(t, settings))
	exported := t.TempDir()
	runs(t, "keys", "export", "-data", s.data, "-o", exported)
	p := pull(t, s.address, tags, reference, old, filepath.Join(exported, "countersign.gpg"))
	defer p.end()
	p.more(t, 2)
	p.down.Lock() // of pulls in the seconds in which nobody serves nothing is promised
	c := command(t.Context(), "resign", "-server", "http://"+s.address, "-from", "old", "-to", "next")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	made := 0
	amid(t, "some are signed again", func() bool {
		made = s.signedAgain(t)
		return made >= tags/10
	})
	s.kill(t)
	_ = c.Wait() // its server is gone
	s = s.again(t, "-config", config(t, settings))
	p.down.Unlock()
	t.Logf("killed when %d of %d were signed again", made, tags)
	s.cli(t, 0, "resign", "-from", "old", "-to", "next")
	p.more(t, 2)
	wantAll(t, s.address, tags, reference, next)
	for n, i := range images[:3] {
		if got := len(s.signatures(t, fmt.Sprintf("ns/app%d", n%10), i.digest())); got != 2 {
			t.Errorf("%s has %d signatures, want one by each key", reference(n), got)
		}
	}
}

// TestRotationPublished follows a node through a rotation that is given nothing but what the server
// makes: both keys are in what is published, in the forms that every client reads, and with them skopeo and
// podman pull what either has signed. Also when the old private key is gone.
func TestRotationPublished(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "podman", "skopeo")
	dir := t.TempDir()
	fingerprints := []string{}
	for _, name := range []string{"old", "next"} {
		runs(t, "keys", "generate", filepath.Join(dir, name+".key"))
		fingerprints = append(fingerprints, inspectKey(t, filepath.Join(dir, name+".asc")).fingerprint)
	}
	settings := func(keys, signs string) string {
		return config(t, "signing:\n  keys: "+strings.ReplaceAll(keys, "DIR", dir)+"\n  rules:\n  - {scope: '', key: "+signs+", on: [push]}\n")
	}
	s := start(t, "-config", settings("{old: {file: DIR/old.key}}", "old"))
	s.push(t, newImage("rotation"), "ns/app", "old")
	n := newNode(t).bare(t)
	n.enforce(t, s, "default")
	of := map[string]string{"old": s.address + "/ns/app:old", "next": s.address + "/ns/app:next"}
	works(t)(n.pull(t, of["old"]))
	for _, stage := range []struct{ name, keys string }{
		{"both have private keys", "{old: {file: DIR/old.key}, next: {file: DIR/next.key}}"},
		{"the old one is public alone", "{old: {public: DIR/old.asc}, next: {file: DIR/next.key}}"},
	} {
		s.stop(t)
		s = s.again(t, "-config", settings(stage.keys, "next"))
		if !strings.Contains(stage.keys, "old.asc") {
			s.push(t, newImage("rotated"), "ns/app", "next")
			fails(t, "Source image rejected")(n.pull(t, of["next"])) // with what it had before
			if said := n.enforce(t, s, "default"); !strings.Contains(said, "policy.json") {
				t.Errorf("the node's files are brought up to date, and it says:\n%s", said)
			}
		} else if said := n.enforce(t, s, "default"); !strings.Contains(said, "nothing changes") {
			t.Errorf("%s, and the node's files change:\n%s", stage.name, said)
		}
		for key, reference := range of {
			if out, err := n.pull(t, reference); err != nil {
				t.Errorf("%s: skopeo pulls what the key %s signed: %v\n%s", stage.name, key, err, out)
			}
			if out, err := n.podman(t, "pull", "--quiet", "--tls-verify=false", reference); err != nil {
				t.Errorf("%s: podman pulls what the key %s signed: %v\n%s", stage.name, key, err, out)
			}
		}
		wantPublished(t, s, n, fingerprints)
	}
}

// wantPublished looks for keys at /api/v1/keys, in the tar of /api/v1/node-config, and in a node's files.
func wantPublished(t *testing.T, s *server, n *node, fingerprints []string) {
	t.Helper()
	slices.Sort(fingerprints)
	has := func(what string, keyring []byte) {
		t.Helper()
		var got []string
		for _, found := range fingerprintLine.FindAllSubmatch(gpg(t, keyring, "--with-colons", "--show-keys"), -1) {
			got = append(got, string(found[1]))
		}
		if slices.Sort(got); !slices.Equal(got, fingerprints) {
			t.Errorf("%s has the keys %q, want %q", what, got, fingerprints)
		}
	}
	armored := s.get(t, "/api/v1/keys").want(t, 200).body
	if has("/api/v1/keys", []byte(armored)); strings.Count(armored, "BEGIN PGP") != 1 {
		t.Errorf("/api/v1/keys has several blocks, of which some clients read the first:\n%s", armored)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "files.tar"), s.get(t, "/api/v1/node-config").want(t, 200).body)
	works(t)(n.run(t, "tar", "-C", dir, "-xf", filepath.Join(dir, "files.tar")))
	for _, at := range []string{dir, n.containers()} {
		keyrings, err := filepath.Glob(filepath.Join(at, "countersign", fingerprints[0]+"-and-1-more-*.gpg"))
		if err != nil || len(keyrings) != 1 {
			keyrings, _ = filepath.Glob(filepath.Join(at, "countersign", "*"))
			t.Fatalf("keyrings are %q, want one of both keys", keyrings)
		}
		content := read(t, keyrings[0])
		if has(keyrings[0], []byte(content)); strings.Contains(content, "BEGIN PGP") {
			t.Errorf("%s is not binary", keyrings[0])
		}
		p := read(t, filepath.Join(at, "policy.json"))
		if strings.Contains(p, "keyPaths") || !strings.Contains(p, filepath.Base(keyrings[0])) {
			t.Errorf("the policy names not that keyring, or several:\n%s", p)
		}
	}
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

// alone is how many tags nodes accept by this key alone, as "countersign keys" says.
func (s *server) alone(t testing.TB, fingerprint string) int {
	t.Helper()
	var answer struct {
		Keys []struct {
			Fingerprint string
			Alone       int
		}
	}
	if err := json.Unmarshal([]byte(s.cli(t, 0, "keys", "-json")), &answer); err != nil {
		t.Fatal(err)
	}
	for _, k := range answer.Keys {
		if k.Fingerprint == fingerprint {
			return k.Alone
		}
	}
	t.Fatalf("there is no key %s: %+v", fingerprint, answer.Keys)
	return 0
}
