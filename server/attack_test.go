package server_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
)

const secret = "content of " + host + "/secret/app"

// as asks as a caller, with headers.
func as(h http.Handler, c caller, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://"+host+path, strings.NewReader(body))
	if c.token != "" {
		r.SetBasicAuth("whoever", c.token)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			r.Host = value
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// private has a repository, secret/app, with an image and a signature, that only its owner may
// read, and a pusher of prod/.
func private(t *testing.T, change func(*server.Config)) (handler http.Handler, log *bytes.Buffer, owner, pusher caller, blob string) {
	t.Helper()
	all := []caller{
		{name: "owner", known: true, grants: map[string][]access.Action{host + "/": access.Actions()}},
		{name: "pusher", known: true, grants: map[string][]access.Action{host + "/prod/": {access.Pull, access.Push}}},
	}
	log = &bytes.Buffer{}
	handler, _, s := controlled(t, all, func(c *server.Config) {
		c.Log = slog.New(slog.NewJSONHandler(log, nil))
		change(c)
	})
	keep(t, s, host, "secret/app")
	blob = digest256(secret)
	if w := as(handler, all[0], "POST", "/v2/secret/app/blobs/uploads/?digest="+blob, secret, "Content-Type: application/octet-stream"); w.Code != 201 {
		location := w.Header().Get("Location")
		location = location[strings.Index(location, "/v2/"):]
		if w := as(handler, all[0], "PUT", location+"&digest="+blob, secret, "Content-Type: application/octet-stream"); w.Code != 201 {
			t.Fatalf("the owner's blob: %d %s", w.Code, w.Body)
		}
	}
	log.Reset()
	return handler, log, all[0], all[1], blob
}

func digest256(s string) string { return godigest.FromString(s).String() }

// Whoever may push to one repository gets at no other by the way a path is written.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	handler, _, owner, pusher, blob := private(t, func(*server.Config) {})
	if w := as(handler, owner, "GET", "/v2/secret/app/blobs/"+blob, ""); w.Code != 200 || w.Body.String() != secret {
		t.Fatalf("the owner: %d %s", w.Code, w.Body)
	}
	at := strings.Replace(digest256(""), ":", "=", 1)
	tails := []string{"/blobs/" + blob, "/manifests/v1", "/tags/list"}
	for _, trick := range []string{
		"/v2/secret/app%s", "/v2/prod/../secret/app%s", "/v2/prod/%%2e%%2e/secret/app%s", "/v2/prod%%2F..%%2Fsecret/app%s", "/v2/prod/app/..%%2f..%%2fsecret/app%s",
		"/v2//secret/app%s", "/v2/./secret/app%s", "/v2/prod/app/blobs/../../../secret/app%s", "/v2/prod/app/manifests/v1/../../../../secret/app%s",
		"/v2/secret%%2Fapp%s", "/v2/secret/app%s?repository=prod/app", "/v2/secret/app%s?name=prod/app", "/v2/prod/app%%00/../../secret/app%s",
		"/v2/secret\\app%s", "/v2/prod/app;/../secret/app%s", "/v2/SECRET/app%s", "/v2/secret/app/%s", "/v2/prod/app/manifests/secret/app%s",
		"/v2/prod/app/tags/list/../../../secret/app%s", "//v2/secret/app%s", "/v2/../v2/secret/app%s", "/V2/secret/app%s",
	} {
		for _, tail := range tails {
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
				path := fmt.Sprintf(trick, tail)
				r, err := http.NewRequest(method, "http://"+host+path, http.NoBody)
				if err != nil {
					continue // no client can send it
				}
				r.RequestURI, r.RemoteAddr, r.Body = path, "192.0.2.1:1", http.NoBody
				r.SetBasicAuth("whoever", pusher.token)
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code < 300 || strings.Contains(w.Body.String(), secret) {
					t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
				}
			}
		}
	}
	for _, path := range []string{
		"/sigstore/secret/app@" + at, "/sigstore//secret/app@" + at, "/sigstore/prod/../secret/app@" + at, "/sigstore/prod%2F..%2Fsecret/app@" + at,
		"/lookaside/" + host + "/secret/app@" + at, "/lookaside/" + host + "//secret/app@" + at, "/lookaside/" + host + ":443/secret/app@" + at,
		"/lookaside/" + strings.ToUpper(host) + "/secret/app@" + at, "/lookaside/" + other + "/../" + host + "/secret/app@" + at, "/lookaside/" + host + "./secret/app@" + at,
		"/lookaside/" + other + "%2F..%2F" + host + "/secret/app@" + at,
	} {
		path += "/signature-1"
		if w := as(handler, owner, "GET", "/sigstore/secret/app@"+at+"/signature-1", ""); w.Body.String() != secret {
			t.Fatalf("the owner: %d %s", w.Code, w.Body)
		}
		r, err := http.NewRequest("GET", "http://"+host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("whoever", pusher.token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 404 || strings.Contains(w.Body.String(), secret) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/api/v1/signatures?repository=secret/app", "/api/v1/signatures?host=" + host + "&repository=secret/app", "/api/v1/signatures?repository=prod/app&repository=secret/app&host=",
		"/api/v1/signatures?repository=prod/../secret/app", "/api/v1/signatures?host=" + strings.ToUpper(host) + "&repository=secret/app", "/extensions/v2/prod/app/signatures/x/../../../secret/app/signatures/" + digest256("")} {
		if w := as(handler, pusher, "GET", path, ""); strings.Contains(w.Body.String(), "secret/app@") || strings.Contains(w.Body.String(), strings.Repeat("A", 40)) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
}

// A blob comes from another repository only for whoever may pull it there, wherever the request
// has what it asks for.
func TestMounts(t *testing.T) {
	t.Parallel()
	handler, _, owner, pusher, blob := private(t, func(*server.Config) {})
	form, multipart := "from=secret/app&mount="+blob, "--b\r\nContent-Disposition: form-data; name=\"from\"\r\n\r\nsecret/app\r\n--b\r\nContent-Disposition: form-data; name=\"mount\"\r\n\r\n"+blob+"\r\n--b--\r\n"
	for _, attempt := range []struct{ query, body, kind string }{
		{"?from=secret/app&mount=" + blob, "", ""},
		{"?mount=" + blob + "&from=prod/app&from=secret/app", "", ""},
		{"?mount=" + blob + "&from=secret/app&from=prod/app", "", ""},
		{"?mount=" + blob + "&from=secret%2Fapp", "", ""},
		{"?mount=" + blob + "&from=prod/../secret/app", "", ""},
		{"?mount=" + blob + "&fr%6fm=secret/app", "", ""},
		{"?mount=" + blob + ";from=secret/app", "", ""},
		{"", form, "application/x-www-form-urlencoded"},
		{"?mount=" + blob, form, "application/x-www-form-urlencoded; charset=utf-8"},
		{"?from=prod/app&mount=" + blob, form, "application/x-www-form-urlencoded"},
		{"", multipart, "multipart/form-data; boundary=b"},
	} {
		w := as(handler, pusher, "POST", "/v2/prod/app/blobs/uploads/"+attempt.query, attempt.body, "Content-Type: "+attempt.kind)
		if w.Code != 202 || w.Header().Get("Location") == "" {
			t.Errorf("%+v: %d %s, want an upload", attempt, w.Code, w.Body)
		}
	}
	if w := as(handler, pusher, "GET", "/v2/prod/app/blobs/"+blob, ""); w.Code != 404 {
		t.Errorf("it was mounted: %d %s", w.Code, w.Body)
	}
	if w := as(handler, owner, "POST", "/v2/prod/app/blobs/uploads/?from=secret/app&mount="+blob, ""); w.Code != 201 {
		t.Errorf("whoever may: %d %s", w.Code, w.Body)
	}
}

// What proxies add, clients may add too: none of it makes anybody somebody else, on any route.
func TestHeadersAreNobody(t *testing.T) {
	t.Parallel()
	handler, log, owner, pusher, _ := private(t, func(*server.Config) {})
	for _, header := range []string{
		"X-Forwarded-User: token:owner", "X-Remote-User: token:owner", "Remote-User: token:owner", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1",
		"Forwarded: for=127.0.0.1;host=localhost", "X-Forwarded-Host: " + other, "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /v2/prod", "X-Original-URL: /v2/prod/app/tags/list",
		"X-Rewrite-URL: /v2/prod/app/tags/list", "X-HTTP-Method-Override: GET", "X-Forwarded-Client-Cert: Subject=\"CN=owner\"", "X-SSL-Client-Cert: x", "X-Client-Verify: SUCCESS",
		"Proxy-Authorization: Bearer " + owner.token, "X-Authorization: Bearer " + owner.token, "Cookie: token=" + owner.token, "Host: localhost", "Host: 127.0.0.1:5000", "Host: " + strings.ToUpper(host) + ":443",
		"X-Api-Key: " + owner.token, "Docker-Token: " + owner.token, "Impersonate-User: token:owner",
	} {
		for _, c := range []caller{pusher, {}} {
			want := map[bool]int{true: 403, false: 401}[c.known]
			for _, path := range []string{"/v2/secret/app/tags/list", "/extensions/v2/secret/app/signatures/" + digest256(""), "/api/v1/audit", "/api/v1/signatures?repository=secret/app"} {
				if w := as(handler, c, "GET", path, "", header); w.Code != want {
					t.Errorf("%s with %q: %d %s, want %d", path, header, w.Code, w.Body, want)
				}
			}
		}
	}
	if strings.Contains(log.String(), "token:owner\"") || strings.Contains(log.String(), owner.token) || strings.Contains(log.String(), pusher.token) {
		t.Error("the log has another's name, or a credential")
	}
	if !strings.Contains(log.String(), `"subject":"token:pusher"`) {
		t.Error("the log does not say who came")
	}
}

// Private repositories are served on the lookaside where the settings say so, and to their owners.
func TestPrivateLookaside(t *testing.T) {
	t.Parallel()
	path := "/sigstore/secret/app@" + strings.Replace(digest256(""), ":", "=", 1) + "/signature-1"
	for _, serve := range []bool{false, true} {
		handler, _, owner, pusher, _ := private(t, func(c *server.Config) { c.ServePrivate = serve })
		want := map[bool]int{false: 404, true: 200}[serve]
		for _, c := range []caller{{}, pusher, {token: "cst_a-token-that-is-none-of-them"}} {
			if w := as(handler, c, "GET", path, ""); w.Code != want {
				t.Errorf("serve %v, %q: %d %s, want %d", serve, c.name, w.Code, w.Body, want)
			}
		}
		if w := as(handler, owner, "GET", path, ""); w.Code != 200 {
			t.Errorf("its owner: %d %s", w.Code, w.Body)
		}
		if w := as(handler, pusher, "PUT", path, "x"); w.Code != 403 {
			t.Errorf("a write: %d %s", w.Code, w.Body)
		}
	}
}

// Each caller writes so often; reads, and blobs, are not counted. The lookaside never says 429.
func TestWriteLimit(t *testing.T) {
	t.Parallel()
	began := time.Now()
	handler, _, owner, pusher, _ := private(t, func(c *server.Config) {
		c.Writes = access.NewLimiter("writes", access.Rate{Second: 1, Burst: 3}, func() time.Time { return began })
	})
	extension := "/extensions/v2/prod/app/signatures/" + digest256("")
	lookaside := "/sigstore/prod/app@" + strings.Replace(digest256(""), ":", "=", 1)
	for range 10 {
		if w := as(handler, pusher, "POST", "/v2/prod/app/blobs/uploads/", ""); w.Code != 202 {
			t.Errorf("an upload of a blob: %d %s", w.Code, w.Body)
		}
	}
	for range 3 {
		if w := as(handler, pusher, "PUT", extension, "{}"); w.Code != 400 {
			t.Errorf("a write: %d %s, want 400", w.Code, w.Body)
		}
	}
	for _, test := range []struct {
		c                  caller
		method, path, body string
		status             int
		retry              bool
	}{
		{pusher, "PUT", extension, "{}", 429, true},
		{pusher, "PUT", "/v2/prod/app/manifests/v1", "{}", 429, true},
		{pusher, "PUT", "/v2/prod/blobs/app/manifests/v1", "{}", 429, true},
		{pusher, "POST", lookaside, "x", 503, true},
		{pusher, "PUT", lookaside + "/signature-1", "x", 503, true},
		{pusher, "GET", lookaside + "/signature-1", "", 404, false},
		{pusher, "GET", extension, "", 200, false},
		{pusher, "POST", "/v2/prod/app/blobs/uploads/", "", 202, false},
		{owner, "PUT", extension, "{}", 400, false},
	} {
		w := as(handler, test.c, test.method, test.path, test.body)
		if w.Code != test.status || (w.Header().Get("Retry-After") == "1") != test.retry {
			t.Errorf("%s: %s %s: %d with Retry-After %q, want %d: %s", test.c.name, test.method, test.path, w.Code, w.Header().Get("Retry-After"), test.status, w.Body)
		}
	}
}

// Failed logins are 429 everywhere but on the lookaside, where they are what is hidden is.
func TestFailedLoginsOnRoutes(t *testing.T) {
	t.Parallel()
	handler, _, _, pusher, _ := private(t, func(*server.Config) {})
	wrong := caller{token: "cst_a-token-that-is-none-of-them"}
	for n := 0; ; n++ {
		w := as(handler, wrong, "GET", "/v2/", "")
		if w.Code == 429 {
			break
		}
		if w.Code != 401 || n > 100 {
			t.Fatalf("login %d: %d %s", n, w.Code, w.Body)
		}
	}
	w := as(handler, wrong, "GET", "/v2/", "")
	if w.Header().Get("Retry-After") == "" || w.Header().Get("Www-Authenticate") != "" || !strings.Contains(w.Body.String(), "too many failed logins") {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	if w := as(handler, wrong, "GET", "/sigstore/secret/app@"+strings.Replace(digest256(""), ":", "=", 1)+"/signature-1", ""); w.Code != 404 {
		t.Errorf("on the lookaside: %d", w.Code)
	}
	if w := as(handler, pusher, "GET", "/v2/", ""); w.Code != 200 {
		t.Errorf("right credentials from there: %d %s", w.Code, w.Body)
	}
}
