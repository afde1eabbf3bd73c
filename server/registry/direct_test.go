package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A script is a registry that says what it is told to, byte for byte.
type script struct {
	url string
	mu  sync.Mutex
	say func(c net.Conn, connection, request int) // numbered from 1; nil: it hangs up
	all []net.Conn

	heard *http.Request // what it was asked last
}

func newScript(t testing.TB, say func(c net.Conn, connection, request int)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{url: "http://" + l.Addr().String(), say: say}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.all = append(s.all, c)
			n := len(s.all)
			s.mu.Unlock()
			all.Go(func() { s.serve(c, n) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends Accept
		s.mu.Lock()
		for _, c := range s.all {
			_ = c.Close() // it may be closed
		}
		s.mu.Unlock()
		all.Wait()
	})
	return s
}

func (s *script) serve(c net.Conn, connection int) {
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 1; ; n++ {
		heard, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, heard.Body) // the next request begins behind it
		s.mu.Lock()
		say := s.say
		s.heard = heard
		s.mu.Unlock()
		if say == nil {
			return
		}
		say(c, connection, n)
	}
}

func (s *script) now(say func(c net.Conn, connection, request int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say = say
}

// answered asks for a manifest, and returns all that comes of it.
func answered(t testing.TB, by http.RoundTripper, url, method string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url+"/v2/a/manifests/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := by.RoundTrip(r)
	if err != nil {
		return "no answer"
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	answer.Header.Del("Date")
	return fmt.Sprintf("%d %q %d %v %v %q %q %v", answer.StatusCode, answer.Header, answer.ContentLength, answer.TransferEncoding, answer.Close, answer.Trailer, body, err)
}

// get asks a remote for a manifest as a client does.
func get(t testing.TB, url string) string {
	t.Helper()
	return answered(t, http.DefaultTransport, url, "GET")
}

func told(c net.Conn, s string) { _, _ = io.WriteString(c, s) } // who has hung up hears nothing

const asked = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"

// A registry may hang up whenever nobody asks it anything: nobody notices. Only where it hangs up on a
// new connection is there no answer.
func TestDirectClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	s := newScript(t, func(c net.Conn, connection, request int) {
		switch {
		case connection == 1 && request == 2:
			_ = c.Close() // instead of an answer
		case connection == 2 && request == 2:
			told(c, asked+"two")
			_ = c.Close()
			close(closed)
		default:
			told(c, fmt.Sprint(asked, connection, "-", request))
		}
	})
	front, _ := pass(t, s.url, RemoteConfig{})
	for n, want := range []string{"1-1", "2-1", "two", "3-1", "3-2"} {
		if n == 3 {
			await(t, closed)
		}
		if got := get(t, front.url); !strings.Contains(got, want) {
			t.Errorf("request %d is answered %s, want %s", n+1, got, want)
		}
	}
	s.now(nil)
	if got := get(t, front.url); !strings.HasPrefix(got, "503 ") {
		t.Errorf("a registry that hangs up on everybody: %s, want 503", got)
	}
}

// A registry that hangs up instead of an answer is asked once more, however many connections are left.
func TestDirectAsksTwice(t *testing.T) {
	t.Parallel()
	const connections = 4
	var together, all sync.WaitGroup
	together.Add(connections)
	s := newScript(t, func(c net.Conn, connection, request int) {
		together.Done()
		together.Wait()
		told(c, asked+"all")
	})
	front, r := pass(t, s.url, RemoteConfig{})
	for range connections {
		all.Go(func() {
			if got := get(t, front.url); !strings.Contains(got, "all") {
				t.Errorf("answered %s", got)
			}
		})
	}
	all.Wait()
	d := r.proxy.Transport.(*direct)
	idle := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.idle)
	}
	for late := time.Now().Add(time.Minute); idle() < connections; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%d connections are left, want %d", idle(), connections)
		}
	}
	var times atomic.Int32
	s.now(func(c net.Conn, _, _ int) {
		times.Add(1)
		_ = c.Close()
	})
	if got := get(t, front.url); !strings.HasPrefix(got, "503 ") || times.Load() != 2 {
		t.Errorf("answered %s after %d attempts, want 503 after 2", got, times.Load())
	}
}

// What comes before anybody has asked is nobody's answer.
func TestDirectUnasked(t *testing.T) {
	t.Parallel()
	for name, unasked := range map[string]string{
		"an answer": "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"a line":    "\r\n",
	} {
		for _, together := range []bool{true, false} {
			sent := make(chan struct{}, 1)
			more := make(chan struct{})
			s := newScript(t, func(c net.Conn, connection, request int) {
				answer := fmt.Sprint(asked, connection, "-", request)
				if together {
					told(c, answer+unasked)
					return
				}
				told(c, answer)
				<-more
				told(c, unasked)
				sent <- struct{}{}
			})
			front, r := pass(t, s.url, RemoteConfig{})
			for n := range 3 {
				if got, want := get(t, front.url), fmt.Sprintf("%d-1", n+1); !strings.Contains(got, want) {
					t.Errorf("%s, together %v: %s, want %s", name, together, got, want)
				}
				if !together {
					more <- struct{}{}
					<-sent
					d := r.proxy.Transport.(*direct)
					for late := time.Now().Add(time.Minute); d.idle[0].quiet(); time.Sleep(time.Millisecond) {
						if time.Now().After(late) {
							t.Fatal("what was sent has not come within a minute")
						}
					}
				}
			}
		}
	}
}

// A registry that says nothing, or stops, is waited for as long as it may, and a client that leaves is not
// waited for: in each case the connection is closed.
func TestDirectPatience(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		says  string
		leave bool
		want  string
	}{
		"silent":              {"", false, "503 "},
		"stops in the head":   {"HTTP/1.1 200 OK\r\nContent-", false, "503 "},
		"stops in the body":   {asked + "ab", false, "no answer"}, // before any of it went on
		"left":                {"", true, ""},
		"left within a body":  {asked + "ab", true, ""},
		"stops after interim": {"HTTP/1.1 100 Continue\r\n\r\n", false, "503 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			heard, ended := make(chan struct{}), make(chan error, 1)
			s := newScript(t, func(c net.Conn, _, _ int) {
				told(c, test.says)
				close(heard)
				_, err := c.Read(make([]byte, 1))
				ended <- err
			})
			patience := time.Second
			if test.leave {
				patience = time.Hour
			}
			front, _ := pass(t, s.url, RemoteConfig{Patience: patience})
			if test.leave {
				ctx, cancel := context.WithCancel(t.Context())
				go func() { <-heard; cancel() }()
				r, _ := http.NewRequestWithContext(ctx, "GET", front.url+"/v2/a/manifests/v1", nil)
				if answer, err := http.DefaultTransport.RoundTrip(r); !errors.Is(err, context.Canceled) {
					t.Errorf("who left has an answer: %v, %v", answer, err)
				}
			} else if got := get(t, front.url); !strings.HasPrefix(got, test.want) {
				t.Errorf("the client has %s, want %s", got, test.want)
			}
			if err := await(t, ended); err == nil {
				t.Error("the connection to the registry has more to say")
			}
		})
	}
}

// Connections that nobody has used for long are closed, the others kept.
func TestDirectDrops(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	d := newDirect(nil, RemoteConfig{URL: parseURL(t, s.url), Transport: Transport(nil)})
	long, lately := time.Now().Add(-idlePatience), time.Now()
	var lines []*line
	for range idleConnections + 1 {
		l, err := d.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
		d.keep(l)
		l.idle = long
	}
	lines[idleConnections-1].idle = lately
	open := func() (n int) {
		for _, l := range lines {
			if l.quiet() {
				n++
			}
		}
		return n
	}
	if n := open(); n != idleConnections {
		t.Errorf("%d connections are kept, want %d", n, idleConnections)
	}
	d.drop()
	if n := open(); n != 1 || len(d.idle) != 1 || d.prune == nil {
		t.Errorf("%d are left open, %d to be used, and more are looked for: %v; want the one that was used lately", n, len(d.idle), d.prune != nil)
	}
	lines[idleConnections-1].idle = long
	if d.drop(); open() != 0 || d.prune != nil {
		t.Errorf("%d are left open, and more are looked for: %v", open(), d.prune != nil)
	}
}

// What is dialled is what the URL says, with HTTP's port where it says none; all else is the transport's.
func TestDirectAddress(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://registry.example:5000": "registry.example:5000", "http://registry.example": "registry.example:80",
		"http://[::1]": "[::1]:80", "http://[::1]:5000": "[::1]:5000",
		"https://registry.example": "", "http://b\u00fccher.example:5000": "",
	} {
		if got := newDirect(nil, RemoteConfig{URL: parseURL(t, url), Transport: Transport(nil)}).address; got != want {
			t.Errorf("for %s it dials %q, want %q", url, got, want)
		}
	}
}

// Whatever a registry says, the client has of it what it has through net/http's Transport.
func FuzzDirect(f *testing.F) {
	for _, seed := range []string{
		asked + "abc", asked + "ab", asked + "abcd", asked,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\n\r\nabc", "HTTP/1.0 200 OK\r\n\r\nabc", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Bearer realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + asked + "abc", "HTTP/1.1 100 Continue\r\n\r\n", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 5000),
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 099 A\r\n\r\n", "HTTP/1.1 999 A\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", "HTTP/1.1 200 OK\r\n A: c\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "ICY 200\r\n\r\n", "", "\r\n", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", maxHeader) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", maxHeader-500) + "\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("c", 100000),
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, said []byte, head bool) {
		method := map[bool]string{true: "HEAD", false: "GET"}[head]
		s := newScript(t, func(c net.Conn, _, _ int) {
			_, _ = c.Write(said)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c) // what it hears is nothing, or its end
		})
		c := RemoteConfig{URL: parseURL(t, s.url), Transport: Transport(nil), Patience: time.Minute}
		ours := newDirect(patient{c.Transport, c.Patience}, c)
		if got, want := answered(t, ours, s.url, method), answered(t, ours.transport, s.url, method); got != want {
			t.Errorf("to %q the answer is\n%s, want, as by net/http's Transport,\n%s", said, got, want)
		}
	})
}
