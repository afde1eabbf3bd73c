package server_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
)

// Each route says of each of its methods what it asks of access, and takes no other method.
func TestRoutes(t *testing.T) {
	t.Parallel()
	srv, _ := newServer(t)
	known := []string{server.Anybody}
	for _, a := range access.Actions() {
		known = append(known, string(a))
	}
	for _, route := range srv.Routes() {
		var methods []string
		for _, n := range route.Needs {
			methods = append(methods, n.Methods...)
			if n.In == "" && n.Over == "" {
				t.Errorf("%s: %v asks for nothing; say %s where that is meant", route.Path, n.Methods, server.Anybody)
			}
			for _, action := range []string{n.In, n.Over} {
				if action != "" && !slices.Contains(known, action) {
					t.Errorf("%s: %v asks for %q, which is no action", route.Path, n.Methods, action)
				}
			}
		}
		path := strings.Replace(route.Path, "*", "ns/app", 1)
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} {
			if slices.Contains(methods, method) {
				continue
			}
			w := ask(srv.Handler(), method, path)
			if allow := w.Header().Get("Allow"); w.Code != 405 || allow != strings.Join(methods, ", ") {
				t.Errorf("%s %s: %d, Allow %q, want 405, Allow %q", method, path, w.Code, allow, strings.Join(methods, ", "))
			}
		}
	}
}

// Manifests are asked for often, whatever their repository is called. Blobs are not, nor what belongs to no image.
func TestOften(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/v2/a/manifests/v1":                    true,
		"/v2/a/b/manifests/" + digest:           true,
		"/v2/a/manifests/manifests/v1":          true,
		"/v2/a/manifests/manifests":             true,
		"/v2/a/manifests/b/blobs/" + digest:     false,
		"/v2/a/manifests/b/blobs/uploads/1":     false,
		"/v2/a/manifests/tags/list":             false,
		"/v2/a/blobs/" + digest:                 false,
		"/v2/":                                  false,
		"/v2":                                   false,
		"/":                                     false,
		"":                                      false,
		"/else/a/manifests/v1":                  false,
		"/sigstore/a@sha256=1/signature-1":      true,
		"/extensions/v2/a/signatures/" + digest: true,
		"/lookaside/b/a@sha256=1/signature-1":   true,
	} {
		if got := server.Often(path); got != want {
			t.Errorf("Often(%q) is %v, want %v", path, got, want)
		}
	}
}
