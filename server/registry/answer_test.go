package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Of what goes wrong inside, nobody outside hears more than that: not where files are.
func TestFailuresAreDiscreet(t *testing.T) {
	t.Parallel()
	content := `{"schemaVersion":2,"mediaType":"` + ociImage + `"}`
	repositories := "docker/registry/v2/repositories/"
	for name, test := range map[string]struct{ broken, method, path string }{
		"read a tag":       {repositories + "a/_manifests", "GET", "/v2/a/manifests/v1"},
		"read a manifest":  {"docker/registry/v2/blobs", "GET", "/v2/a/manifests/v1"},
		"head":             {"docker/registry/v2/blobs", "HEAD", "/v2/a/manifests/v1"},
		"read a blob":      {repositories + "a", "GET", "/v2/a/blobs/" + digest.FromString("{}").String()},
		"begin an upload":  {repositories + "a", "POST", "/v2/a/blobs/uploads/"},
		"list tags":        {repositories + "a/_manifests", "GET", "/v2/a/tags/list"},
		"list":             {"docker/registry/v2/repositories", "GET", "/v2/_catalog"},
		"delete":           {repositories + "a/_manifests", "DELETE", "/v2/a/manifests/v1"},
		"delete, by hash":  {repositories + "a/_manifests", "DELETE", "/v2/a/manifests/" + digest.FromString(content).String()},
		"status of upload": {repositories + "a", "GET", "/v2/a/blobs/uploads/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, EmbeddedConfig{})
			s.push("a", "v1", s.image("a", "{}"))
			s.replaceByFile(test.broken)
			got := s.do(test.method, test.path, "", "Accept", ociImage)
			if test.method == "HEAD" {
				s.want(500, got, name)
				return
			}
			s.refused(got, 500, "UNKNOWN", "unknown error")
		})
	}
}

// A tag that cannot be written fails the push, after Pushed and without Tagged.
func TestTagFails(t *testing.T) {
	t.Parallel()
	s, w := watch(t)
	image := s.image("a", "{}")
	s.push("a", digest.FromString(image).String(), image)
	w.check(t, "pushed a:", "tagged a:")
	s.replaceByFile("docker/registry/v2/repositories/a/_manifests/tags")
	s.refused(s.put("a", "v1", ociImage, image), 500, "UNKNOWN", "unknown error")
	if pushes := w.pushes; len(pushes) != 1 || !strings.HasPrefix(w.heard[0], "pushed a:v1") {
		t.Errorf("heard %q, want only that it was pushed", w.heard)
	}
}

// Distribution answers some of these twice, and one with a status that is not its own.
func TestOneAnswer(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	s.push("a", "v1", s.image("a", "{}"))
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/v2/localhost:5000/a/manifests/v1":                      {400, "NAME_INVALID"},
		"/v2/Example.com/a/tags/list":                            {400, "NAME_INVALID"},
		"/v2/" + strings.Repeat("a", 256) + "/manifests/v1":      {400, "NAME_INVALID"},
		"/v2/" + strings.Repeat("a", 255) + "/manifests/v1":      {404, "MANIFEST_UNKNOWN"},
		"/v2/" + strings.Repeat("a", 256) + "/tags/list":         {400, "NAME_INVALID"},
		"/v2/" + strings.Repeat("a/", 128) + "b/blobs/uploads/x": {400, "NAME_INVALID"},
		"/v2/b/manifests/v1":                                     {404, "MANIFEST_UNKNOWN"},
		"/v2/a/manifests/v2":                                     {404, "MANIFEST_UNKNOWN"},
		"/v2/a/blobs/" + digestA.String():                        {404, "BLOB_UNKNOWN"},
		"/v2/b/tags/list":                                        {404, "NAME_UNKNOWN"},
		"/v2/a/tags/list?n=-1":                                   {400, "PAGINATION_NUMBER_INVALID"},
		"/v2/a/blobs/uploads/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4":  {404, "BLOB_UPLOAD_UNKNOWN"},
	} {
		got := s.do("GET", path, "", "Accept", ociImage)
		decoder := json.NewDecoder(strings.NewReader(got.body))
		var body struct {
			Errors []struct{ Code, Message string }
		}
		err := decoder.Decode(&body)
		_, end := decoder.Token()
		if err != nil || end != io.EOF || got.status != want.status || fmt.Sprint(len(body.Errors)) != "1" || body.Errors[0].Code != want.code || body.Errors[0].Message == "" {
			t.Errorf("GET %.60s: got %d %s, want one answer, %d %s", path, got.status, got.body, want.status, want.code)
		}
	}
}
