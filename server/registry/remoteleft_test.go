package registry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Once the registry has a push or a deletion before it, the client may leave: what the registry does
// is seen, or a tag would be there that nobody has signed.
func TestRemoteClientLeaves(t *testing.T) {
	t.Parallel()
	image := `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest.FromString("{}").String() + `","size":2},"layers":[]}`
	for method, status := range map[string]int{"PUT": http.StatusCreated, "DELETE": http.StatusAccepted} {
		asked, answer := make(chan struct{}), make(chan struct{})
		at := upstream(t, func(w http.ResponseWriter, r *http.Request) {
			close(asked)
			<-answer
			w.Header().Set(contentDigest, digest.FromString(image).String())
			w.WriteHeader(status)
		})
		seen := make(chan error, 2)
		push := func(ctx context.Context, p Push) error {
			if p.Tag != "v1" {
				t.Errorf("%s: the push of %q is reported", method, p.Tag)
			}
			seen <- ctx.Err()
			return nil
		}
		s, _ := pass(t, at, RemoteConfig{Pushed: push, Tagged: push, Deleted: func(ctx context.Context, _ Delete) error {
			seen <- ctx.Err()
			return nil
		}})
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, method, s.url+"/v2/a/manifests/v1", strings.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", ociImage)
		gone := make(chan error, 1)
		go func() {
			answer, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				answer.Body.Close()
			}
			gone <- err
		}()
		<-asked
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the client: %v", method, err)
		}
		close(answer)
		select {
		case err := <-seen:
			if err != nil {
				t.Errorf("%s: it is reported to nobody who could act: %v", method, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: what the registry did went unseen", method)
		}
	}
}
