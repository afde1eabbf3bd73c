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

// registryThat answers as a registry does, with or without the extension's header.
func registryThat(advertises string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
			return
		}
		if advertises != "" {
			w.Header().Set("X-Registry-Supports-Signatures", advertises)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprint(w, "<!doctype html><title>Registry</title>")
}

// What servers answer is looked at as clients look at it.
func TestOnline(t *testing.T) {
	t.Parallel()
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	redirect := func(to http.HandlerFunc) http.HandlerFunc {
		return http.RedirectHandler("http://"+hostOf(t, to), http.StatusFound).ServeHTTP
	}
	plain := registryThat("")
	for name, test := range map[string]struct {
		registry  http.HandlerFunc
		lookaside string // its host; empty: registries.d names none
		want      []string
	}{
		"all is well":                 {plain, hostOf(t, http.NotFound), nil},
		"the extension, no lookaside": {registryThat("1"), "", nil},
		"a dead lookaside":            {registryThat("1"), hostOf(t, http.NotFound), []string{"warning lookaside-dead a.yaml:3:16"}},
		"no extension that counts":    {registryThat("true"), "", []string{"error signatures-nowhere policy.json:1"}},
		"no extension":                {plain, "", []string{"error signatures-nowhere policy.json:1"}},
		"a page":                      {plain, hostOf(t, page), []string{"error lookaside-html a.yaml:3:16"}},
		"a redirect to a page":        {plain, hostOf(t, redirect(page)), []string{"error lookaside-html a.yaml:3:16"}},
		"a redirect to nothing":       {plain, hostOf(t, redirect(http.NotFound)), nil},
		"anything for a signature":    {plain, hostOf(t, status(200)), []string{"error lookaside-html a.yaml:3:16"}},
		"403":                         {plain, hostOf(t, status(403)), []string{"error lookaside-status a.yaml:3:16"}},
		"401":                         {plain, hostOf(t, status(401)), []string{"error lookaside-status a.yaml:3:16"}},
		"503":                         {plain, hostOf(t, status(503)), []string{"error lookaside-status a.yaml:3:16"}},
		"a lookaside that is away":    {plain, strings.TrimPrefix(away.URL, "http://"), []string{"error lookaside-away a.yaml:3:16"}},
		"no registry":                 {status(404), hostOf(t, http.NotFound), []string{"warning registry-away a.yaml:2:3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := asked(t, hostOf(t, test.registry), test.lookaside); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// asked is what lint finds, "severity id place", of a node that wants signatures of a registry, and
// looks for them in a lookaside.
func asked(t *testing.T, registry, lookaside string) (got []string) {
	t.Helper()
	directory := t.TempDir()
	write(t, filepath.Join(directory, "policy.json"),
		fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/keys/alice.gpg"}]}}}`, registry))
	write(t, filepath.Join(directory, "registries.conf"), fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", registry))
	if lookaside != "" {
		write(t, filepath.Join(directory, "registries.d/a.yaml"),
			"docker:\n  "+registry+":\n    lookaside: http://reader:secret@"+lookaside+"/sigs?token=secret\n")
	}
	done := 0
	r, err := lint.Run(t.Context(), []string{directory}, lint.Options{
		Now: now, Root: filepath.Join("testdata", "root"), Online: true, Progress: func(int, int) { done++ },
	})
	if err != nil || done == 0 {
		t.Fatalf("%d answers: %v", done, err)
	}
	for _, f := range r.Findings {
		at := fmt.Sprintf("%s %s %s:%d", f.Severity, f.ID, filepath.Base(f.File), f.Line)
		if f.Column > 0 {
			at += fmt.Sprintf(":%d", f.Column)
		}
		got = append(got, at)
		if strings.Contains(f.What+f.Remedy, "secret") {
			t.Errorf("a password is shown: %s", f.What)
		}
	}
	return got
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
