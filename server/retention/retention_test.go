package retention

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

const (
	host     = "registry.example.com"
	listType = "application/vnd.oci.image.index.v1+json"
	list     = `{"schemaVersion":2,"mediaType":"` + listType + `","manifests":[]}`
)

var image = api.Image{Host: host, Repository: "app", Digest: digest.FromString(list)}

// A world is a retention on a real registry and a real store. Whatever is pushed gets a signature, as
// by the server.
type world struct {
	*registry.Embedded
	store.Store
	retention *Retention
	asked     chan struct{} // the registry, which waits then
	answer    chan struct{}
	refused   chan error // why a push could not end a task
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{asked: make(chan struct{}), answer: make(chan struct{}), refused: make(chan error, 1000)}
	s, err := disk.Open(t.TempDir(), disk.Options{Limits: store.DefaultLimits(), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w.Store = s
	w.retention, err = New(Config{
		Hosts: []string{host}, Registry: w, Store: w, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Embedded, err = registry.NewEmbedded(t.Context(), registry.EmbeddedConfig{
		Directory: t.TempDir(),
		Pushed: func(ctx context.Context, p registry.Push) error {
			if err := w.retention.Pushed(ctx, p); err != nil {
				return err
			}
			content := []byte("the server's")
			own := store.Signature{Name: api.Name(image.Digest, content), Content: content, Identity: "i", Own: true, Reference: host + "/app:" + p.Tag}
			_, err := s.Do(ctx, store.Change{Image: image, Add: []store.Signature{own}})
			return err
		},
		Deleted: func(ctx context.Context, d registry.Delete) error { return w.retention.Deleted(ctx, d) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Embedded.Close() })
	return w
}

func (w *world) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	m, err := w.Embedded.Manifest(ctx, repository, reference)
	w.asked <- struct{}{}
	<-w.answer
	return m, err
}

func (w *world) Do(ctx context.Context, c store.Change) (store.Set, error) {
	set, err := w.Store.Do(ctx, c)
	if errors.Is(err, store.ErrLease) && !errors.Is(err, store.ErrGone) {
		w.refused <- err
	}
	return set, err
}

func (w *world) do(t *testing.T, method, path, body string, want int) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", listType)
	answer := httptest.NewRecorder()
	if w.ServeHTTP(answer, r); answer.Code != want {
		t.Errorf("%s %s is answered %d %s, want %d", method, path, answer.Code, answer.Body, want)
	}
}

// A tag, or its manifest, is pushed again when the registry has said that it is gone, and before its
// signature is. The push does not rely on that signature.
func TestPushWhileItIsDropped(t *testing.T) {
	t.Parallel()
	for _, deleted := range []string{"v1", image.Digest.String()} {
		w := newWorld(t)
		w.do(t, "PUT", "/v2/app/manifests/v1", list, http.StatusCreated)
		w.do(t, "DELETE", "/v2/app/manifests/"+deleted, "", http.StatusAccepted)
		task, err := w.Take(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		dropped, pushed := make(chan error, 1), make(chan struct{})
		go func() {
			dropped <- w.retention.Drop(t.Context(), task, &store.Task{Key: task.Key, Lease: task.Lease, State: store.Done})
		}()
		<-w.asked
		go func() {
			defer close(pushed)
			w.do(t, "PUT", "/v2/app/manifests/v1", list, http.StatusCreated)
		}()
		<-w.refused
		select {
		case <-w.refused: // it waits
		case <-pushed:
		}
		close(w.answer)
		if err := <-dropped; err != nil {
			t.Errorf("%s: the drop: %v", deleted, err)
		}
		<-pushed
		if set, err := w.Get(t.Context(), image); err != nil || len(set.Signatures) != 1 {
			t.Errorf("%s is pushed again, and has %d signatures, %v; want one", deleted, len(set.Signatures), err)
		}
	}
}

// A drop that hangs fails the push in the end: its tag would have a signature that may go.
func TestPushWaitsForADropSoLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(t, "PUT", "/v2/app/manifests/v1", list, http.StatusCreated)
	w.do(t, "DELETE", "/v2/app/manifests/v1", "", http.StatusAccepted)
	if _, err := w.Take(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		push := registry.Push{Repository: "app", Tag: "v1", Manifest: registry.Manifest{Digest: image.Digest, MediaType: listType, Content: []byte(list)}}
		err := w.retention.Pushed(t.Context(), push)
		if took := time.Since(began); !errors.Is(err, store.ErrUnavailable) || took < patience || took > patience+time.Second {
			t.Errorf("the push ends after %v with %v, want %v after %v", took, err, store.ErrUnavailable, patience)
		}
	})
}
