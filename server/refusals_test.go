package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/store"
)

// refusedTrail is who the trail says was refused, with the reasons of those that are counts.
func refusedTrail(t *testing.T, s store.Store) (singly map[string]int, counts []string) {
	t.Helper()
	records, _, err := s.Records(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	singly = map[string]int{}
	for _, r := range records {
		switch {
		case r.Action != store.Refused:
			t.Errorf("the trail has %+v", r)
		case r.Image.Repository == "":
			counts = append(counts, r.Subject+": "+r.Reason)
		default:
			singly[r.Subject]++
		}
	}
	slices.Sort(counts)
	return singly, counts
}

// Ten refusals a minute of each subject are recorded, and of the rest how many: when the minute is
// over, whether or not another comes, and when the server ends.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 30, 0, time.UTC)
	srv, s := serverWith(t, func(c *server.Config) { c.Clock = func() time.Time { return now } })
	over, end := context.WithCancel(t.Context())
	end() // so that it counts once
	refuse := func(n int, remote string) {
		t.Helper()
		for range n {
			r := httptest.NewRequest("POST", "http://"+host+"/sigstore/a@"+strings.Replace(digest, ":", "=", 1), strings.NewReader("no signature"))
			r.RemoteAddr = remote
			w := httptest.NewRecorder()
			srv.Handler().ServeHTTP(w, r.WithContext(over)) // who was refused may have hung up
			if w.Code != http.StatusBadRequest {
				t.Fatalf("an upload of no signature is answered %d %s", w.Code, w.Body)
			}
		}
	}
	check := func(step string, want int, wantCounts ...string) {
		t.Helper()
		singly, counts := refusedTrail(t, s)
		if singly[access.Anonymous] != want || !slices.Equal(counts, wantCounts) {
			t.Errorf("%s: recorded are %v and %q, want %d and %q", step, singly, counts, want, wantCounts)
		}
	}
	refuse(25, "192.0.2.1:1")
	srv.CountRefusals(over)
	check("within the minute", 10)
	now = now.Add(time.Minute)
	srv.CountRefusals(over)
	srv.CountRefusals(over)
	check("when it is over", 10, "anonymous: 15 more in a minute")
	refuse(12, "192.0.2.2:1")
	srv.LastRefusals(t.Context())
	check("at the end", 20, "anonymous: 15 more in a minute", "anonymous: 2 more in a minute")
	now = now.Add(time.Hour)
	srv.CountRefusals(over)
	check("later", 20, "anonymous: 15 more in a minute", "anonymous: 2 more in a minute")

	refuse(11, "192.0.2.2:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	for range 3 { // nothing is forgotten while the store is away
		srv.CountRefusals(over)
	}
	if got := fmt.Sprint(srv.Unrecorded()); got != "map[anonymous:1]" {
		t.Errorf("while the store is away unrecorded are %s, want one", got)
	}
}
