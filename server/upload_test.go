package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A late store takes changes, and makes them when it is let.
type late struct {
	store.Store
	took chan func() // what makes the change, and answers
}

func (l *late) Start(ctx context.Context, c store.Change, done func(store.Set, error)) {
	l.took <- func() { l.Store.Start(ctx, c, done) }
}

// newSigner makes a key.
func newSigner(t *testing.T, name string) *signature.FileSigner {
	t.Helper()
	private, _, err := signature.Spec{UserID: name, Algorithm: signature.RSA3072}.Generate(time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s, err := signature.NewFileSigner(private, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signer makes a key, and a signature of digest by it that a server with the settings takes.
func signer(t *testing.T, digest godigest.Digest) (content []byte, trusting func(*server.Config)) {
	t.Helper()
	s := newSigner(t, "somebody")
	content, err := s.Sign(t.Context(), signature.Claim{Reference: host + "/app:v1", Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	trusted := policy.Trust([]string{host}, s.Key())
	return content, func(c *server.Config) {
		c.Door = admission.New(admission.Config{Hosts: []string{host}, Policy: func(time.Time) *policy.Policy { return trusted }, Clients: signature.AllClients, Clock: time.Now})
	}
}

var uploadPath = "/sigstore/app@" + strings.Replace(digest, ":", "=", 1)

// Who uploads hears when it is stored, and not before; who hangs up while the store takes its time is let go, and
// what they brought may be stored all the same.
func TestUploadIsAnsweredWhenStored(t *testing.T) {
	t.Parallel()
	content, trusting := signer(t, digest)
	slow := &late{took: make(chan func(), 2)}
	srv, s := serverWith(t, func(c *server.Config) {
		trusting(c)
		slow.Store = c.Store
		c.Store = slow
	})
	upload := func(ctx context.Context) chan int {
		answered := make(chan int, 1)
		go func() {
			r := httptest.NewRequest("PUT", "http://"+host+uploadPath+"/signature-1", bytes.NewReader(content))
			w := httptest.NewRecorder()
			srv.Handler().ServeHTTP(w, r.WithContext(ctx))
			answered <- w.Code
		}()
		return answered
	}
	gone, hangUp := context.WithCancel(t.Context())
	first := upload(gone)
	begin := <-slow.took
	select {
	case code := <-first:
		t.Fatalf("answered %d before anything was stored", code)
	default:
	}
	hangUp()
	if code := <-first; code != http.StatusServiceUnavailable {
		t.Errorf("who hung up while the store was at it is answered %d, want 503", code)
	}
	second := upload(t.Context())
	again := <-slow.took
	begin() // for one who has gone
	again()
	if code := <-second; code != http.StatusCreated {
		t.Errorf("who waited is answered %d, want 201", code)
	}
	set, err := s.Get(t.Context(), api.Image{Host: host, Repository: "app", Digest: digest})
	if err != nil || len(set.Signatures) != 1 || !bytes.Equal(set.Signatures[0].Content, content) {
		t.Errorf("stored are %d signatures, %v; want the one", len(set.Signatures), err)
	}
}

// A broken store panics, and then does not.
type broken struct {
	store.Store
	panics bool
}

func (b *broken) Start(ctx context.Context, c store.Change, done func(store.Set, error)) {
	if b.panics {
		panic(errors.New("index out of range"))
	}
	b.Store.Start(ctx, c, done)
}

// What panics behind the door is an error of that upload, and the next is taken.
func TestUploadPanics(t *testing.T) {
	t.Parallel()
	content, trusting := signer(t, digest)
	bad := &broken{panics: true}
	srv, _ := serverWith(t, func(c *server.Config) {
		trusting(c)
		bad.Store = c.Store
		c.Store = bad
	})
	for _, want := range []int{http.StatusInternalServerError, http.StatusCreated} {
		r := httptest.NewRequest("PUT", "http://"+host+uploadPath+"/signature-1", bytes.NewReader(content))
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "index out of range") {
			t.Errorf("answered %d %s, want %d, and no word of the panic", w.Code, w.Body, want)
		}
		bad.panics = false
	}
}

// A raced store lets something happen before it stores an upload, and behind it.
type raced struct {
	store.Store
	before, behind func()
}

func (r raced) Do(ctx context.Context, c store.Change) (store.Set, error) {
	if len(c.Add) == 0 || c.Add[0].Own {
		return r.Store.Do(ctx, c)
	}
	r.before()
	defer r.behind()
	return r.Store.Do(ctx, c)
}

// The tag comes when the registry has said that it is not there, and before the upload is stored, so that
// its push sees none. The upload looks again, also for who has left.
func TestUploadLooksAgainForWhoHasLeft(t *testing.T) {
	t.Parallel()
	const mediaType = "application/vnd.oci.image.index.v1+json"
	list := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, mediaType)
	image := api.Image{Host: host, Repository: "app", Digest: godigest.FromString(list)}
	content, trusting := signer(t, image.Digest)
	ctx, hangUp := context.WithCancel(t.Context())
	srv, s := serverWith(t, func(c *server.Config) {
		trusting(c)
		c.Store = raced{Store: c.Store, behind: hangUp, before: func() {
			r := httptest.NewRequest("PUT", "/v2/app/manifests/v1", strings.NewReader(list))
			r.Header.Set("Content-Type", mediaType)
			w := httptest.NewRecorder()
			if c.Registry.ServeHTTP(w, r); w.Code != http.StatusCreated {
				t.Errorf("the push is answered %d %s", w.Code, w.Body)
			}
		}}
		var err error
		c.Signing, err = signing.New(signing.Config{
			Hosts: c.Hosts, Keys: map[string]signature.Signer{"server": newSigner(t, "server")}, Rules: []signing.Rule{{Key: "server", On: []signing.Trigger{signing.OnUpload}}},
			Registry: c.Registry, Store: c.Store, Door: c.Door, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	path := "/sigstore/app@" + strings.Replace(image.Digest.String(), ":", "=", 1) + "/signature-1"
	r := httptest.NewRequest("PUT", "http://"+host+path, bytes.NewReader(content))
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, r.WithContext(ctx))
	set, err := s.Get(t.Context(), image)
	if err != nil || len(set.Signatures) != 2 || !set.Signatures[1].Own {
		t.Errorf("answered %d %s, stored are %d signatures, %v; want the upload and the server's own", w.Code, w.Body, len(set.Signatures), err)
	}
}
