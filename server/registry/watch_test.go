package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// A witness writes down what its watchers hear, and what the registry says at that moment.
type witness struct {
	registry *Embedded
	mu       sync.Mutex
	heard    []string
	pushes   []Push
}

func (w *witness) config() EmbeddedConfig {
	return EmbeddedConfig{Pushed: w.watcher("pushed"), Tagged: w.watcher("tagged")}
}

func (w *witness) watcher(name string) Watcher {
	return func(ctx context.Context, p Push) error {
		line := fmt.Sprintf("%s %s:%s", name, p.Repository, p.Tag)
		m, err := w.registry.Manifest(ctx, p.Repository, p.Manifest.Digest.String())
		if err != nil || m.Digest != p.Manifest.Digest || m.MediaType != p.Manifest.MediaType || string(m.Content) != string(p.Manifest.Content) {
			line += fmt.Sprintf(" that is not stored (%v)", err)
		}
		if p.Tag != "" {
			switch m, err := w.registry.Manifest(ctx, p.Repository, p.Tag); {
			case isUnknown(err):
				line += ", no tag"
			case err != nil:
				line += ", " + err.Error()
			case m.Digest == p.Manifest.Digest:
				line += ", its tag"
			default:
				line += ", another's tag"
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard = append(w.heard, line)
		w.pushes = append(w.pushes, p)
		return nil
	}
}

// check compares what was heard since the last check.
func (w *witness) check(t *testing.T, want ...string) []Push {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.heard, want) {
		t.Errorf("heard\n %s\nwant\n %s", strings.Join(w.heard, "\n "), strings.Join(want, "\n "))
	}
	pushes := w.pushes
	w.heard, w.pushes = nil, nil
	return pushes
}

func watch(t *testing.T) (*served, *witness) {
	t.Helper()
	w := &witness{}
	s := serve(t, w.config())
	w.registry = s.Embedded
	return s, w
}

func TestPush(t *testing.T) {
	t.Parallel()
	s, w := watch(t)
	one, two := s.image("a/b", "one"), s.image("a/b", "two")
	d := s.push("a/b", "v1", one)
	w.check(t, "pushed a/b:v1, no tag", "tagged a/b:v1, its tag")
	s.push("a/b", "v1", two)
	w.check(t, "pushed a/b:v1, another's tag", "tagged a/b:v1, its tag")
	s.push("a/b", "v1", two)
	w.check(t, "pushed a/b:v1, its tag", "tagged a/b:v1, its tag")
	s.push("a/b", d.String(), one)
	w.check(t, "pushed a/b:", "tagged a/b:")
	s.push("a/b", "v2", one)
	w.check(t, "pushed a/b:v2, no tag", "tagged a/b:v2, its tag")
	if got := s.tagged("a/b", "v1"); got != digest.FromString(two) {
		t.Errorf("v1 is %s, want %s", got, digest.FromString(two))
	}
}

// As clients push a list: what it contains by digest, then the list by tag.
func TestPushList(t *testing.T) {
	t.Parallel()
	for name, mediaType := range map[string]string{"OCI": ociList, "Docker": dockerList} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := watch(t)
			one, two := s.image("a", "one"), s.image("a", "two")
			content := strings.ReplaceAll(list(digest.FromString(one), digest.FromString(two)), ociList, mediaType)
			s.want(400, s.put("a", "v1", mediaType, content), "a list before what it contains")
			w.check(t)
			s.push("a", digest.FromString(one).String(), one)
			s.push("a", digest.FromString(two).String(), two)
			w.check(t, "pushed a:", "tagged a:", "pushed a:", "tagged a:")
			s.want(201, s.put("a", "v1", mediaType, content), "the list")
			for _, push := range w.check(t, "pushed a:v1, no tag", "tagged a:v1, its tag") {
				instances, err := push.Manifest.Instances()
				if want := []digest.Digest{digest.FromString(one), digest.FromString(two)}; err != nil || !slices.Equal(instances, want) {
					t.Errorf("instances: got %v, %v, want %v", instances, err, want)
				}
			}
		})
	}
}

// What is reported is what was sent, to the byte: its hash is what will be signed.
func TestPushIsBytes(t *testing.T) {
	t.Parallel()
	s, w := watch(t)
	config := s.blob("a", "{}")
	for name, test := range map[string]struct{ mediaType, contentType, content string }{
		"OCI":                {ociImage, ociImage, `{"schemaVersion":2,"mediaType":"` + ociImage + `","config":` + config + `,"layers":[]}`},
		"OCI without type":   {ociImage, ociImage, `{"schemaVersion":2,"config":` + config + `,"layers":[]}`},
		"OCI list, no type":  {ociList, ociList, `{"schemaVersion":2,"manifests":[]}`},
		"Docker":             {dockerImage, dockerImage, `{"schemaVersion":2,"mediaType":"` + dockerImage + `","config":` + config + `,"layers":[]}`},
		"newline at the end": {ociImage, ociImage, `{"schemaVersion":2,"config":` + config + `,"layers":[]}` + "\r\n \n"},
		"space everywhere":   {ociImage, ociImage, "\n\t{ \"schemaVersion\" : 2 , \"config\" :" + config + ", \"layers\" : [ ] } "},
		"unknown members":    {ociImage, ociImage, `{"zebra":1.50,"schemaVersion":2,"config":` + config + `,"layers":[],"a":"\u00e9<>"}`},
		"a parameter":        {ociImage, ociImage + "; charset=utf-8", `{"schemaVersion":2,"config":` + config + `,"layers":[],"b":1}`},
	} {
		tag := strings.NewReplacer(" ", "-", ",", "").Replace(name)
		s.want(201, s.put("a", tag, test.contentType, test.content), name)
		for _, push := range w.check(t, "pushed a:"+tag+", no tag", "tagged a:"+tag+", its tag") {
			m := push.Manifest
			if m.Digest != digest.FromString(test.content) || string(m.Content) != test.content || m.MediaType != test.mediaType {
				t.Errorf("%s: got %s %s %q\nwant %s %s %q", name, m.Digest, m.MediaType, m.Content, digest.FromString(test.content), test.mediaType, test.content)
			}
		}
		if got := s.want(200, s.do("GET", "/v2/a/manifests/"+tag, "", "Accept", test.mediaType), name); got.body != test.content {
			t.Errorf("%s: served %q, want %q", name, got.body, test.content)
		}
	}
}

// What no watcher hears of and nobody gets to see.
func TestPushRefusedBefore(t *testing.T) {
	t.Parallel()
	s, w := watch(t)
	image := s.image("a", "{}")
	config := s.blob("a", "{}")
	large := `{"schemaVersion":2,"config":` + config + `,"layers":[],"pad":"` + strings.Repeat("x", 4<<20) + `"}`
	for name, test := range map[string]struct{ reference, mediaType, content string }{
		"another digest":       {digestA.String(), ociImage, image},
		"its sha512":           {digest.SHA512.FromString(image).String(), ociImage, image},
		"larger than 4 MiB":    {"v1", ociImage, large},
		"a config not there":   {"v1", ociImage, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + digestA.String() + `","size":1},"layers":[]}`},
		"a config of no hash":  {"v1", ociImage, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"x","size":1},"layers":[]}`},
		"no JSON":              {"v1", ociImage, "hello"},
		"nothing":              {"v1", ociImage, ""},
		"another type outside": {"v1", ociList, image},
	} {
		got := s.put("a", test.reference, test.mediaType, test.content)
		if got.status != 400 {
			t.Errorf("%s: got %d %.300s, want 400", name, got.status, got.body)
		}
		w.check(t)
	}
	for name, test := range ambiguous {
		if got := s.put("a", "v1", test.mediaType, test.content); got.status != 400 {
			t.Errorf("%s: got %d %s, want 400", name, got.status, got.body)
		}
		w.check(t)
	}
	s.want(404, s.do("GET", "/v2/a/manifests/v1", ""), "the tag")
}

// A reference that is neither a tag nor a digest gets to no watcher, and writes nothing.
func TestPushNames(t *testing.T) {
	t.Parallel()
	s, w := watch(t)
	image := s.image("a", "{}")
	for _, path := range []string{
		"/v2/a/manifests/..", "/v2/a/manifests/%2e%2e", "/v2/a/manifests/..%2f..%2fx", "/v2/a/manifests/.hidden", "/v2/a/manifests/" + strings.Repeat("v", 129),
		"/v2/a/../b/manifests/v1", "/v2/a/%2e%2e/b/manifests/v1", "/v2/A/manifests/v1", "/v2/localhost:5000/a/manifests/v1", "/v2/Example.com/a/manifests/v1",
		"/v2/_manifests/manifests/v1", "/v2//manifests/v1", "/v2/a/manifests/sha256:abc", "/v2/a/manifests/v1%00", "/v2/a:v2/manifests/v1",
	} {
		if got := s.do("PUT", path, image, "Content-Type", ociImage); got.status < 300 || got.status >= 500 {
			t.Errorf("PUT %s: got %d %s, want a refusal", path, got.status, got.body)
		}
		w.check(t)
	}
	if got := s.do("GET", "/v2/_catalog", ""); got.body != "{\"repositories\":[]}\n" && got.body != "{\"repositories\":[\"a\"]}\n" {
		t.Errorf("repositories: %s", got.body)
	}
}

// A refusing registry answers pushes of a tag "pushed-CODE" or "tagged-CODE" with that code
// as long as it is told to.
func refusing(t *testing.T) (s *served, relent func()) {
	var relented sync.Map
	refuse := func(name string) Watcher {
		return func(_ context.Context, p Push) error {
			hook, code, _ := strings.Cut(p.Tag, "-")
			if _, ok := relented.Load(name); ok || hook != name {
				return nil
			}
			return fmt.Errorf("%s: the cause is /secret/path: %w", code, errCause)
		}
	}
	s = serve(t, EmbeddedConfig{Pushed: refuse("pushed"), Tagged: refuse("tagged"), Refusal: func(err error) (code, message string) {
		if !errors.Is(err, errCause) {
			t.Errorf("asked to refuse %v", err)
		}
		code, _, _ = strings.Cut(err.Error(), ":")
		return code, "because of " + code
	}})
	return s, func() { relented.Store("pushed", 1); relented.Store("tagged", 1) }
}

var errCause = errors.New("the store is away")

func TestRefusal(t *testing.T) {
	t.Parallel()
	s, relent := refusing(t)
	image := s.image("a", "{}")
	statuses := map[string]int{
		api.CodeDenied: 403, api.CodeUnknown: 500, api.CodeManifestInvalid: 400, api.CodeTooManyRequests: 429, api.CodeUnavailable: 503,
		api.CodeNameInvalid: 400, api.CodeDigestInvalid: 400, api.CodeUnsupported: 405, api.CodeUnauthorized: 401,
		api.CodeSignatureLimit: 409, api.CodeSignatureExists: 409, api.CodeSignatureInvalid: 400,
	}
	for code, status := range statuses {
		for _, hook := range []string{"pushed", "tagged"} {
			tag := hook + "-" + code
			got := s.put("a", tag, ociImage, image)
			s.refused(got, status, code, "because of "+code)
			if got := got.header.Get("Retry-After"); got != map[bool]string{true: "2"}[status == 429] {
				t.Errorf("%s: Retry-After %q", tag, got)
			}
			_, err := s.Manifest(t.Context(), "a", tag)
			if hook == "pushed" && !isUnknown(err) || hook == "tagged" && err != nil {
				t.Errorf("%s: the tag: %v", tag, err)
			}
		}
	}
	s.refused(s.put("a", "pushed-NEW", ociImage, image), 500, api.CodeUnknown, "because of NEW")
	relent()
	for code := range statuses {
		s.push("a", "pushed-"+code, image)
		s.push("a", "tagged-"+code, image)
	}
}

func TestRefusedTagStays(t *testing.T) {
	t.Parallel()
	var image1 digest.Digest
	s := serve(t, EmbeddedConfig{Pushed: func(_ context.Context, p Push) error {
		if image1 != "" && p.Manifest.Digest != image1 {
			return errCause
		}
		image1 = p.Manifest.Digest
		return nil
	}})
	s.push("a", "v1", s.image("a", "one"))
	two := s.image("a", "two")
	s.refused(s.put("a", "v1", ociImage, two), 500, api.CodeUnknown, "the push could not be finished; push again")
	if got := s.tagged("a", "v1"); got != image1 {
		t.Errorf("v1 is %s, want still %s", got, image1)
	}
}

// A tag is written once: what was pushed since, and answered, stays.
func TestTagIsWrittenOnce(t *testing.T) {
	t.Parallel()
	var s *served
	var two string
	s = serve(t, EmbeddedConfig{Tagged: func(_ context.Context, p Push) error {
		if string(p.Manifest.Content) != two {
			s.push("a", "v1", two)
		}
		return nil
	}})
	one := s.image("a", "one")
	two = s.image("a", "two")
	s.push("a", "v1", one)
	if got := s.tagged("a", "v1"); got != digest.FromString(two) {
		t.Errorf("v1 is %s, want %s, which was pushed last", got, digest.FromString(two))
	}
}

// A list of more entries than can be signed is stored as others are, and refused by who signs.
func TestLargeList(t *testing.T) {
	t.Parallel()
	instances := func(_ context.Context, p Push) error {
		_, err := p.Manifest.Instances()
		return err
	}
	s := serve(t, EmbeddedConfig{Pushed: instances, Refusal: func(err error) (code, message string) {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
		return api.CodeManifestInvalid, err.Error()
	}})
	image := s.image("a", "{}")
	d := s.push("a", digest.FromString(image).String(), image)
	s.want(201, s.put("a", "most", ociList, list(slices.Repeat([]digest.Digest{d}, MaxInstances)...)), "a list of 64")
	s.refused(s.put("a", "more", ociList, list(slices.Repeat([]digest.Digest{d}, MaxInstances+1)...)),
		400, api.CodeManifestInvalid, "manifest invalid: a list of 65 entries, at most 64 can be signed")
	if _, err := s.Manifest(t.Context(), "a", "more"); !isUnknown(err) {
		t.Errorf("the refused tag: %v", err)
	}
}

// A watcher's context is the request's: it has its values, and ends when the client leaves.
func TestWatcherContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	entered, left := make(chan any, 1), make(chan error, 1)
	e, err := NewEmbedded(t.Context(), EmbeddedConfig{Directory: t.TempDir(), Pushed: func(ctx context.Context, p Push) error {
		entered <- ctx.Value(key{})
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "who")))
	}))
	t.Cleanup(func() { server.Close(); _ = e.Close() })
	s := &served{e, t, server.URL, ""}
	image := s.image("a", "{}")
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "PUT", server.URL+"/v2/a/manifests/v1", strings.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", ociImage)
	gone := make(chan error, 1)
	go func() {
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
		}
		gone <- err
	}()
	if got := <-entered; got != "who" {
		t.Errorf("the request's value: got %v, want who", got)
	}
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the client: %v", err)
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the watcher: %v", err)
	}
	if _, err := e.Manifest(t.Context(), "a", "v1"); !isUnknown(err) {
		t.Errorf("a tag that nobody waited for: %v", err)
	}
}

// Of pushes at once each is reported before and after its own tag, and one of those who
// wanted the same tag has it.
func TestConcurrentPushes(t *testing.T) {
	t.Parallel()
	const n = 8
	s, w := watch(t)
	var images []string
	for i := range n {
		images = append(images, s.image("a", fmt.Sprint(i)))
	}
	var group sync.WaitGroup
	for i, image := range images {
		group.Go(func() {
			for _, tag := range []string{"shared", fmt.Sprint("own", i), digest.FromString(image).String()} {
				if got := s.put("a", tag, ociImage, image); got.status != 201 {
					t.Errorf("push %d as %s: %d %s", i, tag, got.status, got.body)
				}
			}
		})
	}
	group.Wait()
	if len(w.pushes) != 2*3*n {
		t.Errorf("heard of %d, want %d", len(w.pushes), 2*3*n)
	}
	told := map[string]string{}
	for i, p := range w.pushes {
		hook, _, _ := strings.Cut(w.heard[i], " ")
		told[p.Tag+" "+p.Manifest.Digest.String()] += hook + " "
		if strings.Contains(w.heard[i], "not stored") || hook == "tagged" && strings.Contains(w.heard[i], "no tag") {
			t.Errorf("heard %s", w.heard[i])
		}
	}
	for push, hooks := range told {
		if hooks != "pushed tagged " {
			t.Errorf("%s: told %s", push, hooks)
		}
	}
	has := s.tagged("a", "shared")
	if !slices.ContainsFunc(images, func(image string) bool { return digest.FromString(image) == has }) {
		t.Errorf("the shared tag is %s, which nobody pushed", has)
	}
	for i, image := range images {
		if got := s.tagged("a", fmt.Sprint("own", i)); got != digest.FromString(image) {
			t.Errorf("own%d is %s, want %s", i, got, digest.FromString(image))
		}
	}
}
