package lint_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/node/lint"
)

// hostOf starts a server and returns its host and port.
func hostOf(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// What servers answer is looked at as clients look at it.
func TestOnline(t *testing.T) {
	t.Parallel()
	registry := func(advertises string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				t.Errorf("a registry is asked for %s", r.URL.Path)
			}
			if advertises != "" {
				w.Header().Set("X-Registry-Supports-Signatures", advertises)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>Registry</title>")
	}
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	for name, test := range map[string]struct {
		registry  http.HandlerFunc
		lookaside string // its host; empty: registries.d names none
		want      []string
	}{
		"all is well":                 {registry(""), hostOf(t, http.NotFound), nil},
		"the extension, no lookaside": {registry("1"), "", nil},
		"a dead lookaside":            {registry("1"), hostOf(t, http.NotFound), []string{"warning lookaside-dead a.yaml:3:16"}},
		"no extension that counts":    {registry("true"), "", []string{"error signatures-nowhere policy.json:1"}},
		"no extension":                {registry(""), "", []string{"error signatures-nowhere policy.json:1"}},
		"a page":                      {registry(""), hostOf(t, page), []string{"error lookaside-html a.yaml:3:16"}},
		"a redirect to a page":        {registry(""), hostOf(t, http.RedirectHandler("http://"+hostOf(t, page), http.StatusFound).ServeHTTP), []string{"error lookaside-html a.yaml:3:16"}},
		"a redirect to nothing":       {registry(""), hostOf(t, http.RedirectHandler("http://"+hostOf(t, http.NotFound), http.StatusFound).ServeHTTP), nil},
		"anything for a signature":    {registry(""), hostOf(t, status(200)), []string{"error lookaside-html a.yaml:3:16"}},
		"403":                         {registry(""), hostOf(t, status(403)), []string{"error lookaside-status a.yaml:3:16"}},
		"401":                         {registry(""), hostOf(t, status(401)), []string{"error lookaside-status a.yaml:3:16"}},
		"503":                         {registry(""), hostOf(t, status(503)), []string{"error lookaside-status a.yaml:3:16"}},
		"a lookaside that is away":    {registry(""), strings.TrimPrefix(away.URL, "http://"), []string{"error lookaside-away a.yaml:3:16"}},
		"no registry":                 {status(404), hostOf(t, http.NotFound), []string{"warning registry-away a.yaml:2:3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			directory, host := t.TempDir(), hostOf(t, test.registry)
			files := map[string]string{
				"policy.json":     fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/keys/alice.gpg"}]}}}`, host),
				"registries.conf": fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", host),
			}
			if test.lookaside != "" {
				files["registries.d/a.yaml"] = "docker:\n  " + host + ":\n    lookaside: http://reader:secret@" + test.lookaside + "/sigs?token=secret\n"
			}
			for path, content := range files {
				write(t, filepath.Join(directory, path), content)
			}
			done := 0
			r, err := lint.Run(t.Context(), []string{directory}, lint.Options{
				Now: now, Root: filepath.Join("testdata", "root"), Online: true, Progress: func(int, int) { done++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Findings {
				got = append(got, fmt.Sprintf("%s %s %s:%d", f.Severity, f.ID, filepath.Base(f.File), f.Line))
				if f.Column > 0 {
					got[len(got)-1] += fmt.Sprintf(":%d", f.Column)
				}
				if strings.Contains(f.What+f.Remedy, "secret") {
					t.Errorf("a password is shown: %s", f.What)
				}
			}
			if !slices.Equal(got, test.want) || done == 0 {
				t.Errorf("got %q after %d answers, want %q: %+v", got, done, test.want, r.Findings)
			}
		})
	}
}

// A lookaside is asked with the certificates that the node has for its registry, as clients do.
func TestOnlineCertificates(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	for _, known := range []bool{true, false} {
		directory := t.TempDir()
		write(t, filepath.Join(directory, "registries.d/a.yaml"), "docker:\n  registry.example.com:\n    lookaside: "+s.URL+"/sigs\n")
		if known {
			write(t, filepath.Join(directory, "certs.d/registry.example.com/ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
		}
		r, err := lint.Run(t.Context(), []string{directory}, lint.Options{Now: now, Online: true})
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(r.Findings, func(f lint.Finding) bool { return f.ID == "lookaside-away" })
		if found == known {
			t.Errorf("its certificate is known: %v, and lint says %+v", known, r.Findings)
		}
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
