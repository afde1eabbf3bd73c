package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A served is an embedded registry that a client can reach.
type served struct {
	*Embedded
	t         *testing.T
	url       string
	directory string
}

func serve(t *testing.T, c EmbeddedConfig) *served {
	t.Helper()
	if c.Directory == "" {
		c.Directory = filepath.Join(t.TempDir(), "registry")
	}
	e, err := NewEmbedded(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(e)
	t.Cleanup(func() {
		server.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return &served{e, t, server.URL, c.Directory}
}

// in is the same registry in a subtest.
func (s *served) in(t *testing.T) *served {
	return &served{s.Embedded, t, s.url, s.directory}
}

type response struct {
	status int
	header http.Header
	body   string
}

// do sends one request and follows nothing. The headers are names and values in turn.
func (s *served) do(method, path, body string, headers ...string) response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response{answer.StatusCode, answer.Header, string(content)}
}

func (s *served) want(status int, got response, what string) response {
	s.t.Helper()
	if got.status != status {
		s.t.Fatalf("%s: got %d %s, want %d", what, got.status, got.body, status)
	}
	return got
}

// blob uploads content and returns its descriptor.
func (s *served) blob(repository, content string) string {
	s.t.Helper()
	d := digest.FromString(content)
	begun := s.want(202, s.do("POST", "/v2/"+repository+"/blobs/uploads/", ""), "begin an upload")
	s.want(201, s.do("PUT", begun.header.Get("Location")+"&digest="+d.String(), content), "end an upload")
	return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d}`, d, len(content))
}

// image uploads a config and returns a manifest for it, which is not pushed yet.
func (s *served) image(repository, config string) string {
	s.t.Helper()
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[]}`, ociImage, s.blob(repository, config))
}

func (s *served) put(repository, reference, mediaType, manifest string) response {
	s.t.Helper()
	return s.do("PUT", "/v2/"+repository+"/manifests/"+reference, manifest, "Content-Type", mediaType)
}

// push pushes an OCI image and returns its digest.
func (s *served) push(repository, reference, manifest string) digest.Digest {
	s.t.Helper()
	s.want(201, s.put(repository, reference, ociImage, manifest), "push "+repository+":"+reference)
	return digest.FromString(manifest)
}

func (s *served) tagged(repository, tag string) digest.Digest {
	s.t.Helper()
	m, err := s.Manifest(s.t.Context(), repository, tag)
	if err != nil {
		s.t.Fatalf("Manifest(%s:%s): %v", repository, tag, err)
	}
	return m.Digest
}

// refused checks a whole error answer: one error, no detail.
func (s *served) refused(got response, status int, code, message string) {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
	if err != nil {
		s.t.Fatal(err)
	}
	if got.status != status || strings.TrimSpace(got.body) != string(body) {
		s.t.Errorf("got %d %s\nwant %d %s", got.status, got.body, status, body)
	}
}

// What clients are sent to is relative: they know this registry by names that it does not.
func TestLocations(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	image := s.image("a/b", "{}")
	d := digest.FromString(image)
	forwarded := []string{"X-Forwarded-Proto", "https", "X-Forwarded-Host", "elsewhere.example", "Forwarded", "host=elsewhere.example;proto=https"}
	begun := s.want(202, s.do("POST", "/v2/a/b/blobs/uploads/", "", forwarded...), "begin an upload")
	some := s.want(202, s.do("PATCH", begun.header.Get("Location"), "so", forwarded...), "send a part")
	pushed := s.want(201, s.do("PUT", "/v2/a/b/manifests/v1", image, append(forwarded, "Content-Type", ociImage)...), "push")
	for location, want := range map[string]string{
		begun.header.Get("Location"):  "/v2/a/b/blobs/uploads/" + begun.header.Get("Docker-Upload-UUID") + "?_state=",
		some.header.Get("Location"):   "/v2/a/b/blobs/uploads/" + begun.header.Get("Docker-Upload-UUID") + "?_state=",
		pushed.header.Get("Location"): "/v2/a/b/manifests/" + d.String(),
	} {
		if !strings.HasPrefix(location, want) {
			t.Errorf("Location %q, want %q…", location, want)
		}
	}
	if got := pushed.header.Get("Docker-Content-Digest"); got != d.String() {
		t.Errorf("Docker-Content-Digest %q, want %q", got, d)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	image := s.image("a", "0123456789")
	d := s.push("a", "v1", image)
	blob := "/v2/a/blobs/" + digest.FromString("0123456789").String()
	for name, test := range map[string]struct {
		method, path string
		headers      []string
		status       int
		body         string
		header       map[string]string
	}{
		"ping":           {"GET", "/v2/", nil, 200, "{}", nil},
		"by tag":         {"GET", "/v2/a/manifests/v1", []string{"Accept", ociImage}, 200, image, map[string]string{"Docker-Content-Digest": d.String(), "Content-Type": ociImage}},
		"head":           {"HEAD", "/v2/a/manifests/v1", []string{"Accept", ociImage}, 200, "", map[string]string{"Docker-Content-Digest": d.String(), "Content-Length": fmt.Sprint(len(image))}},
		"by digest":      {"GET", "/v2/a/manifests/" + d.String(), []string{"Accept", ociImage}, 200, image, nil},
		"known":          {"GET", "/v2/a/manifests/v1", []string{"Accept", ociImage, "If-None-Match", `"` + d.String() + `"`}, 304, "", nil},
		"blob":           {"GET", blob, nil, 200, "0123456789", map[string]string{"Content-Length": "10"}},
		"head of a blob": {"HEAD", blob, nil, 200, "", map[string]string{"Content-Length": "10"}},
		"range":          {"GET", blob, []string{"Range", "bytes=3-5"}, 206, "345", map[string]string{"Content-Range": "bytes 3-5/10"}},
		"range beyond":   {"GET", blob, []string{"Range", "bytes=30-"}, 416, "", map[string]string{"Content-Range": "bytes */10"}},
		"known blob":     {"GET", blob, []string{"If-None-Match", `"` + digest.FromString("0123456789").String() + `"`}, 304, "", nil},
		"tags":           {"GET", "/v2/a/tags/list", nil, 200, "{\"name\":\"a\",\"tags\":[\"v1\"]}\n", nil},
		"repositories":   {"GET", "/v2/_catalog", nil, 200, "{\"repositories\":[\"a\"]}\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := s.in(t).do(test.method, test.path, "", test.headers...)
			if got.status != test.status || test.status < 300 && got.body != test.body {
				t.Errorf("got %d %q\nwant %d %q", got.status, got.body, test.status, test.body)
			}
			for name, want := range test.header {
				if got := got.header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

// Who decides on a request looks at its URL: a blob must not be mounted from where a body says.
func TestMount(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	s.blob("theirs", "secret layer")
	d := digest.FromString("secret layer").String()
	form := "mount=" + d + "&from=theirs"
	parts := "--x\r\nContent-Disposition: form-data; name=\"mount\"\r\n\r\n" + d + "\r\n--x\r\nContent-Disposition: form-data; name=\"from\"\r\n\r\ntheirs\r\n--x--\r\n"
	for name, test := range map[string]struct {
		query, body, contentType string
		status                   int
	}{
		"query":                  {"?" + form, "", "", 201},
		"query, from elsewhere":  {"?mount=" + d + "&from=unknown", "", "", 202},
		"query, another digest":  {"?mount=" + digest.FromString("x").String() + "&from=theirs", "", "", 202},
		"query, from a path":     {"?mount=" + d + "&from=x/../theirs", "", "", 202},
		"form":                   {"", form, "application/x-www-form-urlencoded", 202},
		"form, mount in query":   {"?mount=" + d, form, "application/x-www-form-urlencoded", 202},
		"form, in capitals":      {"", form, " Application/X-WWW-Form-URLencoded ; charset=utf-8", 202},
		"form, broken parameter": {"", form, "application/x-www-form-urlencoded; =", 202},
		"parts":                  {"", parts, "multipart/form-data; boundary=x", 202},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, mine := s.in(t), strings.NewReplacer(" ", "", ",", "").Replace(name)
			s.want(test.status, s.do("POST", "/v2/"+mine+"/blobs/uploads/"+test.query, test.body, "Content-Type", test.contentType), "POST")
			want := map[int]int{201: 200, 202: 404}[test.status]
			s.want(want, s.do("HEAD", "/v2/"+mine+"/blobs/"+d, ""), "the blob")
		})
	}
}

// A body is a blob, whatever it is called: curl calls it a form.
func TestBlobCalledForm(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	begun := s.want(202, s.do("POST", "/v2/a/blobs/uploads/", ""), "begin")
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	some := s.want(202, s.do("PATCH", begun.header.Get("Location"), "digest=", form...), "part")
	d := digest.FromString("digest=x&_state=y").String()
	s.want(201, s.do("PUT", some.header.Get("Location")+"&digest="+d, "x&_state=y", form...), "end")
}

// The state of an upload is signed: it is good for one upload to one repository, with any
// process on the same directory, and with no other.
func TestUploadState(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	again, other := serve(t, EmbeddedConfig{Directory: s.directory}), serve(t, EmbeddedConfig{})
	location := s.want(202, s.do("POST", "/v2/a/blobs/uploads/", ""), "begin").header.Get("Location")
	end := "&digest=" + digest.FromString("content").String()
	for name, got := range map[string]response{
		"another repository": s.do("PUT", strings.Replace(location, "/v2/a/", "/v2/b/", 1)+end, "content"),
		"another secret":     other.do("PUT", location+end, "content"),
		"no state":           s.do("PUT", strings.Split(location, "?")[0]+"?"+end[1:], "content"),
	} {
		if got.status != 404 || !strings.Contains(got.body, "BLOB_UPLOAD_INVALID") {
			t.Errorf("%s: got %d %s, want 404 BLOB_UPLOAD_INVALID", name, got.status, got.body)
		}
	}
	s.want(400, s.do("PUT", location+"&digest="+digest.FromString("else").String(), "content"), "another digest than the content's")
	location = s.want(202, s.do("POST", "/v2/a/blobs/uploads/", ""), "begin").header.Get("Location")
	again.want(201, again.do("PUT", location+end, "content"), "finish with another process")
	s.want(200, s.do("GET", "/v2/a/blobs/"+end[len("&digest="):], ""), "read")
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	s.push("a", "v1", s.image("a", "{}"))
	s.want(200, s.do("GET", fmt.Sprint("/v2/_catalog?n=", maxListed), ""), "repositories")
	s.want(400, s.do("GET", fmt.Sprint("/v2/_catalog?n=", maxListed+1), ""), "repositories")
	tags := filepath.Join(s.directory, "docker/registry/v2/repositories/a/_manifests/tags")
	for i := range maxListed {
		if err := os.Mkdir(filepath.Join(tags, fmt.Sprint("w", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	got := s.want(200, s.do("GET", fmt.Sprint("/v2/a/tags/list?n=", maxListed+1), ""), "tags")
	if n := strings.Count(got.body, `"w`); n != maxListed-1 || !strings.HasPrefix(got.header.Get("Link"), "</v2/a/tags/list?") {
		t.Errorf("%d tags of %d, and Link %q; want %d, and a relative one", n, maxListed+1, got.header.Get("Link"), maxListed)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	d := s.push("a", "v1", s.image("a", "{}"))
	s.want(202, s.do("DELETE", "/v2/a/manifests/"+d.String(), ""), "delete")
	for _, reference := range []string{"v1", d.String()} {
		if m, err := s.Manifest(t.Context(), "a", reference); !isUnknown(err) {
			t.Errorf("Manifest(%s) of what is deleted: %+v, %v", reference, m, err)
		}
	}
}

// Registries in one process know nothing of each other.
func TestSeveral(t *testing.T) {
	t.Parallel()
	heard := make(chan Push, 10)
	one := serve(t, EmbeddedConfig{Pushed: func(_ context.Context, p Push) error { heard <- p; return nil }})
	two := serve(t, EmbeddedConfig{})
	two.push("a", "v1", two.image("a", "{}"))
	d := one.push("b", "v1", one.image("b", "{}"))
	if p := <-heard; p.Manifest.Digest != d || p.Repository != "b" || len(heard) > 0 {
		t.Errorf("heard %s %s and %d more, want b %s", p.Repository, p.Manifest.Digest, len(heard), d)
	}
	if _, err := one.Manifest(t.Context(), "a", "v1"); !isUnknown(err) {
		t.Errorf("the other's image: %v", err)
	}
}

func TestNewEmbedded(t *testing.T) {
	t.Parallel()
	s := serve(t, EmbeddedConfig{})
	if info, err := os.Stat(s.directory); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v, want 0700", info.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := NewEmbedded(t.Context(), EmbeddedConfig{Directory: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("NewEmbedded on a file: %v, %v", e, err)
	}
}

// It is alone: it looks at all goroutines.
func TestClose(t *testing.T) {
	e, err := NewEmbedded(t.Context(), EmbeddedConfig{Directory: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got := running("startUploadPurger"); got == 0 {
		t.Fatal("nothing removes abandoned uploads: this test looks for the wrong name")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); running("startUploadPurger") > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("abandoned uploads are still looked for, 10 s after Close")
		}
	}
}

// running counts the goroutines that some function started, or is on the stack of.
func running(function string) int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), function)
}
