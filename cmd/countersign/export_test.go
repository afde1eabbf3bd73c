package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/lookaside"
)

// An exported is an export of one image, from a server that serves these words as its signatures.
type exported struct {
	*exporting
	directory string
	words     string
}

func newExported(t *testing.T) *exported {
	t.Helper()
	e := &exported{directory: t.TempDir()}
	image, err := api.NewImage("localhost", "ns/app", "sha256:"+strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page := api.ExportPage{Images: []api.ExportImage{{Image: image}}}
		for word := range strings.FieldsSeq(e.words) {
			page.Images[0].Signatures = append(page.Images[0].Signatures, []byte(word))
		}
		_ = json.NewEncoder(w).Encode(page) // whoever asked says what is wrong
	}))
	t.Cleanup(server.Close)
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = said.Close() })
	tree, err := lookaside.NewWriter(e.directory, "a test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	e.exporting = &exporting{
		c: &client{server: server.URL}, t: terminal{stdout: said, stderr: said},
		host: "localhost", patience: &patience{most: importPatience, tell: func(string) {}}, tree: tree, progress: newProgress(said),
	}
	return e
}

// all brings the tree up to date with a server that serves these words.
func (e *exported) all(t *testing.T, words string) {
	t.Helper()
	e.words = words
	if err := e.exporting.all(t.Context()); err != nil {
		t.Fatalf("%q is served: %v", words, err)
	}
}

// has is what the image has in the tree.
func (e *exported) has(t *testing.T) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(e.directory, "ns", "*", "signature-*"))
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, string(content))
	}
	return strings.Join(words, " ")
}

// A list that became longer, as after a backup was restored, while a shorter one waited to be trimmed.
func TestExportRestored(t *testing.T) {
	t.Parallel()
	e := newExported(t)
	e.all(t, "a b c")
	e.all(t, "a c")
	e.all(t, "a b c")
	if got := e.has(t); got != "a b c a b c" {
		t.Errorf("before it is trimmed the tree has %q, want the list twice", got)
	}
	if err := e.trim(time.Now().Add(readers)); err != nil {
		t.Fatal(err)
	}
	if got := e.has(t); got != "a b c" {
		t.Errorf("after it is trimmed the tree has %q, want what is served, %q", got, e.words)
	}
}

// What refuses the first question, as a server does that is asked for http and speaks https, is not asked
// again and again.
func TestExportRefused(t *testing.T) {
	t.Parallel()
	e := newExported(t)
	for _, begun := range []bool{false, true} { // a server that is now behind something else has answered before
		ctx, cancel := context.WithCancel(t.Context())
		var asked atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) > 1 {
				cancel()
			}
			w.WriteHeader(http.StatusBadRequest)
		}))
		t.Cleanup(server.Close)
		e.c, e.patience.begun = &client{server: server.URL}, begun
		if err := e.follow(ctx); err == nil || !strings.Contains(err.Error(), "400") || asked.Load() != 1 {
			t.Errorf("asked %d times, and answered before: %t: %v, want the refusal at once", asked.Load(), begun, err)
		}
		cancel()
	}
}
