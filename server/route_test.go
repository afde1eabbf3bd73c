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
