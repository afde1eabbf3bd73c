package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// A registryStub answers as its handler does, and counts what it is asked.
type registryStub struct {
	*Registry
	now   atomic.Int64
	asked atomic.Int64
}

func besides(t *testing.T, handler http.HandlerFunc) *registryStub {
	t.Helper()
	s := &registryStub{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s.Registry, err = NewRegistry(RegistryConfig{
		URL: u, Transport: transport, Metrics: prometheus.NewRegistry(),
		Clock: func() time.Time { return time.Unix(s.now.Load(), 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func basicAs(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

var aDigest = digest.FromString("a manifest")

func errorsBody(code string) string { return `{"errors":[{"code":"` + code + `","message":"no"}]}` }

// What each answer of a registry means.
func TestRegistryAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		action Action
		status int
		body   string
		want   error // nil: yes
	}{
		"pull, there":                      {Pull, 200, "", nil},
		"pull, unknown":                    {Pull, 404, errorsBody("MANIFEST_UNKNOWN"), nil},
		"pull, unknown, second code":       {Pull, 404, `{"errors":[{"code":"X"},{"code":"MANIFEST_UNKNOWN"}]}`, nil},
		"pull, unknown under 403":          {Pull, 403, errorsBody("MANIFEST_UNKNOWN"), ErrForbidden},
		"pull, no repository":              {Pull, 404, errorsBody("NAME_UNKNOWN"), ErrForbidden},
		"pull, no page":                    {Pull, 404, "<html>", ErrForbidden},
		"pull, bad credentials":            {Pull, 401, errorsBody("UNAUTHORIZED"), ErrUnauthorized},
		"pull, denied":                     {Pull, 403, errorsBody("DENIED"), ErrForbidden},
		"pull, empty 200s":                 {Pull, 204, "", ErrUnavailable},
		"pull, redirected":                 {Pull, 302, "", ErrUnavailable},
		"pull, busy":                       {Pull, 429, errorsBody("TOOMANYREQUESTS"), ErrUnavailable},
		"pull, broken":                     {Pull, 500, errorsBody("MANIFEST_UNKNOWN"), ErrUnavailable},
		"pull, endless":                    {Pull, 404, strings.Repeat(" ", 1<<20) + errorsBody("MANIFEST_UNKNOWN"), ErrForbidden},
		"push, no such upload":             {Push, 404, errorsBody("BLOB_UPLOAD_UNKNOWN"), nil},
		"push, upload without state":       {Push, 400, errorsBody("BLOB_UPLOAD_INVALID"), nil},
		"push, unknown under 401":          {Push, 401, errorsBody("UNAUTHORIZED"), ErrUnauthorized},
		"push, another 404":                {Push, 404, errorsBody("NAME_UNKNOWN"), ErrForbidden},
		"push, a manifest's 404":           {Push, 404, errorsBody("MANIFEST_UNKNOWN"), ErrForbidden},
		"push, 404 without code":           {Push, 404, "", ErrForbidden},
		"push, read only":                  {Push, 405, errorsBody("UNSUPPORTED"), ErrForbidden},
		"push, denied":                     {Push, 403, errorsBody("DENIED"), ErrForbidden},
		"push, taken":                      {Push, 202, "", ErrUnavailable},
		"push, there":                      {Push, 200, errorsBody("BLOB_UPLOAD_UNKNOWN"), ErrUnavailable},
		"push, redirected":                 {Push, 307, "", ErrUnavailable},
		"push, broken":                     {Push, 503, errorsBody("BLOB_UPLOAD_UNKNOWN"), ErrUnavailable},
		"push, busy":                       {Push, 429, errorsBody("BLOB_UPLOAD_X"), ErrUnavailable},
		"ping":                             {"ping", 200, "{}", nil},
		"ping, bad credentials":            {"ping", 401, "", ErrUnauthorized},
		"ping, unknown":                    {"ping", 404, errorsBody("MANIFEST_UNKNOWN"), ErrForbidden},
		"sign, which registries know not":  {Sign, 200, "", ErrForbidden},
		"withdraw, as little":              {Withdraw, 200, "", ErrForbidden},
		"admin, as little":                 {Admin, 200, "", ErrForbidden},
		"push to everything, which is odd": {"push everywhere", 404, errorsBody("BLOB_UPLOAD_UNKNOWN"), ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := besides(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Www-Authenticate"] = []string{`Bearer realm="https://auth.example/token",service="s",scope="x"`, `Basic realm="r"`}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			a, scope := test.action, Scope{Host: "h", Repository: "a/b", Digest: aDigest}
			switch a {
			case "ping":
				a, scope = Pull, Scope{Host: "h"}
			case "push everywhere":
				a, scope = Push, Scope{Host: "h"}
			}
			_, err := s.Decide(t.Context(), Credentials{Authorization: "Bearer opaque"}, a, scope)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if c, ok := errors.AsType[*Challenge](err); ok != (test.want == ErrUnauthorized) ||
				ok && (len(c.Header) != 2 || c.Header[1] != `Basic realm="r"` || !strings.HasSuffix(c.Header[0], `scope="x"`)) {
				t.Errorf("the challenge is %+v, want the registry's own", c)
			}
		})
	}
}

// What is asked: as the caller, for what the registry may have, and in a way that leaves nothing.
func TestRegistryQuestions(t *testing.T) {
	t.Parallel()
	asked := make(chan *http.Request, 10)
	s := besides(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.WriteHeader(404)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"},{"code":"BLOB_UPLOAD_UNKNOWN"}]}`)
	})
	c := Credentials{Authorization: "Bearer x", Address: "192.0.2.7:4711"}
	decide(t, s, c, Pull, Scope{Host: "h", Repository: "a/b", Digest: aDigest})
	r := <-asked
	if r.Method != "GET" || r.URL.Path != "/v2/a/b/manifests/"+aDigest.String() || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("X-Forwarded-For") != "192.0.2.7" {
		t.Errorf("pull: asked %s %s %v", r.Method, r.URL, r.Header)
	}
	for _, mediaType := range []string{"oci.image.manifest.v1+json", "oci.image.index.v1+json", "docker.distribution.manifest.v2+json", "docker.distribution.manifest.list.v2+json", "manifest.v1+prettyjws"} {
		if !strings.Contains(r.Header.Get("Accept"), mediaType) {
			t.Errorf("pull: Accept %q lacks %s", r.Header.Get("Accept"), mediaType)
		}
	}
	var paths []string
	for range 2 {
		decide(t, s, c, Push, Scope{Host: "h", Repository: "a/b"})
		r = <-asked
		id, ok := strings.CutPrefix(r.URL.Path, "/v2/a/b/blobs/uploads/")
		if r.Method != "PATCH" || !ok || len(id) != 36 || r.ContentLength != 0 || r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("push: asked %s %s %v, length %d", r.Method, r.URL, r.Header, r.ContentLength)
		}
		if r = <-asked; r.Method != "PATCH" || r.Header.Get("Authorization") != "" {
			t.Errorf("whether everybody may: asked %s with %q", r.Method, r.Header.Get("Authorization"))
		}
		paths = append(paths, id)
		s.now.Add(31)
	}
	if paths[0] == paths[1] {
		t.Error("the same upload was asked for twice; it could be one that exists")
	}
}

func decide(t *testing.T, s *registryStub, c Credentials, a Action, scope Scope) string {
	t.Helper()
	subject, err := s.Decide(t.Context(), c, a, scope)
	if err != nil {
		t.Fatalf("%s %s: %v", a, scope.Repository, err)
	}
	return subject
}

// Somebody who makes the registry wait, with as many credentials as they like, leaves others room.
func TestRegistryHasRoomForOthers(t *testing.T) {
	t.Parallel()
	waiting, stop := make(chan struct{}, 2*maxProbes), make(chan struct{})
	s := besides(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer evil") {
			waiting <- struct{}{}
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}
	})
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for n := range 2 * maxProbes {
		all.Go(func() {
			c := Credentials{Authorization: fmt.Sprint("Bearer evil", n), Address: fmt.Sprintf("[2001:db8::%x]:%d", n, 1024+n)} // one network
			if _, err := s.Decide(ctx, c, Pull, Scope{Host: "h", Repository: "a"}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("evil %d: %v", n, err)
			}
		})
	}
	for range maxProbes / 2 {
		<-waiting
	}
	if subject := decide(t, s, Credentials{Authorization: "Bearer good", Address: "198.51.100.1:1"}, Pull, Scope{Host: "h", Repository: "a"}); subject != Vouched {
		t.Errorf("subject %q, want %q", subject, Vouched)
	}
	if n := len(waiting); n > 0 {
		t.Errorf("%d more than half of the questions were one network's", n)
	}
	leave()
	all.Wait()
	close(stop)
}

// No name of a repository leads out of it.
func TestRegistryPaths(t *testing.T) {
	t.Parallel()
	s := besides(t, func(w http.ResponseWriter, r *http.Request) {})
	for _, repository := range []string{"../b", "a/../b", "a//b", "/a", "a/", "a?b", "a#b", "a%2fb", "A", "a:v1", "h:5000/a", "a/manifests/v1?", " ", "a\nb"} {
		for _, action := range []Action{Pull, Push} {
			if _, err := s.Decide(t.Context(), Credentials{}, action, Scope{Host: "h", Repository: repository}); !errors.Is(err, ErrForbidden) {
				t.Errorf("%s %q: got %v, want ErrForbidden", action, repository, err)
			}
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// A verdict is kept half a minute, for these credentials, this action and this repository alone; an
// outage never.
func TestRegistryRemembers(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	s := besides(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(int(status.Load())) })
	pull := func(authorization, repository string) error {
		_, err := s.Decide(t.Context(), Credentials{Authorization: authorization}, Pull, Scope{Host: "h", Repository: repository})
		return err
	}
	for _, step := range []struct {
		name, authorization, repository string
		status, after                   int64
		want                            error
		asked                           int64
	}{
		{"first", "Bearer x", "a", 200, 0, nil, 1},
		{"kept", "Bearer x", "a", 403, 29, nil, 0},
		{"expired", "Bearer x", "a", 403, 1, ErrForbidden, 1},
		{"a no is kept", "Bearer x", "a", 200, 29, ErrForbidden, 0},
		{"other credentials", "Bearer y", "a", 200, 0, nil, 1},
		{"none", "", "a", 401, 0, ErrUnauthorized, 1},
		{"another repository", "Bearer y", "b", 401, 0, ErrUnauthorized, 1},
		{"an outage", "Bearer z", "a", 500, 0, ErrUnavailable, 1},
		{"is over", "Bearer z", "a", 200, 0, nil, 1},
		{"no repository", "Bearer z", "c", 404, 0, ErrForbidden, 3}, // as them, as nobody, and the ping
		{"is about one manifest", "Bearer z", "c", 200, 0, nil, 1},
	} {
		status.Store(step.status)
		s.now.Add(step.after)
		before := s.asked.Load()
		err := pull(step.authorization, step.repository)
		if !errors.Is(err, step.want) || (err == nil) != (step.want == nil) || s.asked.Load()-before != step.asked {
			t.Errorf("%s: got %v and %d questions, want %v and %d", step.name, err, s.asked.Load()-before, step.want, step.asked)
		}
	}
	if s.verdicts.order.Len() > 10 || s.verdicts.max != maxVerdicts {
		t.Errorf("%d verdicts of at most %d are kept", s.verdicts.order.Len(), s.verdicts.max)
	}
}

// What registries hide behind another 404 is as for everybody.
func TestRegistryHides(t *testing.T) {
	t.Parallel()
	s := besides(t, func(w http.ResponseWriter, r *http.Request) {
		anonymous := r.Header.Get("Authorization") == ""
		switch {
		case r.URL.Path == "/v2/" && anonymous, strings.HasPrefix(r.URL.Path, "/v2/private/") && anonymous:
			w.Header().Set("Www-Authenticate", `Basic realm="r"`)
			w.WriteHeader(401)
		case strings.HasPrefix(r.URL.Path, "/v2/public/") && anonymous, r.URL.Path == "/v2/":
		default:
			w.WriteHeader(404)
			fmt.Fprint(w, errorsBody("NAME_UNKNOWN"))
		}
	})
	bob := Credentials{Authorization: basicAs("bob", "secret")}
	if subject := decide(t, s, bob, Pull, Scope{Host: "h", Repository: "public/a"}); subject != Anonymous {
		t.Errorf("what everybody may: subject %q, want %q", subject, Anonymous)
	}
	for _, repository := range []string{"private/a", "none/a"} {
		_, err := s.Decide(t.Context(), bob, Pull, Scope{Host: "h", Repository: repository})
		if c, ok := errors.AsType[*Challenge](err); !ok || !slices.Equal(c.Header, []string{`Basic realm="r"`}) {
			t.Errorf("%s: got %v, want the registry's challenge", repository, err)
		}
	}
}

// A name counts where the registry lets not everybody push; else anybody could take any.
func TestRegistrySubjects(t *testing.T) {
	t.Parallel()
	closed := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
			return
		}
		w.WriteHeader(404)
		fmt.Fprint(w, errorsBody("BLOB_UPLOAD_UNKNOWN"))
	}
	open := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		fmt.Fprint(w, errorsBody("BLOB_UPLOAD_UNKNOWN"))
	}
	jwt := func(payload string) string {
		return "Bearer e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".x"
	}
	for name, test := range map[string]struct {
		handler       http.HandlerFunc
		authorization string
		want          string
	}{
		"Basic":              {closed, basicAs("alice", "secret"), "registry:alice"},
		"a token":            {closed, jwt(`{"sub":"ci"}`), "registry:ci"},
		"a token of nobody":  {closed, jwt(`{}`), "registry:unnamed"},
		"an opaque token":    {closed, "Bearer x", "registry:unnamed"},
		"a line end":         {closed, basicAs("alice\nadmin", "secret"), "registry:unnamed"},
		"a long name":        {closed, basicAs(strings.Repeat("a", 200), "secret"), "registry:unnamed"},
		"nobody":             {open, "", Anonymous},
		"who is not checked": {open, basicAs("admin", "secret"), Anonymous},
	} {
		s := besides(t, test.handler)
		if got := decide(t, s, Credentials{Authorization: test.authorization}, Push, Scope{Host: "h", Repository: "a"}); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// However many want to know the same, the registry is asked once; and who leaves leaves the others.
func TestRegistryIsAskedOnce(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan bool, 100), make(chan bool)
	s := besides(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-answer
	})
	ask := func(ctx context.Context) error {
		_, err := s.Decide(ctx, Credentials{}, Pull, Scope{Host: "h", Repository: "a"})
		return err
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- ask(ctx) }()
	<-asked
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := ask(t.Context()); err != nil {
				t.Errorf("somebody who waited got %v", err)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, ErrUnavailable) {
		t.Errorf("who left got %v", err)
	}
	close(answer)
	all.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the registry was asked %d times, want once", n)
	}
}
