package repeat_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server/repeat"
)

const patience = time.Minute

func ours(path string) bool { return strings.HasPrefix(path, "/often/") }

// A house is a server whose listener looks for repeated requests.
type house struct {
	*http.Server
	listener *repeat.Listener
	address  string
	read     atomic.Int32 // requests that net/http began to read
}

func serve(t testing.TB, handler http.HandlerFunc, settings ...func(*http.Server)) *house {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{listener: repeat.New(tcp, ours), address: tcp.Addr().String()}
	h.Server = &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateActive {
			h.read.Add(1)
		}
	}}
	for _, set := range settings {
		set(h.Server)
	}
	h.listener.Look(time.Millisecond)
	h.listener.Attach(h.Server)
	start(t, h.Server, h.listener)
	return h
}

// start serves until the test is over, or ends it itself.
func start(t testing.TB, s *http.Server, l net.Listener) {
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close() // a test may have closed it
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// A client asks on one connection.
type client struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func (h *house) dial(t testing.TB) *client {
	t.Helper()
	c, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res, string(body)
}

func (c *client) get(path string) string {
	c.t.Helper()
	c.send("GET %s HTTP/1.1\r\nHost: registry.test\r\n\r\n", path)
	_, body := c.receive()
	return body
}

// ended fails if the server has not closed the connection.
func (c *client) ended(what string) {
	c.t.Helper()
	if b, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s: read %q, %v; want the connection to be closed", what, b, err)
	}
}

func sayPath(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }

func (h *house) wantRead(t *testing.T, want int32) {
	t.Helper()
	if n := h.read.Load(); n != want {
		t.Errorf("net/http has read %d requests, want %d", n, want)
	}
}

// One request is read by net/http, and a thousand are answered.
func TestRepeats(t *testing.T) {
	t.Parallel()
	h := serve(t, sayPath)
	c := h.dial(t)
	for n := range 1000 {
		path := fmt.Sprintf("/often/app-%d@sha256=01:a_b/signature-1", n)
		if body := c.get(path); body != path {
			t.Fatalf("GET %s, request %d: %q", path, n+1, body)
		}
	}
	h.wantRead(t, 1)
}

// An answer may be large, of a length that its handler says or does not, and the one after it small.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	h := serve(t, func(w http.ResponseWriter, r *http.Request) { // three parts, of so many bytes
		n, _ := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]) // 0 without one
		if strings.HasPrefix(r.URL.Path, "/often/said/") {
			w.Header().Set("Content-Length", strconv.Itoa(3*n))
		}
		for _, part := range "abc" {
			_, _ = io.WriteString(w, strings.Repeat(string(part), n)) // the client is there
		}
	})
	c := h.dial(t)
	c.get("/often/first")
	for _, n := range []int{1, 1 << 10, 20 << 10, 30 << 10, 64 << 10, 1, 1 << 20, 2} {
		for _, path := range []string{"/often/said/", "/often/unsaid/"} {
			c.send("GET %s%d HTTP/1.1\r\nHost: registry.test\r\n\r\n", path, n)
			res, body := c.receive()
			if want := strings.Repeat("a", n) + strings.Repeat("b", n) + strings.Repeat("c", n); body != want {
				t.Fatalf("GET %s%d: %d bytes of %d", path, n, len(body), len(want))
			}
			if known := res.ContentLength == int64(3*n); !known && (path == "/often/said/" || n <= 20<<10) {
				t.Errorf("GET %s%d has a Content-Length of %d", path, n, res.ContentLength)
			}
		}
	}
	h.wantRead(t, 1)
}

// What is not the request before but for its path is read by net/http, and what follows it may repeat it.
func TestReadsWhatIsNew(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		asks []string
		read int32
	}{
		"another header": {[]string{
			"GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/b HTTP/1.1\r\nHost: a\r\nAccept: b\r\n\r\n", "GET /often/c HTTP/1.1\r\nHost: a\r\nAccept: b\r\n\r\n",
		}, 2},
		"another host":     {[]string{"GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: b\r\n\r\n", "GET /often/b HTTP/1.1\r\nHost: b\r\n\r\n"}, 2},
		"a path of others": {[]string{"GET /seldom/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/b HTTP/1.1\r\nHost: a\r\n\r\n"}, 2},
		"an escape":        {[]string{"GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/%61 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a?b HTTP/1.1\r\nHost: a\r\n\r\n"}, 3},
		"an absolute URL":  {[]string{"GET http://b/often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/b HTTP/1.1\r\nHost: a\r\n\r\n"}, 2},
		"a HEAD":           {[]string{"GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n"}, 3},
		"a body":           {[]string{"GET /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nb", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n"}, 3},
		"two at a time":    {[]string{"GET /often/a HTTP/1.1\r\nHost: a\r\n\r\nGET /often/a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s %s %v", r.Host, r.RequestURI, r.Header)
			})
			c := h.dial(t)
			for _, ask := range test.asks {
				c.send("%s", ask)
				for range strings.Count(ask, " HTTP/1.1") {
					method, _, _ := strings.Cut(ask, " ")
					res, err := http.ReadResponse(c.in, &http.Request{Method: method})
					if err != nil {
						t.Fatalf("%q: %v", ask, err)
					}
					if _, err := io.Copy(io.Discard, res.Body); err != nil {
						t.Fatalf("%q: %v", ask, err)
					}
				}
			}
			h.wantRead(t, test.read)
		})
	}
}

// A body that reads as a request is none, however it comes.
func TestBodyIsNoRequest(t *testing.T) {
	t.Parallel()
	const inside = "GET /often/inside HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, head := range []string{
		fmt.Sprintf("PUT /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(inside)),
		fmt.Sprintf("GET /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(inside)),
		fmt.Sprintf("POST /seldom/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", len(inside)),
	} {
		t.Run(head[:10], func(t *testing.T) {
			t.Parallel()
			begun := make(chan struct{}, 10)
			h := serve(t, func(w http.ResponseWriter, r *http.Request) {
				begun <- struct{}{}
				body, _ := io.ReadAll(r.Body) // half a body is not the one that is wanted
				fmt.Fprintf(w, "%s with %q", r.URL.Path, body)
			})
			c := h.dial(t)
			for range 3 {
				c.get("/often/a")
				<-begun
			}
			c.send("%s", head)
			<-begun // what comes now is not the end of what has just been read
			c.send("%s", inside)
			if strings.Contains(head, "chunked") {
				c.send("\r\n0\r\n\r\n")
			}
			if _, body := c.receive(); !strings.HasSuffix(body, fmt.Sprintf(" with %q", inside)) {
				t.Errorf("answered %q", body)
			}
			if body := c.get("/often/last"); body != `/often/last with ""` {
				t.Errorf("and then %q", body)
			}
		})
	}
}

// Many ask at a time, and each gets what it has asked for.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	h := serve(t, sayPath)
	var all sync.WaitGroup
	for n := range 20 {
		c := h.dial(t)
		all.Go(func() {
			for m := range 100 {
				path := fmt.Sprintf("/often/%d/%d%s", n, m, strings.Repeat("x", n*m))
				c.send("GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
				res, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(res.Body); string(body) != path || err != nil {
					t.Errorf("GET %s: %q, %v", path, body, err)
				}
			}
		})
	}
	all.Wait()
}

// A handler that panics costs its connection, and no more.
func TestPanic(t *testing.T) {
	t.Parallel()
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/often/panic":
			panic("a bug")
		case "/often/0":
			w.WriteHeader(0)
		case "/often/1000":
			w.WriteHeader(1000)
		}
		sayPath(w, r)
	})
	for _, name := range []string{"panic", "0", "1000"} {
		c := h.dial(t)
		c.get("/often/a")
		c.send("GET /often/%s HTTP/1.1\r\nHost: registry.test\r\n\r\n", name)
		c.ended("after " + name)
	}
	if body := h.dial(t).get("/often/b"); body != "/often/b" {
		t.Errorf("another connection is answered %q", body)
	}
}
