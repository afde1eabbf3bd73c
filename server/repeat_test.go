package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/repeat"
)

const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// Whatever is asked for often is answered the same where net/http has read the request and where it
// repeats one, whoever asks, also what is refused.
func TestRepeatedAnswers(t *testing.T) {
	t.Parallel()
	all := []caller{
		{name: "anonymous", grants: map[string][]access.Action{host + "/public/": {access.Pull}}},
		{name: "reader", known: true, grants: map[string][]access.Action{host + "/": {access.Pull}}},
	}
	settings := settingsOf(t, all)
	settings.Grants = append(settings.Grants, access.Grant{Who: []string{access.Anonymous}, Repositories: []string{host + "/public/**"}, Actions: []access.Action{access.Pull}})
	own, err := access.Open(settings, access.Options{Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	srv, s := serverWith(t, func(c *server.Config) {
		c.Access, c.Own, c.Release = own, own, []string{"public/release"}
		index := httptest.NewRequest(http.MethodPut, "http://"+host+"/v2/public/few/manifests/v1", strings.NewReader(emptyIndex))
		index.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		w := httptest.NewRecorder()
		if c.Registry.ServeHTTP(w, index); w.Code != http.StatusCreated {
			t.Fatalf("a push is answered %d %s", w.Code, w.Body)
		}
	})
	paths := []string{
		api.SigstorePrefix, api.SigstorePrefix + "a", api.SigstorePrefix + "/public/few@sha256=1/signature-1", api.SigstorePrefix + "../v2/", api.ExtensionPrefix + "public/few",
		api.LookasidePrefix + "else.example.com/team/app@sha256=" + strings.TrimPrefix(digest, "sha256:") + "/signature-1",
		"/v2/public/few/manifests/v1", "/v2/public/few/manifests/v2", "/v2/team/private/manifests/v1", "/v2/public/few/manifests/" + digest, "/v2//manifests/v1",
		api.SigstorePrefix + "sha256=" + strings.TrimPrefix(digest, "sha256:") + "/signature-1",
	}
	for repository, signatures := range map[string]int{"public/none": 0, "public/few": 3, "public/many": 30, "public/release": 1, "team/private": 1} {
		image := api.Image{Host: host, Repository: repository, Digest: digest}
		if signatures > 0 {
			fill(t, s, repository, signatures)
		}
		paths = append(paths, api.ExtensionPath(image), api.SigstorePrefix+api.LookasidePath(image))
		for _, n := range []int{0, 1, 3, 4, 10_000} {
			paths = append(paths, fmt.Sprintf("%s%s/signature-%d", api.SigstorePrefix, api.LookasidePath(image), n))
		}
	}
	for name, headers := range map[string]string{
		"anonymous":       "Host: " + host + "\r\n",
		"a reader":        "Host: " + host + "\r\nAuthorization: Bearer " + all[1].token + "\r\n",
		"who has it":      "Host: " + host + "\r\nIf-None-Match: *\r\n",
		"to another host": "Host: else.example.com\r\n",
		"a web page":      "Host: " + host + "\r\nOrigin: https://else.example.com\r\nSec-Fetch-Site: cross-site\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tellTwice(t, srv.Handler(), headers, paths)
		})
	}
	t.Run("a stranger", func(t *testing.T) { // whom only so many logins are refused
		t.Parallel()
		private := api.Image{Host: host, Repository: "team/private", Digest: digest}
		tellTwice(t, srv.Handler(), "Host: "+host+"\r\nAuthorization: Bearer cst_none\r\n", []string{api.ExtensionPath(private)})
	})
}

// What a registry beside this server is not to see it does not see either where a request repeats another,
// and what it is to see it does.
func TestRepeatedCredentials(t *testing.T) {
	t.Parallel()
	token, line, err := access.NewToken("ci", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	n := &neighbour{}
	address := repeating(t, besides(t, n, line+"\n"), nil)
	for authorization, seen := range map[string]int{"Bearer " + token: 0, "Basic Y2k6c2VjcmV0": 1} {
		c := dial(t, address)
		for time := range 4 {
			tell(t, c, fmt.Sprintf("GET /v2/team/app/manifests/v%d HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", time, host, authorization))
			if sent := n.take(); len(sent) != seen || seen > 0 && sent[0] != authorization {
				t.Errorf("%.12q, time %d: the registry has seen %.12q", authorization, time+1, sent)
			}
		}
	}
}

// What a registry beside this server sends without a Content-Type, in one piece or in many, has none for whoever
// asks, the first time or again.
func TestRepeatedWithoutType(t *testing.T) {
	t.Parallel()
	n := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := emptyIndex
		if strings.HasSuffix(r.URL.Path, "/long") {
			body += strings.Repeat(" ", 100<<10)
		}
		w.Header()["Content-Type"] = nil
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		fmt.Fprint(w, body)
	})
	handler := beside(t, n, func(*server.Config) {}).Handler()
	tellTwice(t, handler, "Host: "+host+"\r\n", []string{"/v2/team/app/manifests/short", "/v2/team/app/manifests/long"})
}

// tellTwice asks for each path on a connection of its own, which net/http reads, and then for all of them
// on one, of which it reads the first request.
func tellTwice(t *testing.T, handler http.Handler, headers string, paths []string) {
	t.Helper()
	var read atomic.Int32
	address := repeating(t, handler, func(_ net.Conn, s http.ConnState) {
		if s == http.StateActive {
			read.Add(1)
		}
	})
	request := func(path string) string { return "GET " + path + " HTTP/1.1\r\n" + headers + "\r\n" }
	want := make([]*http.Response, len(paths))
	for i, path := range paths {
		want[i] = tell(t, dial(t, address), request(path))
	}
	c := dial(t, address)
	tell(t, c, request("/sigstore/first"))
	read.Store(0)
	statuses := map[int]int{}
	for i, path := range paths {
		got := tell(t, c, request(path))
		statuses[got.StatusCode]++
		for _, res := range []*http.Response{got, want[i]} {
			res.Header.Del("Date")
		}
		if !reflect.DeepEqual(got, want[i]) {
			t.Errorf("GET %s, repeated: %v\nwant %v", path, got, want[i])
		}
	}
	if n := read.Load(); n != 0 {
		t.Errorf("net/http has read %d of %d repeated requests", n, len(paths))
	}
	t.Logf("answered by status: %v", statuses)
}

// repeating serves a handler behind a listener that looks for repeated requests.
func repeating(t *testing.T, handler http.Handler, observe func(net.Conn, http.ConnState)) (address string) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	l := repeat.New(s.Listener, server.Often)
	s.Listener = l
	l.Attach(s.Config)
	s.Config.ConnState = observe
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

type connection struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, address string) *connection {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &connection{c, bufio.NewReader(c)}
}

// tell returns the answer to a GET, with its body in memory.
func tell(t *testing.T, c *connection, request string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res
}
