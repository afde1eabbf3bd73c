package server_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
)

// dial opens a connection to a server whose answers are whole.
func dial(t *testing.T, handler http.Handler) net.Conn {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Listener, s.Config.ConnContext = server.Whole(s.Listener), server.ConnContext
	s.Start()
	t.Cleanup(s.Close)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// Lists of all sizes come as they are, one after the other on one connection, also where all are asked
// for before the first is read.
func TestWholeLists(t *testing.T) {
	t.Parallel()
	srv, s := serverWith(t, func(*server.Config) {})
	handler := srv.Handler()
	paths, want := []string{}, map[string][]byte{}
	for n := range 12 {
		path := api.ExtensionPath(fill(t, s, fmt.Sprintf("team/app-%d", n), n))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+path, nil))
		paths, want[path] = append(paths, path), w.Body.Bytes()
	}
	c := dial(t, handler)
	var asked bytes.Buffer
	for range 3 {
		for _, path := range paths {
			fmt.Fprintf(&asked, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\nHEAD %[1]s HTTP/1.1\r\nHost: %[2]s\r\n\r\n", path, host)
		}
	}
	go func() { _, _ = c.Write(asked.Bytes()) }() // what is missing then does not come
	in := bufio.NewReader(c)
	for n := range 3 {
		for _, path := range paths {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				res, err := http.ReadResponse(in, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("%s %s, time %d: %v", method, path, n+1, err)
				}
				body, err := io.ReadAll(res.Body)
				if method == http.MethodGet && !bytes.Equal(body, want[path]) || err != nil || res.ContentLength != int64(len(want[path])) {
					t.Errorf("%s %s, time %d: %d bytes of %d, %v; want %d", method, path, n+1, len(body), res.ContentLength, err, len(want[path]))
				}
			}
		}
	}
}

// A list for who has gone ends.
func TestWholeToNobody(t *testing.T) {
	t.Parallel()
	srv, s := serverWith(t, func(*server.Config) {})
	path := api.ExtensionPath(fill(t, s, "team/app", 5))
	ended := make(chan struct{}, 1)
	handler := srv.Handler()
	c := dial(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		<-r.Context().Done() // as its client goes
		handler.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	}))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	_ = c.(*net.TCPConn).SetLinger(0) // it is reset
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("a request whose client has gone has not ended after a minute")
	}
}
