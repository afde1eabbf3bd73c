package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A liar is a signer that has the right key, and returns what is not asked for.
type liar struct {
	t                             testing.TB
	home, stranger, key, elsewise string
}

// sign signs what of a claim the lie has changed.
func (l liar) sign(home, fingerprint string, payload []byte, args ...string) []byte {
	c := gpgCommand(home, append(args, "--local-user", fingerprint, "--sign")...)
	c.Stdin = strings.NewReader(string(payload))
	out, err := c.Output()
	if err != nil {
		l.t.Errorf("%v: %v", c.Args, err)
	}
	return out
}

// changed is a claim with other words in it.
func changed(claim []byte, from, to string) []byte {
	return []byte(strings.Replace(string(claim), from, to, 1))
}

// TestLyingSigner has a signer return whatever it likes, each lie made by stock gpg: nothing of it is
// stored or served, the push is told, and the log and a metric say what came. What is right is taken.
func TestLyingSigner(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	dir := t.TempDir()
	private, other := filepath.Join(dir, "release.key"), filepath.Join(dir, "other.key")
	runs(t, "keys", "generate", private)
	runs(t, "keys", "generate", other)
	public, socket := filepath.Join(dir, "release.asc"), filepath.Join(filepath.Dir(config(t, "")), "s")
	l := liar{t: t, home: gpgHome(t, private), stranger: gpgHome(t, other), key: inspectKey(t, public).fingerprint}
	l.elsewise = inspectKey(t, filepath.Join(dir, "other.asc")).fingerprint
	lies := map[string]struct { // by the tag that is pushed
		lie  func(claim []byte) []byte
		says string // in the log
	}{
		"another-key": {func(c []byte) []byte { return l.sign(l.stranger, l.elsewise, c) }, "key is not known"},
		"another-digest": {func(c []byte) []byte {
			return l.sign(l.home, l.key, changed(c, "sha256:", "sha256:0123456789")[:len(c)])
		}, "not used"},
		"another-tag":     {func(c []byte) []byte { return l.sign(l.home, l.key, changed(c, "/app:", "/app:x")) }, "was asked for"},
		"more":            {func(c []byte) []byte { return l.sign(l.home, l.key, changed(c, `"creator"`, `"more":1,"creator"`)) }, "something beside"},
		"for-an-hour":     {func(c []byte) []byte { return l.sign(l.home, l.key, c, "--default-sig-expire", "seconds=3600") }, "ends by itself"},
		"a-broken-hash":   {func(c []byte) []byte { return l.sign(l.home, l.key, c, "--digest-algo", "SHA1") }, "not used"},
		"something-else":  {func([]byte) []byte { return []byte("<html>sign in</html>") }, "not used"},
		"nothing":         {func([]byte) []byte { return nil }, "not used"},
		"right-but-twice": {func(c []byte) []byte { s := l.sign(l.home, l.key, c, "-z0"); return append(s, s...) }, "not used"},
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	signer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, read(t, public))
			return
		}
		claim, err := io.ReadAll(r.Body)
		var asked struct {
			Critical struct {
				Identity struct {
					Reference string `json:"docker-reference"`
				}
			}
		}
		if err != nil || json.Unmarshal(claim, &asked) != nil {
			t.Errorf("what was asked does not read: %v: %s", err, claim)
		}
		_, tag, _ := strings.Cut(asked.Critical.Identity.Reference, "/app:")
		content := l.sign(l.home, l.key, claim)
		if lie, ok := lies[tag]; ok {
			content = lie.lie(claim)
		}
		_, _ = w.Write(content)
	})}
	go func() { _ = signer.Serve(listener) }() // until it is closed
	t.Cleanup(func() { _ = signer.Close() })

	s := start(t, "-config", config(t, "signing: {keys: {release: {socket: "+socket+", public: "+public+", timeout: 30s}}}\n"))
	rejected := func() float64 {
		all, _ := s.scrape(t)
		return all.sum("countersign_signer_requests_total", `key="release"`, `outcome="rejected"`)
	}
	for name, lie := range lies {
		i, before := newImage("lies "+name), rejected()
		for _, blob := range i.blobs {
			s.pushBlob(t, "ns/app", blob)
		}
		a := s.do(t, "PUT", "/v2/ns/app/manifests/"+name, string(i.manifest), "Content-Type: "+i.mediaType)
		a.refused(t, 503, "UNAVAILABLE")
		if strings.Contains(a.body, "not used") || strings.Contains(a.body, dir) {
			t.Errorf("%s: clients are told %s", name, a.body)
		}
		if got := s.signatures(t, "ns/app", i.digest()); len(got) != 0 {
			t.Errorf("%s: it is served", name)
		}
		if rejected() <= before {
			t.Errorf("%s: it is not counted as rejected", name)
		}
		s.tells(t, lie.says, l.key)
	}
	i := newImage("no lie")
	s.push(t, i, "ns/app", "v1")
	if got := s.signers(t, "ns/app", i.digest()); len(got) != 1 || got[0] != l.key {
		t.Errorf("the truth is signed by %q, want %s", got, l.key)
	}
}
