package signing_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/store"
)

// What stands in front of a registry that is away answers for it. That ends nothing: what is queued is
// signed when the registry answers again.
func TestFrontOfARegistryEndsNothing(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"404 with a text": http.NotFound,
		"404 and no word": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"200 with a page": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>back soon</html>") },
	} {
		w := ruled(t, gated(t))
		var away atomic.Bool
		w.besides(t, func(rw http.ResponseWriter, r *http.Request) {
			if away.Load() {
				answer(rw, r)
				return
			}
			w.registry.ServeHTTP(rw, r)
		})
		w.restart(t, gated(t))
		image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
		w.mustUpload(t, "alice", image, v1)
		w.queueOnly(t, "bob", image, v1)
		away.Store(true)
		w.due(t)
		w.idle(t)
		if left := w.tasks(t); len(left) != 1 || left[0].State != store.Queued || !strings.Contains(left[0].Problem, "registry.url") {
			t.Errorf("%s: left are %+v, want one that is queued and says what to look at", name, left)
		}
		away.Store(false)
		w.due(t)
		w.idle(t)
		w.want(t, image, v1)
	}
}

// besides has the signing ask a registry over HTTP.
func (w *world) besides(t *testing.T, answers http.HandlerFunc) {
	t.Helper()
	front := httptest.NewServer(answers)
	t.Cleanup(front.Close)
	u, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := registry.Transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	if w.config.Registry, err = registry.NewRemote(registry.RemoteConfig{URL: u, Transport: transport}); err != nil {
		t.Fatal(err)
	}
}
