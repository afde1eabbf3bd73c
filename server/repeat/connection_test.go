package repeat_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The request of a client that goes ends, as with net/http.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	ended, begun := make(chan error, 1), make(chan struct{})
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/often/wait":
			<-time.After(20 * time.Millisecond) // it is looked at many times
		case "/often/slow":
			close(begun)
			<-r.Context().Done()
			ended <- r.Context().Err()
		}
	})
	c := h.dial(t)
	c.get("/often/a")
	c.get("/often/wait")
	c.send("GET /often/slow HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	<-begun
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the request ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("a request whose client has gone has not ended")
	}
	h.wantRead(t, 1)
}

// One that waits, and has sent the next request meanwhile, has not gone.
func TestClientWaits(t *testing.T) {
	t.Parallel()
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/often/slow" {
			select {
			case <-r.Context().Done():
			case <-time.After(100 * time.Millisecond): // it is looked at many times
			}
		}
		fmt.Fprintf(w, "%s %v", r.URL.Path, r.Context().Err())
	})
	c := h.dial(t)
	c.get("/often/a")
	c.send("GET /often/slow HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	c.send("GET /often/next HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	for _, want := range []string{"/often/slow <nil>", "/often/next <nil>"} {
		if _, body := c.receive(); body != want {
			t.Errorf("answered %q, want %q", body, want)
		}
	}
}

// Who is being answered while the server shuts down gets the answer, and the server waits for that.
func TestShutdown(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}), make(chan struct{})
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/often/slow" {
			close(begun)
			<-goOn
		}
		fmt.Fprint(w, r.URL.Path)
	})
	c, other := h.dial(t), h.dial(t)
	other.get("/often/a")
	other.get("/often/b")
	c.get("/often/a")
	c.send("GET /often/slow HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	<-begun
	if err := h.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.ended("an idle connection after Shutdown")
	waited := make(chan error, 1)
	go func() { waited <- h.listener.Wait(t.Context()) }()
	close(goOn)
	if _, body := c.receive(); body != "/often/slow" {
		t.Errorf("answered %q", body)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	c.ended("the last connection")
}

// For whom the server does not wait any longer, the request ends, and the connection.
func TestShutdownCuts(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/often/slow" {
			close(begun)
			<-r.Context().Done()
		}
	})
	c := h.dial(t)
	c.get("/often/a")
	c.send("GET /often/slow HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	<-begun
	if err := h.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	within, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.listener.Wait(within); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("Wait, with one request not answered: %v", err)
	}
	c.ended("a connection that is not waited for")
	last, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.listener.Wait(last); err != nil {
		t.Errorf("the request has not ended: %v", err)
	}
}

// A connection lives as long as it is used, and not longer.
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle = 500 * time.Millisecond
	h := serve(t, sayPath, func(s *http.Server) { s.IdleTimeout = idle })
	c := h.dial(t)
	for began := time.Now(); time.Since(began) < 3*idle; {
		c.get("/often/a")
	}
	h.wantRead(t, 1)
	c.ended("an idle connection")
}

// It is not idle while it is answered, and has as long as ever for the next request.
func TestIdleAfterAnswer(t *testing.T) {
	t.Parallel()
	const idle = 500 * time.Millisecond
	begun := make(chan struct{})
	h := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/often/slow" {
			close(begun)
			<-time.After(idle) // since the last deadline was set it is longer
		}
		sayPath(w, r)
	}, func(s *http.Server) { s.IdleTimeout = idle })
	c := h.dial(t)
	c.get("/often/a")
	c.send("GET /often/slow HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	<-begun
	c.send("GET /often/next HTTP/1.1\r\nHost: registry.test\r\n\r\n") // it is there when the answer is out
	for _, want := range []string{"/often/slow", "/often/next"} {
		if _, body := c.receive(); body != want {
			t.Errorf("answered %q, want %q", body, want)
		}
	}
	h.wantRead(t, 1)
}
