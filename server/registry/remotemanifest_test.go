package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestRemoteManifest(t *testing.T) {
	t.Parallel()
	const image = `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":{}}`
	d := digest.FromString(image).String()
	address := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, kind, _ := strings.Cut(r.URL.Path, "/manifests/")
		w.Header().Set("Content-Type", ociImage+"; charset=utf-8")
		switch kind {
		case "lies":
			w.Header().Set(contentDigest, digestA.String())
		case "large":
			_, _ = io.CopyN(w, zeros{}, maxManifest+1)
			return
		case "largest":
			_, _ = io.CopyN(w, zeros{}, maxManifest)
			return
		case "old":
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
		case "elsewhere":
			http.Redirect(w, r, "/v2/b/manifests/v1", http.StatusTemporaryRedirect)
			return
		case "short":
			w.Header().Set("Content-Length", "1000")
		case "404", "401", "403", "429", "500", "503", "204":
			var status int
			_, _ = fmt.Sscan(kind, &status)
			w.WriteHeader(status)
			return
		}
		_, _ = io.WriteString(w, image)
	})
	_, r := pass(t, address, RemoteConfig{})
	for _, test := range []struct {
		repository, reference string
		want                  error
	}{
		{"a", "v1", nil}, {"a/b", d, nil}, {"a", digestA.String(), ErrUnavailable}, {"a", "lies", ErrUnavailable}, {"a", "large", ErrUnavailable},
		{"a", "largest", nil}, {"a", "old", ErrUnknown}, {"a", "elsewhere", ErrUnavailable}, {"a", "short", ErrUnavailable},
		{"a", "404", ErrUnknown}, {"a", "401", ErrRefused}, {"a", "403", ErrRefused}, {"a", "429", ErrUnavailable}, {"a", "500", ErrUnavailable}, {"a", "204", ErrUnavailable},
		{"../a", "v1", ErrUnknown}, {"a", "../v1", ErrUnknown}, {"a", "v1?x", ErrUnknown}, {"A", "v1", ErrUnknown}, {"", "v1", ErrUnknown}, {"a", "", ErrUnknown},
		{"a:b", "v1", ErrUnknown}, {"a", "sha512:" + strings.Repeat("a", 128), ErrUnknown}, {"h:5000/a", "v1", ErrUnknown},
	} {
		m, err := r.Manifest(t.Context(), test.repository, test.reference)
		if !errors.Is(err, test.want) || (err == nil) != (m.Content != nil) {
			t.Errorf("%s, %s: got %d bytes, %v, want %v", test.repository, test.reference, len(m.Content), err, test.want)
		}
		if refused := errors.Is(err, ErrRefused); refused && !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) && errors.Is(err, ErrUnavailable) {
			t.Errorf("%s, %s: %v is of two kinds", test.repository, test.reference, err)
		}
		if err == nil && (m.Digest != digest.FromBytes(m.Content) || m.MediaType != ociImage) {
			t.Errorf("%s, %s: %s %s is not of its content", test.repository, test.reference, m.Digest, m.MediaType)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
