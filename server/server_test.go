package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

const host = "registry.example.com"

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// newServer returns a server that signs nothing and trusts nobody, and its store.
func newServer(t testing.TB) (*server.Server, *disk.Store) {
	t.Helper()
	return serverWith(t, func(*server.Config) {})
}

// serverWith returns one whose configuration is changed first.
func serverWith(t testing.TB, change func(*server.Config)) (*server.Server, *disk.Store) {
	t.Helper()
	s, err := disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it first
	r, err := registry.NewEmbedded(t.Context(), registry.EmbeddedConfig{Directory: t.TempDir(), Refusal: server.Refusal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	nobody := policy.Trust([]string{host}, signature.Join())
	door := admission.New(admission.Config{
		Hosts: []string{host}, Policy: func(time.Time) *policy.Policy { return nobody }, Clients: signature.AllClients, Clock: time.Now,
	})
	metrics := prometheus.NewRegistry()
	rules, err := signing.New(signing.Config{
		Hosts: []string{host}, Registry: r, Store: s, Door: door, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := server.Config{
		Hosts: []string{host}, Registry: r, Store: s, Door: door, Signing: rules, Advertise: true,
		Log: slog.New(slog.DiscardHandler), Metrics: metrics, Clock: time.Now,
	}
	change(&c)
	srv, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return srv, s
}

func ask(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://"+host+path, nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// While the registry that says who may pull is away, the extension says what clients retry, until that
// does not help. Nobody is let in meanwhile who was not before.
func TestNobodyDecides(t *testing.T) {
	t.Parallel()
	now := time.Now()
	registry := httptest.NewServer(http.NotFoundHandler())
	registry.Close()
	url, err := url.Parse(registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	who, err := access.NewRegistry(access.RegistryConfig{
		URL: url, Transport: http.DefaultTransport, Clock: func() time.Time { return now }, Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv, _ := serverWith(t, func(c *server.Config) {
		c.Access, c.Clock = who, func() time.Time { return now }
	})
	extension := api.ExtensionPrefix + "ns/app/signatures/" + digest
	for _, step := range []struct {
		after  time.Duration
		status int
	}{{0, 429}, {59 * time.Second, 429}, {time.Second, 503}} {
		now = now.Add(step.after)
		if w := ask(srv.Handler(), "GET", extension); w.Code != step.status {
			t.Errorf("GET %s, %v later: %d, want %d", extension, step.after, w.Code, step.status)
		}
	}
}

// Who gives up before the store has answered is no outage.
func TestOutageGivenUp(t *testing.T) {
	t.Parallel()
	srv, s := newServer(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	srv.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "http://"+host+api.ExtensionPrefix+"ns/app/signatures/"+digest, nil))
	const line = "countersign_store_away 0"
	if metrics := ask(srv.DebugHandler(), "GET", "/metrics").Body.String(); !strings.Contains(metrics, line) {
		t.Errorf("the metrics have no %q after a request that was given up:\n%s", line, metrics)
	}
}

// Where no node asks for a signature none is an answer while the store is away: after the wait that
// others have, and at once when that is known not to help.
func TestOutageUnsigned(t *testing.T) {
	t.Parallel()
	profile := func(scopes string) func() *policy.Policy {
		p, err := policy.Parse([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{` + scopes + `}}}`))
		if err != nil {
			t.Fatal(err)
		}
		return func() *policy.Policy { return p }
	}
	const anything = `"` + host + `/open":[{"type":"insecureAcceptAnything"}]`
	srv, s := serverWith(t, func(c *server.Config) {
		c.Profiles = map[string]func() *policy.Policy{
			"production": profile(anything + `,"` + host + `/open/tagged:v1":[{"type":"reject"}]`),
			"testing":    profile(`"":[{"type":"insecureAcceptAnything"}]`),
		}
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []struct {
			path   string
			status int
			took   time.Duration
		}{
			{"open/app", 200, 5 * time.Second},
			{"open/app", 200, 0},
			{"closed/app", 429, 5 * time.Second},
			{"open/tagged", 429, 5 * time.Second},
			{"open/tagged/more", 200, 0},
		} {
			began := time.Now()
			w := ask(srv.Handler(), "GET", api.ExtensionPrefix+step.path+"/signatures/"+digest)
			if took := time.Since(began); w.Code != step.status || took != step.took {
				t.Errorf("GET of %s: %d after %v, want %d after %v", step.path, w.Code, took, step.status, step.took)
			}
			if w.Code == 200 && strings.TrimSpace(w.Body.String()) != `{"signatures":[]}` {
				t.Errorf("GET of %s: %s, want an empty list", step.path, w.Body)
			}
		}
		lookaside := "/sigstore/open/app@" + strings.Replace(digest, ":", "=", 1) + "/signature-1"
		if w := ask(srv.Handler(), "GET", lookaside); w.Code != 404 {
			t.Errorf("GET %s: %d, want 404", lookaside, w.Code)
		}
	})
	metrics := ask(srv.DebugHandler(), "GET", "/metrics").Body.String()
	for _, line := range []string{"countersign_unsigned_answers_total 4", "countersign_store_away 1"} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("the metrics lack %q", line)
		}
	}
}

// While the store is away the extension says what clients retry, until that does not help; the
// lookaside never does (design.md 4; protocol.md 1.3, 3.4).
func TestOutage(t *testing.T) {
	t.Parallel()
	srv, s := newServer(t)
	extension, lookaside := api.ExtensionPrefix+"ns/app/signatures/"+digest, "/sigstore/ns/app@"+strings.Replace(digest, ":", "=", 1)+"/signature-1"
	if got := ask(srv.Handler(), "GET", extension).Code; got != 200 {
		t.Fatalf("before the outage: %d", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []struct {
			path   string
			status int
			took   time.Duration
			idle   time.Duration // before
		}{
			{extension, 429, 5 * time.Second, 0},
			{lookaside, 503, 10 * time.Second, 0},
			{extension, 429, 5 * time.Second, 0},
			{extension, 503, 5 * time.Second, time.Minute},
		} {
			<-time.After(step.idle)
			began := time.Now()
			w := ask(srv.Handler(), "GET", step.path)
			if took := time.Since(began); w.Code != step.status || took != step.took {
				t.Errorf("GET %s: %d after %v, want %d after %v", step.path, w.Code, took, step.status, step.took)
			}
			if retry := w.Header().Get("Retry-After"); (retry == "2") != (step.status == 429) {
				t.Errorf("GET %s: %d with Retry-After %q", step.path, w.Code, retry)
			}
			if strings.Contains(w.Body.String(), "closed") || strings.Contains(w.Body.String(), "bolt") {
				t.Errorf("the cause goes out: %s", w.Body)
			}
		}
	})
	if w := ask(srv.DebugHandler(), "GET", "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "away") {
		t.Errorf("/readyz: %d %s, want 503 and a line on the store", w.Code, w.Body)
	}
	if w := ask(srv.DebugHandler(), "GET", "/healthz"); w.Code != 200 {
		t.Errorf("/healthz: %d, want 200: the process is alive", w.Code)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	srv, _ := newServer(t)
	if w := ask(srv.DebugHandler(), "GET", "/readyz"); w.Code != 200 {
		t.Errorf("/readyz: %d %s, want 200", w.Code, w.Body)
	}
	srv.Drain()
	if w := ask(srv.DebugHandler(), "GET", "/readyz"); w.Code != 503 {
		t.Errorf("/readyz while it shuts down: %d %s, want 503", w.Code, w.Body)
	}
	if w := ask(srv.Handler(), "GET", "/v2/"); w.Code != 200 {
		t.Errorf("a request while it shuts down: %d, want 200", w.Code)
	}
}

// A page can make a browser send a request, and cannot choose these (design.md 4).
func TestGuard(t *testing.T) {
	t.Parallel()
	srv, _ := newServer(t)
	for _, test := range []struct {
		method, header string
		status         int
	}{
		{"GET", "Host: " + host, 200},
		{"GET", "Host: REGISTRY.example.com:443", 200},
		{"GET", "Host: localhost", 200},
		{"GET", "Host: 127.0.0.1:5000", 200},
		{"GET", "Host: [::1]:5000", 200},
		{"GET", "Host: evil.example.com", 421},
		{"GET", "Host: registry.example.com.evil.example.com", 421},
		{"GET", "Host: localhost.evil.example.com", 421},
		{"GET", "Host: 127.0.0.1.evil.example.com", 421},
		{"GET", "Host: evil.example.com:5000", 421},
		{"PUT", "Origin: http://evil.example.com", 403},
		{"PUT", "Origin: null", 403},
		{"PUT", "Sec-Fetch-Site: cross-site", 403},
		{"PUT", "Sec-Fetch-Site: same-site", 403},
		{"GET", "Sec-Fetch-Site: cross-site", 200},
	} {
		for name, h := range map[string]http.Handler{"/v2/": srv.Handler(), "/healthz": srv.DebugHandler()} {
			path := name
			if test.method == "PUT" && name == "/v2/" {
				path = "/v2/ns/app/manifests/v1"
			}
			if w := ask(h, test.method, path, test.header); w.Code != test.status {
				t.Errorf("%s %s with %q: %d, want %d: %s", test.method, path, test.header, w.Code, test.status, w.Body)
			}
		}
	}
}

// A body that trickles in is given up; whoever sends it gets no more than half a minute.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	srv, _ := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder(), passed: make(chan struct{})}
		r := httptest.NewRequest("PUT", "http://"+host+api.ExtensionPrefix+"ns/app/signatures/"+digest, trickle{w.passed})
		began := time.Now()
		srv.Handler().ServeHTTP(w, r)
		if took := time.Since(began).Truncate(time.Second); took != 30*time.Second || w.Code != 400 {
			t.Errorf("%d after %v, want 400 after 30s: %s", w.Code, took, w.Body)
		}
	})
}

// A deadlines is a connection of which only the read deadline matters.
type deadlines struct {
	*httptest.ResponseRecorder
	passed chan struct{}
}

func (d *deadlines) SetReadDeadline(time.Time) error {
	close(d.passed)
	return nil
}

// A trickle is a body that never ends by itself.
type trickle struct{ passed chan struct{} }

func (b trickle) Read([]byte) (int, error) {
	<-b.passed
	return 0, io.ErrUnexpectedEOF
}

// A held is a store whose trail shows no more, though there is more.
type held struct{ store.Store }

func (held) Records(_ context.Context, after store.Cursor, _ int) ([]store.Record, store.Cursor, error) {
	return nil, after, store.ErrHeld
}

// Who follows the audit trail is told to ask again where its end is held back, and is at the same place.
func TestHeldTrail(t *testing.T) {
	t.Parallel()
	s, _ := serverWith(t, func(c *server.Config) { c.Store = held{c.Store} })
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+api.AuditPath+"?after=here", nil))
	if want := `{"records":[],"next":"here"}`; w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("got %d %s, want 200 %s", w.Code, w.Body, want)
	}
}

// Nobody fills the log, or the audit trail, with what they ask.
func TestLongQuestions(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, _ := serverWith(t, func(c *server.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	body := fmt.Sprintf(`{"reference":"app:v1","profile":%q}`, strings.Repeat("x", 500<<10))
	r := httptest.NewRequest(http.MethodPost, "http://localhost"+api.VerifyPath, strings.NewReader(body))
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "xxx") || w.Body.Len() > 20<<10 || log.Len() > 20<<10 {
		t.Errorf("a profile of 500 KB: %d, an answer of %d bytes, %d bytes of log; want 400 and few\n%.300s", w.Code, w.Body.Len(), log.Len(), w.Body)
	}
}
