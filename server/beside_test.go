package server_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/registry"
)

// A neighbour is a registry that everybody may do everything in, and what it was sent.
type neighbour struct {
	mu   sync.Mutex
	sent []string // each Authorization
}

func (n *neighbour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.sent = append(n.sent, r.Header.Values("Authorization")...)
	n.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"},{"code":"BLOB_UPLOAD_UNKNOWN"}]}`)
}

func (n *neighbour) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	sent := n.sent
	n.sent = nil
	return sent
}

// besides returns a server beside a registry, whose own settings know these tokens and an issuer.
func besides(t *testing.T, n *neighbour, tokens string) http.Handler {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	own, err := access.Open(access.Settings{Tokens: file, OIDC: []access.Issuer{{
		Name: "ci", Issuer: "https://ci.example.com", Audience: "https://" + host, Identities: []access.Identity{{Claims: map[string]string{"sub": "**"}}},
	}}}, access.Options{Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	return beside(t, n, func(c *server.Config) { c.Own, c.Issued = own, own.Issued }).Handler()
}

// beside returns a server beside a registry, without settings of its own but for change.
func beside(t *testing.T, n http.Handler, change func(*server.Config)) *server.Server {
	t.Helper()
	upstream := httptest.NewServer(n)
	t.Cleanup(upstream.Close)
	u, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := registry.Transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	remote, err := registry.NewRemote(registry.RemoteConfig{URL: u, Refusal: server.Refusal, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	who, err := access.NewRegistry(access.RegistryConfig{URL: u, Transport: transport, Clock: time.Now, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	srv, _ := serverWith(t, func(c *server.Config) {
		c.Registry, c.Access = remote, who
		change(c)
	})
	return srv
}

// Beside a registry that lets everybody do everything, nobody signs, withdraws or administrates while
// our own settings let nobody. The cases are made from the table of routes.
func TestNobodyWithoutSettings(t *testing.T) {
	t.Parallel()
	n := &neighbour{}
	srv := beside(t, n, func(*server.Config) {})
	handler, asked := srv.Handler(), map[string]int{}
	for _, route := range srv.Routes() {
		for _, need := range route.Needs {
			for _, method := range need.Methods {
				var all []sent
				for _, h := range []string{host, other} {
					if need.In != "" && (!theirs(need.In) || h == other && need.In == string(access.Push)) {
						all = append(all, rows[route.Path](method, h, "ns/app")...)
					}
				}
				if need.Over != "" && need.Over != server.Anybody && !theirs(need.Over) && route.Name != "registry" {
					all = append(all, rows[route.Path](method, host, "")...)
				}
				for _, s := range all {
					r := httptest.NewRequest(method, "http://"+host+s.path, strings.NewReader(s.body))
					r.SetBasicAuth("admin", "secret")
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, r)
					if asked[need.In+need.Over]++; w.Code != http.StatusForbidden {
						t.Errorf("%s %s is answered %d %s, want 403", method, s.path, w.Code, w.Body)
					}
				}
			}
		}
	}
	for _, a := range []access.Action{access.Push, access.Sign, access.Withdraw, access.Admin} {
		if asked[string(a)] == 0 {
			t.Errorf("nobody tried to %s: %v", a, asked)
		}
	}
	if sent := n.take(); len(sent) > 0 {
		t.Errorf("the registry was asked %d times", len(sent))
	}
}

// theirs are the actions that a registry decides on, in its own repositories.
func theirs(action string) bool {
	return action == string(access.Pull) || action == string(access.Push) || action == server.Anybody
}

// tokenFor looks like a token of an issuer. Nobody has signed it.
func tokenFor(issuer, audience string) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"ES256","kid":"one"}`) + "." + part(fmt.Sprintf(`{"iss":%q,"aud":[%q],"sub":"job","exp":4102444800}`, issuer, audience)) + "." + part(strings.Repeat("s", 64))
}

// What somebody logs in here with, the registry could use here, too. It sees none of that, whichever
// way a request takes; what is not for this server alone it does see.
func TestRegistrySeesNoTokenOfOurs(t *testing.T) {
	t.Parallel()
	static, line, err := access.NewToken("ci", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	n := &neighbour{}
	handler := besides(t, n, line+"\n")
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("ci:"+password))
	}
	ours, issued := "https://"+host, tokenFor("https://ci.example.com", "https://"+host)
	for name, test := range map[string]struct {
		sent []string
		seen bool
	}{
		"static":                          {[]string{"Bearer " + static}, false},
		"static, as a password":           {[]string{basic(static)}, false},
		"static, with two blanks":         {[]string{"bearer  " + static}, false},
		"of an issuer":                    {[]string{"Bearer " + issued}, false},
		"of an issuer, as a password":     {[]string{basic(issued)}, false},
		"behind another, which counts":    {[]string{basic("secret"), basic(issued)}, false},
		"of an issuer, for somebody else": {[]string{"Bearer " + tokenFor("https://ci.example.com", "https://other.example.com")}, true},
		"of another issuer, for us":       {[]string{"Bearer " + tokenFor("https://registry.example.com", ours)}, true},
		"name and password":               {[]string{basic("secret")}, true},
	} {
		for _, path := range []string{
			"GET /v2/", "GET /v2/a/manifests/v1", "PUT /v2/a/manifests/v1", "PATCH /v2/a/blobs/uploads/1",
			"GET " + api.ExtensionPrefix + "a/signatures/" + digest, "PUT " + api.ExtensionPrefix + "a/signatures/" + digest,
			"GET /sigstore/a@" + strings.Replace(digest, ":", "=", 1) + "/signature-1", "POST " + api.VerifyPath,
		} {
			method, path, _ := strings.Cut(path, " ")
			body := ""
			if method == "POST" {
				body = `{"reference":"` + host + `/a:v1"}`
			}
			r := httptest.NewRequest(method, "http://"+host+path, strings.NewReader(body))
			r.Header["Authorization"] = slices.Clone(test.sent)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			sent := n.take()
			shown := slices.ContainsFunc(sent, func(a string) bool { return a != test.sent[0] || len(test.sent) == 1 })
			if !test.seen && shown {
				t.Errorf("%s: %s %s is answered %d, and shows the registry %.40q", name, method, path, w.Code, sent)
			}
			if w.Code >= 500 {
				t.Errorf("%s: %s %s is answered %d %s", name, method, path, w.Code, w.Body)
			}
			if strings.HasPrefix(path, "/v2/") && test.seen && !slices.Equal(sent, test.sent) {
				t.Errorf("%s: %s %s shows the registry %.40q, want what was sent", name, method, path, sent)
			}
		}
	}
}
