package registry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Deletions are reported once each, with an embedded registry and with one that is passed on.
func TestDeleted(t *testing.T) {
	t.Parallel()
	var heard []Delete
	c := EmbeddedConfig{Deleted: func(_ context.Context, d Delete) error { heard = append(heard, d); return nil }}
	embedded := serve(t, c)
	behind := serve(t, EmbeddedConfig{})
	remote, _ := pass(t, behind.url, RemoteConfig{Deleted: c.Deleted})
	for name, s := range map[string]*served{"embedded": embedded, "remote": remote} {
		heard = nil
		image := s.image("a/b", name)
		d := s.push("a/b", "v1", image)
		s.push("a/b", "v2", image)
		s.push("a/b", "v3", image)
		s.want(202, s.do("DELETE", "/v2/a/b/manifests/v1", ""), "delete a tag")
		if want := []Delete{{Repository: "a/b", Tag: "v1"}}; !slices.Equal(heard, want) {
			t.Errorf("%s, a tag: heard %+v, want %+v", name, heard, want)
		}
		heard = nil
		s.want(404, s.do("DELETE", "/v2/a/b/manifests/never", ""), "delete a tag that is not there")
		s.want(404, s.do("DELETE", "/v2/a/b/manifests/"+digest.FromString("never").String(), ""), "delete what is not there")
		s.do("DELETE", "/v2/a/b/blobs/"+digest.FromString(name).String(), "")
		if heard != nil {
			t.Errorf("%s, nothing and a blob: heard %+v", name, heard)
		}
		s.want(202, s.do("DELETE", "/v2/a/b/manifests/"+d.String(), ""), "delete")
		if want := []Delete{{Repository: "a/b", Digest: d}}; !slices.Equal(heard, want) {
			t.Errorf("%s, a manifest of two tags: heard %+v, want %+v", name, heard, want)
		}
	}
}

// What cannot be done about a deletion is told to whoever deletes, without the cause, and logged.
func TestDeletedFails(t *testing.T) {
	t.Parallel()
	failing := func(context.Context, Delete) error { return errors.New("secret cause") }
	log := &lines{}
	embedded := serve(t, EmbeddedConfig{Deleted: failing})
	behind := serve(t, EmbeddedConfig{})
	remote, _ := pass(t, behind.url, RemoteConfig{Deleted: failing, Log: log.logger(slog.LevelInfo)})
	for name, s := range map[string]*served{"embedded": embedded, "remote": remote} {
		s.push("a", "v1", s.image("a", name))
		got := s.do("DELETE", "/v2/a/manifests/v1", "")
		if got.status != 500 || strings.Contains(got.body, "secret cause") {
			t.Errorf("%s: got %d %s, want 500 and no cause", name, got.status, got.body)
		}
	}
	logged := log.from(t, slog.LevelError)
	if len(logged) != 1 || logged[0]["error"] != "secret cause" || logged[0]["repository"] != "a" || logged[0]["tag"] != "v1" {
		t.Errorf("logged %v, want one line with the cause", logged)
	}
}
