package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/registry"
)

// A registryOf knows manifests by repository:reference; a nil one is away.
type registryOf map[string]string

func (r registryOf) ServeHTTP(http.ResponseWriter, *http.Request) {}

func (r registryOf) Manifest(_ context.Context, repository, reference string) (registry.Manifest, error) {
	content, ok := r[repository+":"+reference]
	switch {
	case r == nil:
		return registry.Manifest{}, registry.ErrUnavailable
	case !ok:
		return registry.Manifest{}, registry.ErrUnknown
	}
	return registry.Manifest{Digest: godigest.FromString(content), Content: []byte(content)}, nil
}

func (r registryOf) Tags(context.Context, string, string) ([]string, string, error) {
	return nil, "", registry.ErrUnavailable
}

func (r registryOf) Repositories(context.Context, string) ([]string, string, error) {
	return nil, "", registry.ErrUnavailable
}

// A hearing is what hooks hear, and what they answer.
type hearing struct {
	mu    sync.Mutex
	heard []string
	fails error
}

func (h *hearing) say(format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, fmt.Sprintf(format, args...))
	return h.fails
}

func (h *hearing) notify(t *testing.T, r registry.Registry, events ...string) int {
	t.Helper()
	h.heard = nil
	hook := func(name string) registry.Watcher {
		return func(_ context.Context, p registry.Push) error {
			return h.say("%s %s:%s %s", name, p.Repository, p.Tag, p.Manifest.Content)
		}
	}
	s, err := server.New(server.Config{
		Hosts: []string{host}, Registry: r, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now,
		Notifications: &server.Notifications{
			Secret: func() (string, error) { return "secret", nil }, Pushed: hook("pushed"), Tagged: hook("tagged"),
			Deleted: func(_ context.Context, d registry.Delete) error {
				return h.say("deleted %s:%s %s", d.Repository, d.Tag, d.Digest)
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest("POST", "http://"+host+"/api/v1/notifications", strings.NewReader(`{"events":[`+strings.Join(events, ",")+`]}`))
	request.Header.Set("Authorization", "Bearer secret")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, request)
	return w.Code
}

func event(action, mediaType, repository, tag string, d godigest.Digest) string {
	return fmt.Sprintf(`{"id":"1","action":%q,"target":{"mediaType":%q,"repository":%q,"tag":%q,"digest":%q}}`, action, mediaType, repository, tag, d)
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	const image, blob = "application/vnd.oci.image.manifest.v1+json", "application/octet-stream"
	one, lie := godigest.FromString("one"), godigest.FromString("lie")
	there := registryOf{"a:v1": "one", "a:" + one.String(): "one"}
	for name, test := range map[string]struct {
		events []string
		want   []string
	}{
		"by tag":                   {[]string{event("push", image, "a", "v1", lie)}, []string{"pushed a:v1 one", "tagged a:v1 one"}},
		"twice, as two digests":    {[]string{event("push", image, "a", "v1", lie), event("push", image, "a", "v1", one)}, []string{"pushed a:v1 one", "tagged a:v1 one"}},
		"by digest":                {[]string{event("push", image, "a", "", one)}, []string{"pushed a: one", "tagged a: one"}},
		"a digest that is not":     {[]string{event("push", image, "a", "", lie)}, nil},
		"a blob":                   {[]string{event("push", blob, "a", "", one)}, nil},
		"a tag that left":          {[]string{event("push", image, "a", "v2", one)}, nil},
		"pulled and mounted":       {[]string{event("pull", image, "a", "v1", one), event("mount", blob, "a", "", one)}, nil},
		"deleted, and there":       {[]string{event("delete", "", "a", "", one), event("delete", "", "a", "v1", "")}, nil},
		"deleted":                  {[]string{event("delete", "", "a", "", lie), event("delete", "", "a", "v2", lie)}, []string{"deleted a: " + lie.String(), "deleted a:v2 "}},
		"a repository that is two": {[]string{event("delete", "", "a/../b", "v1", ""), event("push", image, "a:v1", "v1", ""), event("delete", "", "", "v1", "")}, nil},
		"a tag that is a path":     {[]string{event("delete", "", "a", "../v1", ""), event("delete", "", "a", "sha256:x", "")}, nil},
		"others before and after":  {[]string{event("push", image, "A", "v1", ""), event("push", image, "a", "v1", ""), "{}"}, []string{"pushed a:v1 one", "tagged a:v1 one"}},
	} {
		var h hearing
		if code := h.notify(t, there, test.events...); code != 204 || !slices.Equal(h.heard, test.want) {
			t.Errorf("%s: %d, heard %q, want %q", name, code, h.heard, test.want)
		}
	}
}

// What can be done later is sent again; what never can be is done with.
func TestNotificationsAreSentAgain(t *testing.T) {
	t.Parallel()
	there := registryOf{"a:v1": "one"}
	push, deletion := event("push", "", "a", "v1", ""), event("delete", "", "a", "v2", "")
	var h hearing
	if code := h.notify(t, registryOf(nil), push); code != 503 {
		t.Errorf("the registry is away: %d, want 503", code)
	}
	for err, want := range map[error]int{registry.ErrInvalid: 204, registry.ErrUnavailable: 503, errors.New("disk full"): 500} {
		h.fails = err
		for _, e := range []string{push, deletion} {
			if code := h.notify(t, there, e); code != want || len(h.heard) != 1 {
				t.Errorf("%v: %d after %q, want %d", err, code, h.heard, want)
			}
		}
	}
}
