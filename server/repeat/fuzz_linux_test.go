package repeat_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/countersign-dev/countersign/server/repeat"
)

// mirror says all that a handler can see of a request. A path that ends with a number is answered so.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Etag", "\"line\nfeed\"")
	if len(r.URL.Path)%2 == 0 { // it is not the next one's
		w.Header().Add("Path", r.URL.Path)
		w.Header().Set("Content-Type", "text/html")
	}
	status, _ := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]) // most end with none
	if status >= 200 && status < 600 {
		w.WriteHeader(status)
	}
	fmt.Fprintf(w, "%s %s %q %q %q %s %v %d %v %v %v %q %v", r.Method, r.Host, r.RequestURI, r.URL.Path, r.URL.RawQuery, r.Proto,
		r.Header, r.ContentLength, r.TransferEncoding, r.Trailer, r.Close, body, err)
}

// A twin is one of two servers that differ in their listeners only.
type twin struct {
	address  string
	accepted chan *net.TCPConn
}

// A recorder tells of what it accepts.
type recorder struct {
	net.Listener
	accepted chan *net.TCPConn
}

func (r recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err == nil {
		r.accepted <- c.(*net.TCPConn)
	}
	return c, err
}

func newTwin(f *testing.F, repeats bool) *twin {
	f.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	w := &twin{tcp.Addr().String(), make(chan *net.TCPConn, 1)}
	var listener net.Listener = recorder{tcp, w.accepted}
	s := &http.Server{Handler: http.HandlerFunc(mirror), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	if repeats {
		l := repeat.New(listener, ours)
		l.Attach(s)
		listener = l
	}
	start(f, s, listener)
	return w
}

// tell sends parts one after the other, as far as they are wanted, and returns all that is answered.
func (w *twin) tell(t *testing.T, parts [][]byte) []byte {
	c, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	server := <-w.accepted
	said := newHearing(c)
	for _, part := range parts {
		before := said.len()
		if _, err := c.Write(part); err != nil {
			break // it is closed
		}
		for sent := time.Now(); !said.over(); runtime.Gosched() {
			if taken(server) && (said.len() > before || time.Since(sent) > 3*time.Millisecond) || time.Since(sent) > time.Second {
				break
			}
		}
	}
	_ = c.(*net.TCPConn).CloseWrite() // it may be closed
	<-said.ended
	return regexp.MustCompile(`Date: [^\r]*`).ReplaceAll(said.all.Bytes(), []byte("Date: now"))
}

// taken tells whether all that has come was read.
func taken(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	n := 0
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	return err != nil || n == 0
}

// A hearing keeps what comes on a connection.
type hearing struct {
	mu    sync.Mutex
	all   bytes.Buffer
	ended chan struct{}
}

func newHearing(c net.Conn) *hearing {
	h := &hearing{ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		_, _ = io.Copy(h, c) // a reset ends it, too
	}()
	return h
}

func (h *hearing) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.Write(p)
}

func (h *hearing) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.Len()
}

func (h *hearing) over() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// Whatever comes, in whatever parts (between bars), is answered as net/http answers it.
func FuzzConnection(f *testing.F) {
	const get = "GET /often/a HTTP/1.1\r\nHost: a\r\n\r\n|"
	for _, seed := range []string{
		get + get + "GET /often/b HTTP/1.1\r\nHost: a\r\n\r\n",
		get + "GET /often/304 HTTP/1.1\r\nHost: a\r\n\r\n|GET /often/404 HTTP/1.1\r\nHost: a\r\n\r\n|GET /often/204 HTTP/1.1\r\nHost: a\r\n\r\n|GET /often/299 HTTP/1.1\r\nHost: a\r\n\r\n|" + get,
		get + "HEAD /often/a HTTP/1.1\r\nHost: a\r\n\r\n|" + get,
		get + "PUT /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n|" + get + get,
		"GET /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n|" + get + get,
		"GET /often/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n|21\r\n|" + get + "\r\n0\r\n\r\n|" + get,
		"GET /often/a HTTP/1.1\r\nHost: a\n\nGET /often/b HTTP/1.1\r\nHost: a\r\n\r\n|" + get,
		"GET /often/a HTTP/1.1\nHost: a\n\n|GET /often/a HTTP/1.1\nHost: a\n\n",
		"GET /often/a HTTP/1.1\r\nHost: a\r\n \r\n\r\n|GET /often/a HTTP/1.1\r\nHost: a\r\n \r\n\r\n",
		"GET http://b/often/a HTTP/1.1\r\nHost: a\r\n\r\n|" + get,
		"GET /often/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n|" + get,
		"GET /often/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n|GET /often/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
		"GET /often/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n|GET /often/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"GET /often/a HTTP/1.1\r\nHost: a\r\nTrailer: b\r\n\r\n|GET /often/b HTTP/1.1\r\nHost: a\r\nTrailer: b\r\n\r\n",
		"GET /often/a HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n|GET /often/b HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n",
		"GET /often/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n|" + get,
		"GET /often/a HTTP/1.1\r\n\r\n|GET /often/b HTTP/1.1\r\n\r\n",
		"GET /often/a HTTP/1.0\r\n\r\n|GET /often/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n|" + get,
		"GET /seldom HTTP/1.1\r\nHost: a\r\n\r\n|" + get + get + "GET /seldom?b HTTP/1.1\r\nHost: a\r\n\r\n|" + get + get,
		get + "GET /often/a HTTP|/1.1\r\nHost: a\r\n\r\n|" + get + get,
		get + "GET /often/%61 HTTP/1.1\r\nHost: a\r\n\r\n|GET /often/a?b HTTP/1.1\r\nHost: a\r\n\r\n|GET /often/../a//b HTTP/1.1\r\nHost: a\r\n\r\n|" + get,
		get + "GET /often/a b HTTP/1.1\r\nHost: a\r\n\r\n",
		get + "\r\n" + get, get + get[:12], "\r\n\r\n|" + get, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "|" + get + "|||" + get,
		strings.ReplaceAll(get+get+get, "|", ""),
		strings.Repeat("GET /often/a HTTP/1.1\r\nHost: a\r\nAccept: "+strings.Repeat("b", 5000)+"\r\n\r\n|", 3),
	} {
		f.Add([]byte(seed))
	}
	with, without := newTwin(f, true), newTwin(f, false)
	f.Fuzz(func(t *testing.T, stream []byte) {
		parts := bytes.Split(stream, []byte("|"))
		if len(parts) > 20 || len(stream) > 1<<16 {
			return
		}
		got, want := with.tell(t, parts), without.tell(t, parts)
		if !bytes.Equal(got, want) {
			t.Errorf("%q is answered\n%q, want, as by net/http alone,\n%q", stream, got, want)
		}
	})
}
