package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A server that is away is waited for, whoever says that it is, and that is told once.
func TestPatience(t *testing.T) {
	t.Parallel()
	answers := []int{200, 502, 503, 200, 504, 429, 200, 404}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(answers[0])
		answers = answers[1:]
	}))
	t.Cleanup(server.Close)
	var told []string
	p := &patience{most: importPatience, tell: func(what string) { told = append(told, what) }}
	c := &client{server: server.URL}
	for n := range 3 {
		if err := c.persist(t.Context(), p, http.MethodGet, "/", nil, nil); err != nil {
			t.Errorf("question %d: %v, want an answer in the end", n+1, err)
		}
	}
	const waiting, back = "\nwaiting for the server", "the server is back"
	want := []string{"the server answered 502 Bad Gateway" + waiting, back, "the server answered 504 Gateway Timeout" + waiting, back}
	if !slices.Equal(told, want) {
		t.Errorf("told was %q, want %q", told, want)
	}
	if err := c.persist(t.Context(), p, http.MethodGet, "/", nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a refusal: %v, want it at once", err)
	}
}

// A server that never answered is not waited for as long as one that is away: it may be another's address.
func TestPatienceBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{server: "http://127.0.0.1:1"} // where nobody listens, nor is given a port
		for _, test := range []struct {
			begun bool
			most  time.Duration
			want  time.Duration
		}{
			{false, 3 * importPatience, importPatience},
			{false, time.Second, time.Second},
			{true, 3 * importPatience, 3 * importPatience},
		} {
			p := &patience{most: test.most, tell: func(string) {}, begun: test.begun}
			began := time.Now()
			err := c.persist(t.Context(), p, http.MethodGet, "/", nil, nil)
			if took := time.Since(began); err == nil || took != test.want {
				t.Errorf("begun %v, for %v at most: %v after %v, want an error after %v", test.begun, test.most, err, took, test.want)
			}
		}
	})
}

// A certificate that does not verify is the wrong one at the first answer. Later it is about to be renewed.
func TestPatienceVerifies(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	c := &client{server: server.URL}
	for _, begun := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		p := &patience{most: importPatience, tell: func(string) { cancel() }, begun: begun}
		err := c.persist(ctx, p, http.MethodGet, "/", nil, nil)
		if waited := ctx.Err() != nil; err == nil || waited != begun || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("begun %v: %v, waited for %v; want an error, and that it is waited for where the server has answered before", begun, err, waited)
		}
		cancel()
	}
}
