package registry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A pair is the same registry twice: as ever, and behind a transport of somebody's own, of which all is
// ReverseProxy's.
type pair struct {
	registry     *script
	plain, proxy string
}

func newPair(t testing.TB, say func(c net.Conn, connection, request int)) pair {
	t.Helper()
	p := pair{registry: newScript(t, say)}
	transport := Transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	for url, of := range map[*string]http.RoundTripper{&p.plain: transport, &p.proxy: struct{ http.RoundTripper }{transport}} {
		r, err := NewRemote(RemoteConfig{URL: parseURL(t, p.registry.url), Transport: of, Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("X-Registry-Supports-Signatures", "1")
			r.ServeHTTP(w, req)
		}))
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.Start()
		t.Cleanup(server.Close)
		*url = server.URL
	}
	return p
}

// ask sends a request as it is, and says what the registry heard and what the client has of the answer.
// One that broke off is none, however much of it came.
func (p pair) ask(t testing.TB, url, request string) (heard, answered string) {
	t.Helper()
	p.registry.mu.Lock()
	p.registry.heard = nil
	p.registry.mu.Unlock()
	c, err := net.Dial("tcp", parseURL(t, url).Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	told(c, request)
	answered = answerOf(c, request)
	p.registry.mu.Lock()
	defer p.registry.mu.Unlock()
	if r := p.registry.heard; r != nil {
		heard = fmt.Sprintf("%s %s %s %q %d %v %q", r.Method, r.RequestURI, r.Host, r.Header, r.ContentLength, r.Close, r.Trailer)
	}
	return heard, answered
}

func answerOf(c net.Conn, request string) string {
	method, _, _ := strings.Cut(request, " ")
	answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return "no answer"
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "no answer"
	}
	answer.Header.Del("Date")
	answer.Header.Del("Trailer") // in whatever order, to who has no trailers
	if method == http.MethodGet && len(body) == 0 && answer.ContentLength <= 0 {
		// Whether net/http knows that nothing comes when it sends the head is chance.
		answer.ContentLength, answer.TransferEncoding = 0, nil
		answer.Header.Del("Content-Length")
	}
	return fmt.Sprintf("%s %s %q %d %v %v %q %q", answer.Proto, answer.Status, answer.Header, answer.ContentLength, answer.TransferEncoding, answer.Close, answer.Trailer, body)
}

// same fails if one of the pair makes something else of a request than the other.
func (p pair) same(t testing.TB, request string) {
	t.Helper()
	heard, answered := p.ask(t, p.plain, request)
	wantHeard, want := p.ask(t, p.proxy, request)
	if heard != wantHeard {
		t.Errorf("of %q the registry hears\n%s, want, as through ReverseProxy,\n%s", request, heard, wantHeard)
	}
	if answered != want {
		t.Errorf("to %q the answer is\n%s, want, as through ReverseProxy,\n%s", request, answered, want)
	}
}

// Whatever a client sends, the registry hears of it what it hears through ReverseProxy.
func TestReadRequests(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(c net.Conn, _, _ int) { told(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })
	for _, of := range []string{"GET /v2/a/manifests/v1", "HEAD /v2/a/manifests/v1", "GET " + blobPath, "HEAD " + blobPath, "GET /v2/", "GET /v2"} {
		for _, query := range []string{"", "?", "?ns=docker.io", "?a=1&b=2", "?a=%2Fb", "?a=%2", "?a;b=1", "?a b", "?a=" + strings.Repeat("b", 2000)} {
			p.same(t, of+query+" HTTP/1.1\r\nHost: registry.example\r\nAccept: a\r\n\r\n")
		}
		for _, header := range []string{
			"", "Accept: a\r\nAccept: b\r\n", "Authorization: Bearer t\r\n", "User-Agent: a\r\n", "User-Agent:\r\n", "User-Agent: a\r\nUser-Agent: b\r\n",
			"X-Empty:\r\n", "x-loWer: a\r\n", "X-Tab: a\tb\r\n", "X-Latin: \xfc\r\n", "Range: bytes=1-2\r\n", "If-None-Match: \"a\"\r\n", "Cookie: a=b\r\n",
			"Connection: X-Hop, , x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n", "Connection: close\r\n", "Connection: keep-alive\r\nKeep-Alive: 5\r\n",
			"Connection: Authorization\r\nAuthorization: Bearer t\r\n", "Connection: X-Forwarded-For\r\nX-Forwarded-For: a\r\n", "Connection:\r\n",
			"Keep-Alive: 5\r\n", "Proxy-Connection: close\r\n", "Proxy-Authenticate: a\r\n", "Proxy-Authorization: Basic x\r\n",
			"Te: trailers\r\n", "Te: gzip\r\n", "Te: gzip, trailers\r\nConnection: te\r\n", "Trailer: A\r\n",
			"Upgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: \xfc\r\n", "Expect: 100-continue\r\n",
			"Forwarded: host=evil.example\r\n", "X-Forwarded-For: a\r\nX-Forwarded-For: b, c\r\n", "X-Forwarded-For:\r\n",
			"X-Forwarded-Proto: https\r\nX-Forwarded-Host: front.example\r\n", "X-Forwarded-Proto:\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n",
			"Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: application/json\r\n", "Content-Length: 0\r\n", "X-Registry-Supports-Signatures: 1\r\n",
			"Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n",
			"X-Long: " + strings.Repeat("a", 20000) + "\r\n",
		} {
			p.same(t, of+" HTTP/1.1\r\nHost: registry.example:5000\r\n"+header+"\r\n")
		}
		p.same(t, of+" HTTP/1.0\r\n\r\n")
		p.same(t, of+" HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
	}
	p.same(t, "GET /v2/a/manifests/sha256%3Aab HTTP/1.1\r\nHost: a\r\n\r\n")
	p.same(t, "GET http://b.example/v2/a/manifests/v1 HTTP/1.1\r\nHost: a\r\n\r\n")
}

// What every pull sends is plain, and what could be read in two ways, or is for this hop, is not.
func TestReadIsPlain(t *testing.T) {
	t.Parallel()
	r, err := NewRemote(RemoteConfig{URL: parseURL(t, "http://registry.example")})
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := NewRemote(RemoteConfig{URL: parseURL(t, "https://registry.example")})
	if err != nil {
		t.Fatal(err)
	}
	request := func(method, path, header, body string) *http.Request {
		req := httptest.NewRequest(method, "http://a.example"+path, strings.NewReader(body))
		req.Header.Set("Accept", ociImage)
		if header != "" {
			req.Header.Set(header, "a")
		}
		return req
	}
	for _, req := range []*http.Request{
		request("GET", "/v2/a/manifests/v1", "Authorization", ""), request("HEAD", blobPath, "User-Agent", ""), request("GET", "/v2/a/manifests/v1?ns=docker.io", "", ""),
	} {
		if !r.isPlainRead(req) {
			t.Errorf("%s %s with %v is not plain", req.Method, req.URL, req.Header)
		}
		if encrypted.isPlainRead(req) {
			t.Errorf("%s %s of a registry with TLS is plain", req.Method, req.URL)
		}
	}
	for _, req := range []*http.Request{
		request("GET", blobPath, "", ""), request("GET", "/v2/", "", "body"), request("PUT", "/v2/", "", ""), request("OPTIONS", "/v2/", "", ""), request("DELETE", "/v2/", "", ""),
		request("GET", "/v2/?a=1&b=2", "", ""), request("GET", "/v2/?a=%2F", "", ""), request("GET", "/v2/?a;b", "", ""),
		request("GET", "/v2/", "Connection", ""), request("GET", "/v2/", "Te", ""), request("GET", "/v2/", "Upgrade", ""), request("GET", "/v2/", "Proxy-Authorization", ""),
	} {
		if r.isPlainRead(req) {
			t.Errorf("%s %s with %v is plain", req.Method, req.URL, req.Header)
		}
	}
}

// Whatever a registry answers, the client has of it what it has through ReverseProxy.
func FuzzRead(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\n"
	chunked := ok + "Transfer-Encoding: chunked\r\n"
	for _, seed := range []string{
		asked + "abc", asked + "ab", asked + "abcd", asked, ok + "\r\nabc", "HTTP/1.0 200 OK\r\n\r\nabc", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		ok + "Content-Length: 5000\r\n\r\n" + strings.Repeat("a", 5000), ok + "Content-Length: 5000\r\n\r\n" + strings.Repeat("a", 4999),
		ok + "Content-Length: 65536\r\n\r\n" + strings.Repeat("a", 65536), ok + "Content-Length: 65537\r\n\r\n" + strings.Repeat("a", 65537),
		ok + "Content-Length: 300000\r\n\r\n" + strings.Repeat("a", 300000), ok + "Content-Length: 300000\r\n\r\n" + strings.Repeat("a", 299999),
		chunked + "\r\n3\r\nabc\r\n0\r\n\r\n", chunked + "\r\n0\r\n\r\n", chunked + "\r\n3\r\nab", chunked + "\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		chunked + "Trailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n", chunked + "Trailer: A, B\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n", ok + "Trailer: A\r\nContent-Length: 3\r\n\r\nabc",
		ok + "Connection: close\r\nContent-Length: 3\r\n\r\nabc", ok + "Connection: X-Hop, keep-alive,\r\nX-Hop: 1\r\nX-Other: 2\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n\r\nabc",
		ok + "Connection: content-length, docker-content-digest\r\nDocker-Content-Digest: a\r\nContent-Length: 3\r\n\r\nabc",
		ok + "Proxy-Authenticate: a\r\nProxy-Connection: a\r\nTe: a\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
		ok + "X-Registry-Supports-Signatures: 2\r\nX-A: 1\r\nX-A: 2\r\nx-b:\r\nDate: a\r\nServer: b\r\nContent-Length: 3\r\n\r\nabc",
		ok + "Content-Type: text/event-stream\r\nContent-Length: 3\r\n\r\nabc", ok + "Content-Type:\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Type: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Bearer realm=\"a\"\r\nWww-Authenticate: Basic realm=\"b\"\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://registry.example/v2/b?c=d\r\nLink: <http://registry.example/v2/_catalog?n=1>; rel=\"next\"\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://elsewhere.example/v2/b\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 Nothing\r\nLocation:\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + asked + "abc", "HTTP/1.1 100 Continue\r\n\r\n" + asked + "abc", "HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 099 A\r\n\r\n", "HTTP/1.1 999 A\r\nContent-Length: 0\r\n\r\n",
		ok + "A: " + strings.Repeat("b", maxHeader) + "\r\n\r\n", ok + "A: " + strings.Repeat("b", maxHeader-500) + "\r\nContent-Length: 3\r\n\r\nabc", "", "\r\n", "HTTP/2.0 200 OK\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		for _, request := range []string{
			"GET /v2/a/manifests/v1 HTTP/1.1\r\nHost: registry.example\r\n\r\n", "HEAD /v2/a/manifests/v1 HTTP/1.1\r\nHost: registry.example\r\n\r\n", "GET /v2/a/manifests/v1 HTTP/1.0\r\n\r\n",
		} {
			p := newPair(t, func(c net.Conn, _, _ int) { // for this request alone: what is left of the answer is another's chance
				_, _ = c.Write(said)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c) // what it hears is nothing, or its end
			})
			p.same(t, request)
		}
	})
}

// Many clients at a time get what is theirs, and the registry hears from each what it sent: nothing is left
// of one read for the next.
func TestReadTogether(t *testing.T) {
	t.Parallel()
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		if extra := r.Header[fmt.Sprint("X-Of-", n)]; len(extra) != 1 || len(r.Header) != 7 {
			t.Errorf("%d: the registry hears %v", n, r.Header)
		}
		w.Header().Set(fmt.Sprint("X-For-", n), "a")
		w.Header().Set("Content-Length", fmt.Sprint(100*n)) // else it is chunked, and ReverseProxy's
		_, _ = io.WriteString(w, strings.Repeat(string(rune('a'+n%26)), 100*n))
	})
	front, _ := pass(t, address, RemoteConfig{})
	var all sync.WaitGroup
	for client := range 8 {
		all.Go(func() {
			for k := range 20 {
				n := client*20 + k
				got := front.do("GET", fmt.Sprint("/v2/a/manifests/v1?n=", n), "", fmt.Sprint("X-Of-", n), "a", "Accept-Encoding", "identity", "User-Agent", "a", "Accept", "b")
				if want := strings.Repeat(string(rune('a'+n%26)), 100*n); got.body != want || got.header.Get(fmt.Sprint("X-For-", n)) != "a" {
					t.Errorf("%d: %v and %d bytes, want %d of its own", n, got.header, len(got.body), len(want))
				}
			}
		})
	}
	all.Wait()
}

// A gone is a client that takes nothing any more.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, errors.New("gone") }

// An answer that a client has not got to its end is aborted: its connection says nothing more.
func TestReadAborts(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(c net.Conn, _, _ int) { told(c, asked+"abc") })
	r, err := NewRemote(RemoteConfig{URL: parseURL(t, s.url)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if said := recover(); said != http.ErrAbortHandler {
			t.Errorf("the handler ends with %v, want %v", said, http.ErrAbortHandler)
		}
	}()
	r.ServeHTTP(gone{httptest.NewRecorder()}, httptest.NewRequestWithContext(t.Context(), "GET", "/v2/a/manifests/v1", nil))
}
