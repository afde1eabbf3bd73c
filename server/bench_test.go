package server_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/store"
)

// BenchmarkRead is what the server does for a read beside net/http: route, access, store, metrics and
// a line of log.
func BenchmarkRead(b *testing.B) {
	own, err := access.Open(access.Settings{Anonymous: "pull"}, access.Options{Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hosts: []string{host}})
	if err != nil {
		b.Fatal(err)
	}
	srv, s := serverWith(b, func(c *server.Config) {
		c.Access, c.Own, c.Log = own, own, slog.New(slog.NewJSONHandler(io.Discard, nil))
	})
	one := fill(b, s, "team-01/app-02", 1)
	three := fill(b, s, "team-03/app-04", 3)
	handler := srv.Handler()
	lookaside := api.SigstorePrefix + api.LookasidePath(one) + "/"
	for name, want := range map[string]struct {
		path   string
		status int
	}{
		"hit":  {lookaside + api.SignatureName(1), 200},
		"miss": {lookaside + api.SignatureName(2), 404},
		"list": {api.ExtensionPath(three), 200},
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "http://"+host+want.path, nil)
			b.ReportAllocs()
			for b.Loop() {
				w := &answer{header: http.Header{}}
				handler.ServeHTTP(w, r)
				if w.status != want.status {
					b.Fatalf("GET %s: %d, want %d", want.path, w.status, want.status)
				}
			}
		})
	}
}

// fill stores signatures of the size that those by RSA-4096 have.
func fill(b testing.TB, s store.Store, repository string, signatures int) api.Image {
	b.Helper()
	i := api.Image{Host: host, Repository: repository, Digest: digest}
	c := store.Change{Image: i, Record: store.Record{Time: time.Now(), Action: store.Admitted, Image: i}}
	for n := range signatures {
		content := fmt.Appendf(nil, "%900d", n)
		c.Add = append(c.Add, store.Signature{
			Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprintf("%064d", n), Fingerprint: "0123456789ABCDEF0123456789ABCDEF01234567",
			UserID: "Release Engineering <release@example.test>", Reference: host + "/" + repository + ":v1", Origin: "upload", Uploader: "token:ci",
			Signed: time.Now(), Added: time.Now(),
		})
	}
	if _, err := s.Do(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	return i
}

// An answer keeps nothing but its status.
type answer struct {
	header http.Header
	status int
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(p []byte) (int, error) { return len(p), nil }
