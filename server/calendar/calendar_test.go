package calendar_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/calendar"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

const day = 24 * time.Hour

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A made key is one of these tests.
type made struct {
	ring        *signature.Keyring
	signer      *signature.FileSigner
	fingerprint string
	private     []byte
}

func key(t *testing.T, name string, lifetime time.Duration) made {
	t.Helper()
	private, public, err := signature.Spec{UserID: name, Algorithm: signature.Ed25519, Lifetime: lifetime}.Generate(began)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := signature.ReadKeyring(public)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.NewFileSigner(private, nil, func() time.Time { return began.Add(time.Minute) })
	if err != nil {
		t.Fatal(err)
	}
	return made{ring, signer, ring.Keys()[0].Fingerprint, private}
}

// signed keeps signatures by these keys of one image under one tag.
func signed(t *testing.T, s store.Store, tag string, keys ...made) {
	t.Helper()
	signedAs(t, s, tag, tag, keys...)
}

// signedAs keeps signatures of an image under a tag.
func signedAs(t *testing.T, s store.Store, app, tag string, keys ...made) {
	t.Helper()
	image := api.Image{Host: "registry.example.com", Repository: "app", Digest: digest.FromString(app)}
	ref := "registry.example.com/app:" + tag
	for _, k := range keys {
		content, err := k.signer.Sign(t.Context(), signature.Claim{Reference: ref, Digest: image.Digest})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Do(t.Context(), store.Change{Image: image, Add: []store.Signature{{
			Name: api.Name(image.Digest, content), Content: content, Identity: api.Name(image.Digest, content), Fingerprint: k.fingerprint,
			Reference: ref, Own: true, Origin: "push", Signed: began, Added: began,
		}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// gauge is the value of a metric with this fingerprint; -1 where there is none.
func gauge(t *testing.T, metrics *prometheus.Registry, name, fingerprint string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == fingerprint {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// TestCalendar sets the clock forward, and looks what is said of keys that end on their way.
func TestCalendar(t *testing.T) {
	t.Parallel()
	now := began
	s, err := disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	old, next, alice, bob := key(t, "old", 100*day), key(t, "next", 0), key(t, "alice", 200*day), key(t, "bob", 0)
	signed(t, s, "1", old)
	signed(t, s, "2", old, next)
	signed(t, s, "3", old, alice)
	signed(t, s, "4", next)
	// Tag 5 has left its image, which another has signed; the tags of the next one lead there still.
	signedAs(t, s, "5", "5", old)
	signedAs(t, s, "5", "5a", next)
	signedAs(t, s, "6", "6", old)
	signedAs(t, s, "6", "6a", next)
	signed(t, s, "7", next, bob) // neither ever ends
	leads := func(_ context.Context, _ api.Image, ref string) bool { return ref != "registry.example.com/app:5" }
	var log bytes.Buffer
	metrics := prometheus.NewRegistry()
	admitted := signature.Join(alice.ring, bob.ring)
	c, err := calendar.New(calendar.Config{
		Own: func() *signature.Keyring { return signature.Join(old.ring, next.ring) }, Admitted: func() *signature.Keyring { return admitted },
		Store: s, Leads: func() func(context.Context, api.Image, string) bool { return leads },
		Clock: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := func(k made) []string {
		var found []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "key="+k.fingerprint) {
				found = append(found, line)
			}
		}
		return found
	}
	for _, stage := range []struct {
		at    time.Duration
		lines int // of old, since the beginning
		want  string
	}{
		{0, 0, ""}, {9 * day, 0, ""}, {11 * day, 1, "days=89"}, {12 * day, 1, ""}, {71 * day, 2, "days=29"}, {94 * day, 3, "days=6"},
		{99 * day, 3, ""}, {101 * day, 4, "because=expired"}, {120 * day, 4, ""},
	} {
		now = began.Add(stage.at)
		if err := c.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := lines(old)
		if len(got) != stage.lines || stage.want != "" && !strings.Contains(got[len(got)-1], stage.want) {
			t.Fatalf("after %v: %d lines %q, want %d, the last with %q", stage.at, len(got), got, stage.lines, stage.want)
		}
		for _, line := range got {
			if !strings.Contains(line, "references=5 alone=2") || !strings.Contains(line, "resign -from "+old.fingerprint) {
				t.Errorf("%s: want 5 references, 2 of it alone, and what to do", line)
			}
		}
	}
	if got := lines(bob); len(got) != 0 {
		t.Errorf("bob's key never ends: %q", got)
	}
	for k, want := range map[string]float64{old.fingerprint: 0, next.fingerprint: 1, alice.fingerprint: 1} {
		if got := gauge(t, metrics, "countersign_key_usable", k); got != want {
			t.Errorf("countersign_key_usable of %s is %v, want %v", k, got, want)
		}
	}
	if got := gauge(t, metrics, "countersign_key_end_timestamp_seconds", old.fingerprint); got != float64(began.Add(100*day).Unix()) {
		t.Errorf("countersign_key_end_timestamp_seconds of the old key is %v", got)
	}
	if got := gauge(t, metrics, "countersign_key_references", old.fingerprint); got != 2 {
		t.Errorf("countersign_key_references of the old key is %v, want 2: others have signed the rest", got)
	}

	// A revocation counts at once, and in the answer what has stopped is on top.
	_, revoked, err := signature.Revoke(alice.private, nil, signature.Retired, now)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := signature.ReadKeyring(revoked)
	if err != nil {
		t.Fatal(err)
	}
	admitted = signature.Join(ring, bob.ring)
	answer, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, k := range answer.Keys {
		got[k.Fingerprint] = fmt.Sprintf("%d %s own=%v admitted=%v %d/%d", max(0, i-1), k.Spent, k.Own, k.Admitted, k.Alone, k.References)
	}
	for k, want := range map[string]string{
		old.fingerprint: " expired own=true admitted=false 3/5", alice.fingerprint: " revoked own=false admitted=true 1/1",
		next.fingerprint: "  own=true admitted=false 4/5", bob.fingerprint: "  own=false admitted=true 0/1",
	} {
		if !strings.HasSuffix(got[k], want) {
			t.Errorf("key %s: %q, want %q", k, got[k], want)
		}
	}
	if answer.Keys[0].Spent == "" || answer.Keys[1].Spent == "" || answer.Keys[2].Spent != "" {
		t.Errorf("what has stopped is not on top: %+v", answer.Keys)
	}
}

// A key is good for the whole second in which it ends. Who looks at it just then looks again when that is over.
func TestWatchInTheLastSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		now := func() time.Time { return began.Add(100*day + 500*time.Millisecond + time.Since(start)) }
		s, err := disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: now})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		old := key(t, "old", 100*day)
		metrics := prometheus.NewRegistry()
		c, err := calendar.New(calendar.Config{
			Own: func() *signature.Keyring { return old.ring }, Admitted: func() *signature.Keyring { return signature.Join() },
			Store: s, Clock: now, Log: slog.New(slog.DiscardHandler), Metrics: metrics,
			Leads: func() func(context.Context, api.Image, string) bool {
				return func(context.Context, api.Image, string) bool { return true }
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go c.Watch(ctx)
		for _, want := range []float64{1, 0} {
			synctest.Wait()
			if got := gauge(t, metrics, "countersign_key_usable", old.fingerprint); got != want {
				t.Errorf("half a second %s the key has ended for OpenPGP the metric is %v, want %v", map[float64]string{1: "before", 0: "after"}[want], got, want)
			}
			<-time.After(time.Second)
		}
	})
}
