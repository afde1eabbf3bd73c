package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// pass serves a remote registry in front of address. Its Embedded is nil.
func pass(t *testing.T, address string, c RemoteConfig) (*served, *Remote) {
	t.Helper()
	c.URL = parseURL(t, address)
	transport := Transport(nil)
	if c.Transport == nil {
		c.Transport = transport
	}
	r, err := NewRemote(c)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	return &served{t: t, url: server.URL}, r
}

// upstream serves a registry that behaves as the handler does.
func upstream(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func TestRemotePassesEverythingOn(t *testing.T) {
	t.Parallel()
	behind := serve(t, EmbeddedConfig{})
	s, r := pass(t, behind.url, RemoteConfig{})
	image := s.image("a/b", "0123456789")
	d := s.push("a/b", "v1", image)
	if m, err := r.Manifest(t.Context(), "a/b", "v1"); err != nil || m.Digest != d || m.MediaType != ociImage || string(m.Content) != image {
		t.Errorf("Manifest: %+v, %v, want %s", m, err, image)
	}
	if m, err := r.Manifest(t.Context(), "a/b", d.String()); err != nil || m.Digest != d {
		t.Errorf("Manifest by digest: %+v, %v", m, err)
	}
	blob := "/v2/a/b/blobs/" + digest.FromString("0123456789").String()
	for name, test := range map[string]struct {
		method, path string
		headers      []string
		status       int
		body         string
	}{
		"ping":     {"GET", "/v2/", nil, 200, "{}"},
		"manifest": {"GET", "/v2/a/b/manifests/v1", []string{"Accept", ociImage}, 200, image},
		"head":     {"HEAD", "/v2/a/b/manifests/v1", []string{"Accept", ociImage}, 200, ""},
		"known":    {"GET", "/v2/a/b/manifests/v1", []string{"Accept", ociImage, "If-None-Match", `"` + d.String() + `"`}, 304, ""},
		"range":    {"GET", blob, []string{"Range", "bytes=3-5"}, 206, "345"},
		"tags":     {"GET", "/v2/a/b/tags/list", nil, 200, "{\"name\":\"a/b\",\"tags\":[\"v1\"]}\n"},
		"mount":    {"POST", "/v2/c/blobs/uploads/?from=a/b&mount=" + digest.FromString("0123456789").String(), nil, 201, ""},
		"form":     {"POST", "/v2/d/blobs/uploads/?mount=" + digest.FromString("0123456789").String(), []string{"Content-Type", "application/x-www-form-urlencoded"}, 202, ""},
	} {
		got := s.do(test.method, test.path, "", test.headers...)
		if got.status != test.status || got.body != test.body {
			t.Errorf("%s: got %d %q, want %d %q", name, got.status, got.body, test.status, test.body)
		}
	}
	s.want(202, s.do("DELETE", "/v2/a/b/manifests/"+d.String(), ""), "delete")
	if _, err := r.Manifest(t.Context(), "a/b", d.String()); !isUnknown(err) {
		t.Errorf("Manifest of what is deleted: %v", err)
	}
}

// An upload goes on where it ended, also if each part comes through another process.
func TestRemoteUploadsResume(t *testing.T) {
	t.Parallel()
	behind := serve(t, EmbeddedConfig{})
	one, _ := pass(t, behind.url, RemoteConfig{})
	two, _ := pass(t, behind.url, RemoteConfig{})
	begun := one.want(202, one.do("POST", "/v2/a/blobs/uploads/", ""), "begin")
	some := two.want(202, two.do("PATCH", begun.header.Get("Location"), "01234"), "part")
	where := one.want(204, one.do("GET", some.header.Get("Location"), ""), "status")
	if got := where.header.Get("Range"); got != "0-4" {
		t.Errorf("Range %q, want 0-4", got)
	}
	more := one.want(202, one.do("PATCH", where.header.Get("Location"), "56789", "Content-Range", "5-9"), "part")
	d := digest.FromString("0123456789").String()
	two.want(201, two.do("PUT", more.header.Get("Location")+"&digest="+d, ""), "end")
	if got := one.want(200, one.do("GET", "/v2/a/blobs/"+d, ""), "read"); got.body != "0123456789" {
		t.Errorf("got %q", got.body)
	}
}

// A registry that sends clients to itself under whatever name it was asked for, or knows itself
// by, would send them past this server, or nowhere.
func TestRemoteLocations(t *testing.T) {
	t.Parallel()
	var self string
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		host := map[string]string{
			"host": r.Host, "self": self, "forwarded": r.Header.Get("X-Forwarded-Host"), "storage": "storage.example",
		}[r.URL.Query().Get("name")]
		w.Header().Set("Location", r.Header.Get("X-Forwarded-Proto")+"://"+host+"/v2/a/blobs/uploads/u?_state=x%2Fy%3D")
		w.Header().Set("Link", "<http://"+host+"/v2/_catalog?n=1&last=a>; rel=\"next\"")
		w.Header().Set("Www-Authenticate", `Bearer realm="http://`+host+`/v2/token"`)
	})
	self = parseURL(t, address).Host
	s, _ := pass(t, address, RemoteConfig{})
	for _, name := range []string{"host", "self", "forwarded"} {
		got := s.do("GET", "/v2/?name="+name, "", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "registry.example.com")
		if l, k := got.header.Get("Location"), got.header.Get("Link"); l != "/v2/a/blobs/uploads/u?_state=x%2Fy%3D" || k != `</v2/_catalog?n=1&last=a>; rel="next"` {
			t.Errorf("%s: Location %q, Link %q; want both relative", name, l, k)
		}
	}
	got := s.do("GET", "/v2/?name=storage", "", "X-Forwarded-Proto", "https")
	if l := got.header.Get("Location"); l != "https://storage.example/v2/a/blobs/uploads/u?_state=x%2Fy%3D" {
		t.Errorf("Location of a storage: %q, want as it was", l)
	}
	if a := got.header.Get("Www-Authenticate"); a != `Bearer realm="http://storage.example/v2/token"` {
		t.Errorf("Www-Authenticate %q, want as it was", a)
	}
}

func TestRemoteHeaders(t *testing.T) {
	t.Parallel()
	heard := make(chan *http.Request, 10)
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		heard <- r
		w.Header()["Www-Authenticate"] = []string{`Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull"`, `Basic realm="r"`}
		w.Header().Set("X-Registry-Supports-Signatures", "true")
		w.WriteHeader(401)
	})
	s, _ := pass(t, address, RemoteConfig{})
	got := s.do("GET", "/v2/", "", "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "Forwarded", "host=evil.example",
		"Authorization", "Bearer t", "Connection", "X-Hop", "X-Hop", "1", "Accept-Encoding", "identity")
	if a := got.header["Www-Authenticate"]; got.status != 401 || len(a) != 2 || a[1] != `Basic realm="r"` || !strings.HasSuffix(a[0], `scope="repository:a:pull"`) {
		t.Errorf("got %d, Www-Authenticate %q, want both as they were", got.status, a)
	}
	if v := got.header["X-Registry-Supports-Signatures"]; v != nil {
		t.Errorf("X-Registry-Supports-Signatures %q, want none", v)
	}
	r := <-heard
	for name, want := range map[string]string{
		"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": parseURL(t, s.url).Host,
		"Authorization": "Bearer t", "X-Hop": "", "Forwarded": "",
	} {
		if v := r.Header.Get(name); v != want {
			t.Errorf("%s: the registry got %q, want %q", name, v, want)
		}
	}
	if r.Host != parseURL(t, s.url).Host {
		t.Errorf("Host: the registry got %q, want the client's", r.Host)
	}
	s, remote := pass(t, address, RemoteConfig{Host: "inside.example"})
	s.do("GET", "/v2/", "")
	if r := <-heard; r.Host != "inside.example" || r.Header.Get("X-Forwarded-Host") != parseURL(t, s.url).Host {
		t.Errorf("Host %q, X-Forwarded-Host %q, want inside.example and the client's", r.Host, r.Header.Get("X-Forwarded-Host"))
	}
	_, err := remote.Manifest(WithAuthorization(t.Context(), "Basic x"), "a", "v1")
	if r := <-heard; r.Host != "inside.example" || r.Header.Get("Authorization") != "Basic x" || len(r.Header["Accept"]) != 4 {
		t.Errorf("Manifest asked %q with %v", r.Host, r.Header)
	}
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrRefused) {
		t.Errorf("Manifest, not let in: %v, want ErrUnavailable and ErrRefused", err)
	}
}

// What the server set for its own answer outlives an interim one of the registry's: the
// extension header is there on 200 and 401 (protocol.md 3.1).
func TestRemoteInterimAnswers(t *testing.T) {
	t.Parallel()
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Registry-Supports-Signatures", "2")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	r, err := NewRemote(RemoteConfig{URL: parseURL(t, address)})
	if err != nil {
		t.Fatal(err)
	}
	front := upstream(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Registry-Supports-Signatures", "1")
		r.ServeHTTP(w, req)
	})
	interim := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { interim++; return nil }})
	req, _ := http.NewRequestWithContext(ctx, "GET", front+"/v2/", nil)
	answer, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if got := answer.Header["X-Registry-Supports-Signatures"]; !slices.Equal(got, []string{"1"}) || interim != 0 {
		t.Errorf("got %q after %d interim answers, want exactly 1 and none", got, interim)
	}
}

// Whoever decided on a request saw this path, and no registry gets another. Nothing is passed
// through another protocol either, where nobody would see it.
func TestRemoteRefusesTricks(t *testing.T) {
	t.Parallel()
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" && r.URL.Path == "/v2/upgrade" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "h2c")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		w.Header().Set("Reached", r.RequestURI)
	})
	s, _ := pass(t, address, RemoteConfig{})
	for _, path := range []string{
		"/v2/a/../b/manifests/v1", "/v2/a%2Fb/manifests/v1", "/v2/a%2fb/manifests/v1", "/v2/a/%2e%2e/b/manifests/v1", "/v2/./a/manifests/v1", "/v2/..",
		"/v2//a/manifests/v1", "/v2/a//manifests/v1", "/v2/a/manifests/v1%00", "/v2/a%5Cb/manifests/v1", "/v2/a%252Fb/manifests/v1", "/v3/", "/v2x/", "/", "//v2/", "/v2/a%3Fb/tags/list", "/V2/",
	} {
		got := s.raw("GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if got.StatusCode != 400 || got.Header.Get("Reached") != "" {
			t.Errorf("%s: got %d, the registry got %q; want 400", path, got.StatusCode, got.Header.Get("Reached"))
		}
	}
	for _, method := range []string{"TRACE", "CONNECT", "PROPFIND", "get"} {
		got := s.raw(method + " /v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if got.StatusCode < 400 || got.Header.Get("Reached") != "" {
			t.Errorf("%s: got %d, the registry got %q; want it refused", method, got.StatusCode, got.Header.Get("Reached"))
		}
	}
	if got := s.raw("GET /v2/upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"); got.StatusCode != 503 {
		t.Errorf("upgrade: got %d, want 503", got.StatusCode)
	}
	got := s.raw("GET /v2/a/manifests/sha256%3Aab?n=%2F HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if reached := got.Header.Get("Reached"); got.StatusCode != 200 || reached != "/v2/a/manifests/sha256:ab?n=%2F" {
		t.Errorf("an escape that changes nothing: got %d, the registry got %q", got.StatusCode, reached)
	}
}

// raw sends bytes that no client of Go would.
func (s *served) raw(request string) *http.Response {
	s.t.Helper()
	conn, err := net.Dial("tcp", parseURL(s.t, s.url).Host)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatalf("%q: %v", request, err)
	}
	return answer
}

func TestRemoteManifest(t *testing.T) {
	t.Parallel()
	const image = `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":{}}`
	d := digest.FromString(image).String()
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, kind, _ := strings.Cut(r.URL.Path, "/manifests/")
		w.Header().Set("Content-Type", ociImage+"; charset=utf-8")
		switch kind {
		case "lies":
			w.Header().Set(contentDigest, digestA.String())
		case "large":
			_, _ = io.CopyN(w, zeros{}, maxManifest+1)
			return
		case "largest":
			_, _ = io.CopyN(w, zeros{}, maxManifest)
			return
		case "old":
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
		case "page", "none":
			w.Header()["Content-Type"] = map[string][]string{"page": {"text/html; charset=utf-8"}, "none": nil}[kind]
		case "unknown", "harbors", "text", "errorless", "endless":
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, map[string]string{
				"unknown": `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, "harbors": `{"errors":[{"code":"NOT_FOUND","message":"artifact a:v1 not found"}]}`,
				"text": "404 page not found\n", "errorless": `{"errors":[]}`, "endless": strings.Repeat(" ", maxRefusal) + `{"errors":[{}]}`,
			}[kind])
			return
		case "elsewhere":
			http.Redirect(w, r, "/v2/b/manifests/v1", http.StatusTemporaryRedirect)
			return
		case "short":
			w.Header().Set("Content-Length", "1000")
		case "404", "401", "403", "429", "500", "503", "204":
			var status int
			_, _ = fmt.Sscan(kind, &status)
			w.WriteHeader(status)
			return
		}
		_, _ = io.WriteString(w, image)
	})
	_, r := pass(t, address, RemoteConfig{})
	for _, test := range []struct {
		repository, reference string
		want                  error
	}{
		{"a", "v1", nil}, {"a/b", d, nil}, {"a", digestA.String(), ErrUnavailable}, {"a", "lies", ErrUnavailable}, {"a", "large", ErrUnavailable},
		{"a", "largest", nil}, {"a", "old", ErrUnknown}, {"a", "page", ErrUnavailable}, {"a", "none", ErrUnavailable}, {"a", "elsewhere", ErrUnavailable}, {"a", "short", ErrUnavailable},
		{"a", "unknown", ErrUnknown}, {"a", "harbors", ErrUnknown}, {"a", "text", ErrUnavailable}, {"a", "errorless", ErrUnavailable}, {"a", "endless", ErrUnavailable},
		{"a", "404", ErrUnavailable}, {"a", "401", ErrRefused}, {"a", "403", ErrRefused}, {"a", "429", ErrUnavailable}, {"a", "500", ErrUnavailable}, {"a", "204", ErrUnavailable},
		{"../a", "v1", ErrUnknown}, {"a", "../v1", ErrUnknown}, {"a", "v1?x", ErrUnknown}, {"A", "v1", ErrUnknown}, {"", "v1", ErrUnknown}, {"a", "", ErrUnknown},
		{"a:b", "v1", ErrUnknown}, {"a", "sha512:" + strings.Repeat("a", 128), ErrUnknown}, {"h:5000/a", "v1", ErrUnknown},
	} {
		m, err := r.Manifest(t.Context(), test.repository, test.reference)
		if !errors.Is(err, test.want) || (err == nil) != (m.Content != nil) {
			t.Errorf("%s, %s: got %d bytes, %v, want %v", test.repository, test.reference, len(m.Content), err, test.want)
		}
		if refused := errors.Is(err, ErrRefused); refused && !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) && errors.Is(err, ErrUnavailable) {
			t.Errorf("%s, %s: %v is of two kinds", test.repository, test.reference, err)
		}
		if err == nil && (m.Digest != digest.FromBytes(m.Content) || m.MediaType != ociImage) {
			t.Errorf("%s, %s: %s %s is not of its content", test.repository, test.reference, m.Digest, m.MediaType)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRemoteURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://registry:5000": "", "https://registry": "", "http://[::1]:5000/": "", "registry:5000": "http://", "ftp://registry": "http://", "http://": "no host",
		"http://user:secret@registry": "credentials", "http://registry/v2/": "leave out", "http://registry/x": "leave out", "http://registry?x": "leave out", "http://registry#x": "leave out", "": "http://",
	} {
		r, err := NewRemote(RemoteConfig{URL: parseURL(t, address)})
		if want == "" && (err != nil || r == nil) || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: got %v, want %q in it, or nothing", address, err, want)
		}
	}
	if _, err := NewRemote(RemoteConfig{}); err == nil {
		t.Error("no URL: got no error")
	}
}

// Both sides may speak HTTP/2, each for itself.
func TestRemoteHTTP2(t *testing.T) {
	t.Parallel()
	e, err := NewEmbedded(t.Context(), EmbeddedConfig{Directory: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	behind := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proto", r.Proto)
		e.ServeHTTP(w, r)
	}))
	behind.EnableHTTP2 = true
	behind.StartTLS()
	t.Cleanup(behind.Close)
	config := behind.Client().Transport.(*http.Transport).TLSClientConfig
	config = config.Clone()
	config.NextProtos = nil
	transport := Transport(config)
	t.Cleanup(transport.CloseIdleConnections)
	heard := make(chan Push, 1)
	r, err := NewRemote(RemoteConfig{URL: parseURL(t, behind.URL), Transport: transport, Pushed: func(_ context.Context, p Push) error { heard <- p; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(r)
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	image := `{"schemaVersion":2,"mediaType":"` + ociList + `","manifests":[]}`
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", front.URL+"/v2/a/manifests/v1", strings.NewReader(image))
	req.Header.Set("Content-Type", ociList)
	answer, err := front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 201 || answer.ProtoMajor != 2 || answer.Header.Get("Proto") != "HTTP/2.0" {
		t.Fatalf("got %d over %s, and %s behind; want 201 over HTTP/2 both times", answer.StatusCode, answer.Proto, answer.Header.Get("Proto"))
	}
	if p := await(t, heard); p.Tag != "v1" || p.Manifest.Digest != digest.FromString(image) {
		t.Errorf("heard %+v", p)
	}
}

// await returns what comes, before the test gets impatient.
func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}
