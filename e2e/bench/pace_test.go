package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// paced reads from a server that answers 200 to the reads that make the connections warm, and hands the others on, until ctx
// ends or for so long.
func paced(ctx context.Context, t *testing.T, every, lasts time.Duration, handle http.HandlerFunc) (*pacer, error) {
	t.Helper()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > paceConnections {
			handle(w, r)
		}
	}))
	t.Cleanup(s.Close)
	p := &pacer{address: strings.TrimPrefix(s.URL, "http://"), paths: []string{"/a", "/b"}, every: every, lasts: lasts}
	defer p.close()
	if err := p.connect(); err != nil {
		t.Fatal(err)
	}
	return p, p.run(ctx)
}

// A read counts from when it was due, and those that come after it do not wait for it.
func TestPace(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	enough := make(chan struct{})
	p, err := paced(t.Context(), t, time.Millisecond, 40*time.Millisecond, func(http.ResponseWriter, *http.Request) {
		if asked.Add(1) == 20 {
			close(enough)
		}
		<-enough
	})
	if err != nil || len(p.took) != 40 {
		t.Fatalf("%d reads, %v; want 40", len(p.took), err)
	}
	if longest := slices.Max(p.took); longest < .019 {
		t.Errorf("none took longer than %v s, though the first was answered when the twentieth was due", longest)
	}
}

// Who is told to end asks for what was due by then, also where all connections were busy.
func TestPaceEnds(t *testing.T) {
	t.Parallel()
	const every = 10 * time.Microsecond
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var mu sync.Mutex
	var asked int
	var first time.Time
	var due time.Duration
	ended := make(chan struct{})
	p, err := paced(ctx, t, every, time.Hour, func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		switch asked++; asked {
		case 1:
			first = time.Now()
		case paceConnections:
			due = time.Since(first)
			end()
			close(ended)
		}
		mu.Unlock()
		<-ended
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := int(due / every); len(p.took) < want || len(p.took) < paceConnections {
		t.Errorf("%d reads, want the %d that were due within %v, and %d at least", len(p.took), want, due, paceConnections)
	}
}

func TestPaceBreaks(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]http.HandlerFunc{
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"refuses":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p, err := paced(t.Context(), t, time.Millisecond, time.Hour, handle); err == nil {
				t.Errorf("%d reads and no error", len(p.took))
			}
		})
	}
}

func TestAnswered(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 3\r\n\r\n"
	for answer, want := range map[string]string{
		"":            "part",
		head[:40]:     "part",
		head:          "part",
		head + "ab":   "part",
		head + "abc":  "whole",
		head + "abcd": "bad",
		strings.Replace(head, "200", "404", 1) + "abc":          "bad",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n": "bad",
	} {
		got := "part"
		switch whole, err := answered([]byte(answer)); {
		case err != nil:
			got = "bad"
		case whole:
			got = "whole"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", answer, got, want)
		}
	}
}
