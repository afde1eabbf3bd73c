package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// all follows the pages to their end.
func all(t *testing.T, page func(ctx context.Context, after string) ([]string, string, error)) []string {
	t.Helper()
	var names []string
	for after, pages := "", 0; ; pages++ {
		more, next, err := page(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, more...)
		if after = next; after == "" {
			return names
		}
		if pages > 10 {
			t.Fatalf("more than ten pages: %q", names)
		}
	}
}

// Both registries list the same, whoever asks.
func TestLists(t *testing.T) {
	t.Parallel()
	behind := serve(t, EmbeddedConfig{})
	s, remote := pass(t, behind.url, RemoteConfig{})
	for _, tag := range []string{"v2", "v1", "latest"} {
		s.push("a/b", tag, s.image("a/b", tag))
	}
	s.push("a/c", "v1", s.image("a/c", "x"))
	for name, r := range map[string]Registry{"embedded": behind.Embedded, "remote": remote} {
		got := all(t, func(ctx context.Context, after string) ([]string, string, error) { return r.Tags(ctx, "a/b", after) })
		if slices.Sort(got); !slices.Equal(got, []string{"latest", "v1", "v2"}) {
			t.Errorf("%s: tags %q", name, got)
		}
		if got, _, err := r.Tags(t.Context(), "a/b", "v1"); err != nil || !slices.Equal(got, []string{"v2"}) {
			t.Errorf("%s: tags behind v1: %q, %v", name, got, err)
		}
		if got := all(t, r.Repositories); !slices.Equal(got, []string{"a/b", "a/c"}) {
			t.Errorf("%s: repositories %q", name, got)
		}
		for _, repository := range []string{"a/none", "A", "../secret", ""} {
			if got, _, err := r.Tags(t.Context(), repository, ""); !errors.Is(err, ErrUnknown) {
				t.Errorf("%s: tags of %q: %q, %v, want ErrUnknown", name, repository, got, err)
			}
		}
	}
}

// What a registry answers is bounded, and never becomes a name that is none.
func TestRemoteListsAreNotTrusted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		tags   []string
		fails  bool
	}{
		"pages": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("last") == "" {
				w.Header().Set("Link", `</v2/a/b/tags/list?n=1&last=v1>; rel="next"`)
				fmt.Fprint(w, `{"tags":["v1"]}`)
				return
			}
			fmt.Fprint(w, `{"tags":["v2"]}`)
		}, []string{"v1", "v2"}, false},
		"no tags": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name":"a/b","tags":null}`) }, nil, false},
		"names that are none": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"tags":["v1","../x","a b","sha256:00","","v\n2"]}`)
		}, []string{"v1"}, false},
		"the same page for ever": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `</v2/a/b/tags/list?last=v1>; rel="next"`)
			fmt.Fprint(w, `{"tags":["v1"]}`)
		}, []string{"v1"}, false},
		"no JSON":   {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }, nil, true},
		"too much":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxList+2)) }, nil, true},
		"a failure": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, nil, true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, nil, true},
	} {
		_, r := pass(t, upstream(t, test.answer), RemoteConfig{})
		if test.fails {
			if got, _, err := r.Tags(t.Context(), "a/b", ""); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %q, %v, want ErrUnavailable", name, got, err)
			}
			continue
		}
		got := all(t, func(ctx context.Context, after string) ([]string, string, error) { return r.Tags(ctx, "a/b", after) })
		if !slices.Equal(got, test.tags) {
			t.Errorf("%s: tags %q, want %q", name, got, test.tags)
		}
	}
}
