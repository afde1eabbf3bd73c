package readthrough_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/lookaside"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/readthrough"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

const host = "registry.example.com"

var made = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var people = sync.OnceValue(func() map[string]*signature.FileSigner {
	all := map[string]*signature.FileSigner{}
	for _, name := range []string{"alice", "mallory"} {
		private, _, err := signature.Generate(name, 3072, made.Add(-time.Hour))
		if err != nil {
			panic(err)
		}
		if all[name], err = signature.NewFileSigner(private, nil, func() time.Time { return made }); err != nil {
			panic(err)
		}
	}
	return all
})

func sign(t *testing.T, by string, image api.Image, tag string) string {
	t.Helper()
	content, err := people()[by].Sign(t.Context(), signature.Claim{Reference: host + "/" + image.Repository + ":" + tag, Digest: image.Digest})
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func imageOf(text string) api.Image {
	return api.Image{Host: host, Repository: "ns/app", Digest: digest.FromString(text)}
}

// A house has a lookaside beside it, whose tree a test fills, and which counts what it is asked.
type house struct {
	*readthrough.Lookasides
	store  *disk.Store
	log    *log
	asked  atomic.Int64
	now    atomic.Int64
	server *httptest.Server

	mu   sync.Mutex
	tree map[string]string // content by path; "!<status>" answers that
}

type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (h *house) clock() time.Time { return made.Add(time.Duration(h.now.Load()) * time.Second) }

func open(t *testing.T, answer http.HandlerFunc) *house {
	t.Helper()
	h := &house{tree: map[string]string{}, log: &log{}}
	if answer == nil {
		answer = h.serve
	}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(h.server.Close)
	var err error
	h.store, err = disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.store.Close() })
	remote, err := lookaside.NewGuarded(h.server.URL+"/sigs?secret=token", true)
	if err != nil {
		t.Fatal(err)
	}
	p := policy.Trust([]string{host}, people()["alice"].Key())
	door := admission.New(admission.Config{Hosts: []string{host}, Policy: func(time.Time) *policy.Policy { return p }, Clients: signature.AllClients, Clock: h.clock})
	h.Lookasides, err = readthrough.New(readthrough.Config{
		Lookasides: []readthrough.Lookaside{{Host: host, Remote: remote}}, Door: door, Store: h.store, Clock: h.clock,
		Log: slog.New(slog.NewTextHandler(h.log, nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	content, ok := h.tree[r.URL.Path]
	h.mu.Unlock()
	var status int
	if n, _ := fmt.Sscanf(content, "!%d", &status); n == 1 {
		w.WriteHeader(status)
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	fmt.Fprint(w, content)
}

func (h *house) keep(image api.Image, contents ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, content := range contents {
		h.tree["/sigs/"+api.LookasidePath(image)+"/"+api.SignatureName(i+1)] = content
	}
}

// has asks for an image and asserts how many signatures it has then.
func (h *house) has(t *testing.T, image api.Image, want int) store.Set {
	t.Helper()
	h.Import(t.Context(), image)
	set, err := h.store.Get(t.Context(), image)
	if err != nil || len(set.Signatures) != want {
		t.Fatalf("got %d signatures, %v, want %d\n%s", len(set.Signatures), err, want, h.log)
	}
	return set
}

func TestImport(t *testing.T) {
	t.Parallel()
	h, image := open(t, nil), imageOf("x")
	h.keep(image, sign(t, "alice", image, "v1"), sign(t, "mallory", image, "v1"), "<html>", strings.Repeat("x", 65<<10),
		sign(t, "alice", imageOf("another"), "v1"), sign(t, "alice", image, "v2"))
	set := h.has(t, image, 2)
	for i, tag := range []string{"v1", "v2"} {
		s := set.Signatures[i]
		if s.Reference != host+"/ns/app:"+tag || s.Origin != "lookaside" || s.Uploader != "lookaside" || s.Own {
			t.Errorf("signature %d: %+v", i+1, s)
		}
	}
	records, _, err := h.store.Records(t.Context(), "", 100)
	if err != nil || len(records) != 2 || records[0].Action != store.Imported || records[0].Reason != h.server.URL+"/sigs" {
		t.Errorf("records %+v, %v, want two of the import", records, err)
	}
	mallory := people()["mallory"].Key().Keys()[0].Fingerprint
	log := h.log.String()
	if n := strings.Count(log, "is not admitted"); n != 4 || !strings.Contains(log, "countersign keys trust "+mallory+".asc") || strings.Contains(log, "token") {
		t.Errorf("the log has %d lines of what is refused, want 4 and the line that would admit mallory's:\n%s", n, log)
	}
}

// What was asked is not asked again for ten minutes, and then brings what is new and nothing twice.
func TestRemembered(t *testing.T) {
	t.Parallel()
	h, image := open(t, nil), imageOf("x")
	h.has(t, image, 0)
	one := sign(t, "alice", image, "v1")
	h.keep(image, one)
	h.now.Add(599)
	h.has(t, image, 0)
	if n := h.asked.Load(); n != 1 {
		t.Errorf("the lookaside was asked %d times, want once", n)
	}
	h.now.Add(1)
	h.has(t, image, 1)
	h.keep(image, one, sign(t, "alice", image, "v2"))
	h.now.Add(600)
	h.has(t, image, 2)
	other := image
	other.Host = "other.example.com"
	asked := h.asked.Load()
	h.has(t, other, 0)
	if h.asked.Load() != asked {
		t.Error("the lookaside was asked for another host's image")
	}
}

// What a person withdrew does not come back by being read.
func TestWithdrawnStaysAway(t *testing.T) {
	t.Parallel()
	h, image := open(t, nil), imageOf("x")
	h.keep(image, sign(t, "alice", image, "v1"))
	set := h.has(t, image, 1)
	_, err := h.store.Do(t.Context(), store.Change{Image: image, Withdraw: []store.Withdrawal{{
		ID: "w", Scope: store.ScopeSignature, Name: set.Signatures[0].Name, Reason: "r", Subject: "s", Time: made,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	h.now.Add(601)
	h.has(t, image, 0)
	if h.asked.Load() < 4 {
		t.Error("the lookaside was not asked again")
	}
}

// However many read, and whoever leaves, an image is asked for once at a time.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	image := imageOf("x")
	asked, answer := make(chan bool, 100), make(chan bool)
	content := sign(t, "alice", image, "v1")
	h := open(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/signature-1") {
			asked <- true
			<-answer
			fmt.Fprint(w, content)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan bool)
	go func() { h.Import(ctx, image); close(left) }()
	<-asked
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { h.Import(t.Context(), image) })
	}
	leave()
	<-left
	close(answer)
	all.Wait()
	h.has(t, image, 1)
	if n := h.asked.Load(); n != 2 {
		t.Errorf("the lookaside was asked %d times, want 2: signature-1 and signature-2", n)
	}
}

// A lookaside that is away costs the first reader a wait, and others none; it is asked again soon.
// What it had before something went wrong counts.
func TestOutages(t *testing.T) {
	t.Parallel()
	h, image := open(t, nil), imageOf("x")
	h.keep(image, sign(t, "alice", image, "v1"), "!500")
	h.has(t, image, 1)
	h.keep(image, sign(t, "alice", image, "v1"), sign(t, "alice", image, "v2"))
	h.now.Add(29)
	h.has(t, image, 1)
	h.now.Add(1)
	h.has(t, image, 2)

	h.server.Close()
	before := runtime.NumGoroutine()
	for n := range 100 {
		h.has(t, imageOf(fmt.Sprint(n)), 0)
	}
	if n := strings.Count(h.log.String(), "lookaside does not answer"); n != 1 {
		t.Errorf("the log has %d lines of an outage, want 1\n%s", n, h.log)
	}
	if after := runtime.NumGoroutine(); after > before+20 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// Memory does not grow with what strangers ask for.
func TestKnownIsBounded(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.server.Close()
	for n := range 1<<14 + 100 {
		h.Import(t.Context(), imageOf(fmt.Sprint(n)))
	}
	if n := h.Known(); n > 1<<14 {
		t.Errorf("%d images are remembered, want at most %d", n, 1<<14)
	}
}
