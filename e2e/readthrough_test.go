package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// oldLookaside serves files by path, as a directory behind a web server did before.
func oldLookaside(t testing.TB, files map[string]string) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, content)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestReadThrough lets nodes find what an old lookaside has, though they ask only the extension.
func TestReadThrough(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	const host = "registry.example.test"
	i, j := newImage("read through"), newImage("read through, the lookaside")
	place := func(i image, n int) string {
		return fmt.Sprintf("/sigs/ns/app@%s/signature-%d", strings.Replace(i.digest(), ":", "=", 1), n)
	}
	old := oldLookaside(t, map[string]string{
		place(i, 1): string(sign(t, "bob", host+"/ns/app:v1", i.digest())),
		place(i, 2): string(sign(t, "alice", host+"/ns/app:v1", i.digest())),
		place(j, 1): string(sign(t, "alice", host+"/ns/app:v2", j.digest())),
	})
	s := trusting(t, "-sign-on", "none", "-host", host, "-config", config(t, fmt.Sprintf("lookasides: [{host: %s, url: '%s/sigs', private: true}]\n", host, old)))
	s.push(t, i, "ns/app", "v1")
	alice := newNode(t)
	alice.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyData":%q,`+
		`"signedIdentity":{"type":"remapIdentity","prefix":%[1]q,"signedPrefix":%[3]q}}]}}}`, s.address, base64.StdEncoding.EncodeToString(publicKey(t, "alice")), host))
	works(t)(alice.pull(t, s.address+"/ns/app:v1"))
	s.wantSigned(t, "ns/app", i.digest(), "alice "+host+"/ns/app:v1")
	s.get(t, lookaside("ns/app", j.digest())+"/signature-1").want(t, 200)
	s.tells(t, "countersign keys trust "+fingerprintOf(t, "bob")+".asc")
	if a := s.get(t, "/api/v1/audit"); !strings.Contains(a.body, `"imported"`) || !strings.Contains(a.body, old) {
		t.Errorf("the audit trail has no import: %s", a.body)
	}
}

// TestReadThroughPrivate asks nothing on this machine that was not meant, and answers all the same.
func TestReadThroughPrivate(t *testing.T) {
	t.Parallel()
	asked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked", r.URL) }))
	t.Cleanup(asked.Close)
	s := start(t, "-config", config(t, fmt.Sprintf("hosts: [registry.example.test]\nlookasides: [{host: registry.example.test, url: '%s'}]\n", asked.URL)))
	a := s.get(t, extension("ns/app", newImage("private").digest())).want(t, 200)
	if a.body != `{"signatures":[]}` {
		t.Errorf("got %s, want no signatures", a.body)
	}
	s.tells(t, "127.0.0.1 is no public address")
	for yaml, says := range map[string]string{
		"lookasides: [{host: registry.example.test, url: 'https://user:secret@old.example.test/sigs'}]": "password",
		"lookasides: [{host: registry.example.test, url: '/sigs'}]":                                     "http",
		"lookasides: [{host: registry, url: 'https://old.example.test/sigs'}]":                          `"registry"`,
		"lookasides: [{host: registry.example.test, URL: x}]":                                           "URL",
	} {
		out := refusal(t, "serve", "-data", t.TempDir(), "-config", config(t, yaml))
		if !strings.Contains(out, says) || strings.Contains(out, "secret") {
			t.Errorf("%s: got %q, want %q in it", yaml, out, says)
		}
	}
}
