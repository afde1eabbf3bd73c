package lookaside

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

func image() api.Image {
	return api.Image{Host: "registry.example", Repository: "ns/app", Digest: digest.FromString("x")}
}

// remote is a lookaside that answers a request for signature-n with answer.
func remote(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, name string)) *Remote {
	t.Helper()
	directory := "/sigs/" + api.LookasidePath(image()) + "/"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, directory)
		if !ok {
			t.Errorf("asked for %s, want something below %s", r.URL.Path, directory)
		}
		answer(w, r, name)
	}))
	t.Cleanup(s.Close)
	r, err := NewRemote(s.URL + "/sigs/?token=x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.CloseIdleConnections)
	return r
}

func TestFetch(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", signature.MaxSize+1)
	r := remote(t, func(w http.ResponseWriter, r *http.Request, name string) {
		content, ok := map[string]string{"signature-1": "one", "signature-2": large, "signature-3": large[1:]}[name]
		if r.URL.RawQuery != "token=x" {
			t.Errorf("the query is %q, want that of the base", r.URL.RawQuery)
		}
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, content)
	})
	found, err := r.Fetch(t.Context(), image())
	if err != nil || len(found) != 3 {
		t.Fatalf("got %d files, %v, want 3", len(found), err)
	}
	if string(found[0].Content) != "one" || len(found[2].Content) != signature.MaxSize {
		t.Errorf("got %q and %d bytes", found[0].Content, len(found[2].Content))
	}
	if !errors.Is(found[1].Err, ErrTooLarge) || found[1].Content != nil {
		t.Errorf("a large file: got %d bytes, %v, want ErrTooLarge", len(found[1].Content), found[1].Err)
	}
}

// TestHostileRemotes end, each within its bound, and with an error that tells it.
func TestHostileRemotes(t *testing.T) {
	t.Parallel()
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect reached %s on loopback", r.URL)
	}))
	t.Cleanup(inside.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(inside.URL, "http://"), ":")
	to := func(url string) func(http.ResponseWriter, *http.Request, string) {
		return func(w http.ResponseWriter, r *http.Request, _ string) { http.Redirect(w, r, url, http.StatusFound) }
	}
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, name string)
		want   error
		files  int
	}{
		"an endless list": {func(w http.ResponseWriter, _ *http.Request, _ string) { fmt.Fprint(w, "x") }, ErrEndless, MaxIndex},
		"an endless body": {func(w http.ResponseWriter, r *http.Request, name string) {
			for name == "signature-1" && r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
			w.WriteHeader(http.StatusNotFound)
		}, nil, 1},
		"a stalled body": {func(w http.ResponseWriter, r *http.Request, _ string) {
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, ErrAway, 0},
		"no answer":             {func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }, ErrAway, 0},
		"500":                   {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(500) }, ErrStatus, 0},
		"403":                   {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(403) }, ErrStatus, 0},
		"204":                   {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(204) }, ErrStatus, 0},
		"to loopback":           {to(inside.URL), ErrElsewhere, 0},
		"to a name of loopback": {to("http://localhost:" + port), ErrElsewhere, 0},
		"to loopback in IPv6":   {to("http://[::ffff:127.0.0.1]:" + port), ErrElsewhere, 0},
		"to all addresses":      {to("http://0.0.0.0:" + port), ErrElsewhere, 0},
		"to a cloud's metadata": {to("http://169.254.169.254/latest/meta-data"), ErrElsewhere, 0},
		"to a private network":  {to("http://10.0.0.1/"), ErrElsewhere, 0},
		"to a file":             {to("file:///etc/passwd"), ErrElsewhere, 0},
		"in circles":            {func(w http.ResponseWriter, r *http.Request, _ string) { http.Redirect(w, r, r.URL.String(), 302) }, ErrElsewhere, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := remote(t, test.answer)
			if errors.Is(test.want, ErrAway) {
				r.client.Timeout = 100 * time.Millisecond
			}
			found, err := r.Fetch(t.Context(), image())
			if !errors.Is(err, test.want) || len(found) != test.files {
				t.Errorf("got %d files, %v, want %d, %v", len(found), err, test.files, test.want)
			}
		})
	}
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := remote(t, func(_ http.ResponseWriter, r *http.Request, _ string) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := r.Fetch(ctx, image()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

// Errors go to logs and terminals.
func TestRemoteKeepsItsPassword(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"http://user:secret@127.0.0.1:1/x", "http://user:secret@[::1", "ftp://user:secret@host/"} {
		r, err := NewRemote(base)
		if err == nil {
			_, err = r.Fetch(t.Context(), image())
			if strings.Contains(r.String(), "secret") {
				t.Errorf("String is %s", r)
			}
		}
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got the error %v, want one without the password", base, err)
		}
	}
}
