package registry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// A deadlines is a connection of which only the read deadline matters.
type deadlines struct {
	*httptest.ResponseRecorder
	passed chan struct{}
}

func (d *deadlines) SetReadDeadline(time.Time) error {
	close(d.passed)
	return nil
}

// A trickle is a body that never ends by itself.
type trickle struct{ passed chan struct{} }

func (b trickle) Read([]byte) (int, error) {
	<-b.passed
	return 0, io.ErrUnexpectedEOF
}

// slowPush sends a manifest of which nothing comes, and returns the status and how long that took.
func slowPush(r *Remote, length int64) (int, time.Duration) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder(), passed: make(chan struct{})}
	req := httptest.NewRequest("PUT", "http://registry.example.com/v2/a/manifests/v1", trickle{w.passed})
	req.ContentLength = length
	req.Header.Set("Content-Type", ociImage)
	began := time.Now()
	r.ServeHTTP(w, req)
	return w.Code, time.Since(began).Truncate(time.Second)
}

// A manifest is kept in memory before anybody has said who sends it. Who sends slowly does so for
// half a minute, and all together get so much memory and no more.
func TestRemoteSlowManifests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := NewRemote(RemoteConfig{URL: parseURL(t, "http://127.0.0.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan int)
		for n := range maxReceiving / maxManifest {
			length := int64(maxManifest)
			if n%2 == 0 {
				length = -1 // chunked
			}
			go func() {
				status, took := slowPush(r, length)
				if took != receivePatience {
					t.Errorf("a slow manifest was waited for %v, want %v", took, receivePatience)
				}
				ended <- status
			}()
		}
		synctest.Wait()
		if status, took := slowPush(r, 1000); status != http.StatusTooManyRequests || took != roomPatience {
			t.Errorf("without room a push is answered %d after %v, want 429 after %v", status, took, roomPatience)
		}
		for range maxReceiving / maxManifest {
			if status := <-ended; status != http.StatusBadRequest {
				t.Errorf("a manifest that did not come is answered %d, want 400", status)
			}
		}
		if status, took := slowPush(r, 1000); status != http.StatusBadRequest || took != receivePatience {
			t.Errorf("with room again a slow push is answered %d after %v", status, took)
		}
	})
}
