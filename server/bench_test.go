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
	i := api.Image{Host: host, Repository: "team-01/app-02", Digest: digest}
	c := store.Change{Image: i, Record: store.Record{Time: time.Now(), Action: store.Admitted, Image: i}}
	for n := range 3 {
		content := fmt.Appendf(nil, "%900d", n)
		c.Add = append(c.Add, store.Signature{
			Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprint(n), Fingerprint: "0123456789ABCDEF0123456789ABCDEF01234567",
			UserID: "Release Engineering <release@example.test>", Reference: host + "/team-01/app-02:v1", Origin: "upload", Uploader: "token:ci",
			Signed: time.Now(), Added: time.Now(),
		})
	}
	if _, err := s.Do(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	handler := srv.Handler()
	lookaside := api.SigstorePrefix + api.LookasidePath(i) + "/"
	for name, want := range map[string]struct {
		path   string
		status int
	}{
		"hit":  {lookaside + api.SignatureName(1), 200},
		"miss": {lookaside + api.SignatureName(4), 404},
		"list": {api.ExtensionPath(i), 200},
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

// An answer keeps nothing but its status.
type answer struct {
	header http.Header
	status int
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(p []byte) (int, error) { return len(p), nil }
