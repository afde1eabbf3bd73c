package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// deletes deletes a manifest or a tag.
func (s *server) deletes(t testing.TB, repository, name string) {
	t.Helper()
	s.do(t, "DELETE", "/v2/"+repository+"/manifests/"+name, "").want(t, 202)
}

// TestRetention deletes manifests and tags: signatures stay, or go after a delay unless what was
// deleted is pushed again.
func TestRetention(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	trustAlice := func(s *server) *server { trust(t, s.data, "alice"); return s }
	keep := trustAlice(start(t))
	drop := trustAlice(start(t, "-config", config(t, "retention: {deleted: drop, after: 0s}\n")))
	later := trustAlice(start(t, "-config", config(t, "retention: {deleted: drop, after: 10s}\n")))
	i := newImage("retained")
	for _, s := range []*server{keep, drop, later} {
		reference := s.address + "/ns/app"
		s.push(t, i, "ns/app", "v1")
		s.push(t, i, "ns/app", "v2")
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference+":v1", i.digest())).want(t, 201)
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference+":v2", i.digest())).want(t, 201)
		s.push(t, i, "ns/other", "v1")
	}
	of := func(s *server) string {
		t.Helper()
		return strings.ReplaceAll(strings.Join(s.signed(t, "ns/app", i.digest()), ", "), s.address+"/ns/app", "")
	}
	const all = "server :v1, server :v2, alice :v1, alice :v2"
	for _, s := range []*server{keep, drop, later} {
		if got := of(s); got != all {
			t.Fatalf("signed are %q, want %q", got, all)
		}
		s.deletes(t, "ns/app", "v1")
	}
	eventually(t, "the tag's signatures are dropped", func() bool { return of(drop) == "server :v2, alice :v2" })
	later.tag(t, i, "ns/app", "v1") // cancelled
	for _, s := range []*server{keep, drop, later} {
		s.deletes(t, "ns/app", i.digest())
	}
	eventually(t, "the manifest's signatures are dropped", func() bool { return of(drop) == "" })
	later.tag(t, i, "ns/app", "v2") // cancelled, but v1 went with the manifest
	gone := newImage("gone for good")
	later.push(t, gone, "ns/gone", "v1")
	later.deletes(t, "ns/gone", gone.digest())
	eventually(t, "what is deleted later is dropped, so what was cancelled would have been", func() bool {
		return len(later.signatures(t, "ns/gone", gone.digest())) == 0
	})
	for _, s := range []*server{keep, later} {
		if got := of(s); got != all {
			t.Errorf("signed are %q, want %q", got, all)
		}
	}
	for _, s := range []*server{keep, drop, later} {
		s.wantSigned(t, "ns/other", i.digest(), "server "+s.address+"/ns/other:v1")
	}
	shows(t, drop.cli(t, 0, "audit"), "dropped by countersign "+drop.address+"/ns/app@"+i.digest(), "tag v1 was deleted from the registry", "the manifest was deleted from the registry")

	// What was withdrawn does not come back with a re-push.
	drop.tag(t, i, "ns/app", "v1")
	if got := of(drop); got != "server :v1" {
		t.Errorf("pushed again, signed are %q", got)
	}
	drop.cli(t, 0, "withdraw", "-image", "-reason", "bad", drop.address+"/ns/app@"+i.digest())
	drop.deletes(t, "ns/app", i.digest())
	drop.tag(t, i, "ns/app", "v1")
	drop.wantSigned(t, "ns/app", i.digest())
	shows(t, refusal(t, "serve", "-config", config(t, "retention: {deleted: burn}\n")), "retention.deleted", "keep or drop")
}

// TestRetentionHidden stands beside a registry that hides a repository from everybody but alice, this
// server too: as if it were not there, or behind a challenge. What is only hidden is not dropped, and
// what was is when the registry shows that it is gone.
func TestRetentionHidden(t *testing.T) {
	t.Parallel()
	var hides atomic.Int32 // with this status; 0: nothing
	behind, err := url.Parse("http://" + distribution(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	hiding := odd(t, func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		status := int(hides.Load())
		if user == "alice" || status == 0 || r.URL.Path == "/v2/" {
			proxy.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`) // the server is gone if that fails
	})
	tokens := filepath.Join(t.TempDir(), "tokens")
	made, err := command(t.Context(), "token", "-file", tokens, "-days", "1", "admin").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "-config", config(t, fmt.Sprintf("retention: {deleted: drop, after: 0s}\nregistry: {url: '%s'}\naccess:\n  tokens: %s\n  grants:\n"+
		"  - {who: ['token:admin'], repositories: ['**'], actions: [admin]}\n", hiding, tokens)))
	alice, admin := s.as(basic("alice", "secret")), s.as("Bearer "+strings.TrimSpace(string(made)))
	i := newImage("hidden")
	hides.Store(404)
	for _, repository := range []string{"ns/kept", "ns/gone"} {
		alice.push(t, i, repository, "v1")
		alice.wantSigned(t, repository, i.digest(), "server "+s.address+"/"+repository+":v1")
	}
	// problem waits until the task has failed so, and returns its path.
	problem := func(words string) string {
		t.Helper()
		var page struct {
			Tasks []struct{ ID, Kind, Problem string }
		}
		eventually(t, "a task fails: "+words, func() bool {
			if err := json.Unmarshal([]byte(admin.get(t, "/api/v1/queue").want(t, 200).body), &page); err != nil {
				t.Fatal(err)
			}
			return len(page.Tasks) == 1 && page.Tasks[0].Kind == "drop" && strings.Contains(page.Tasks[0].Problem, words)
		})
		return "/api/v1/queue/" + page.Tasks[0].ID
	}
	// The tag goes, comes back behind this server's back, and nothing is dropped for it.
	alice.deletes(t, "ns/kept", "v1")
	direct := &server{address: behind.Host}
	direct.push(t, i, "ns/kept", "v1")
	task := problem("hidden from this server")
	hides.Store(401)
	admin.do(t, "POST", task+"/retry", "").want(t, 204)
	problem("other credentials")
	hides.Store(0)
	eventually(t, "the task ends", func() bool { // it may be at work by itself
		admin.do(t, "POST", task+"/retry", "").within(t, 204, 404, 409)
		return !strings.Contains(admin.get(t, "/api/v1/queue").want(t, 200).body, `"id"`)
	})
	alice.wantSigned(t, "ns/kept", i.digest(), "server "+s.address+"/ns/kept:v1")

	hides.Store(404)
	alice.deletes(t, "ns/gone", i.digest())
	problem("hidden from this server")
	alice.wantSigned(t, "ns/gone", i.digest(), "server "+s.address+"/ns/gone:v1")
	hides.Store(0)
	eventually(t, "what is gone for everybody to see is dropped", func() bool {
		return len(alice.signatures(t, "ns/gone", i.digest())) == 0
	})
}
