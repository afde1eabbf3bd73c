package e2e

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// odd serves a registry that is none of those that there are.
func odd(t testing.TB, handler http.HandlerFunc) (url string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// TestBesideStreams passes bytes on as they come, in both directions: neither side sends the rest
// before the other has the beginning.
func TestBesideStreams(t *testing.T) {
	t.Parallel()
	received, goOn := make(chan string, 1), make(chan bool)
	s := start(t, "-registry", odd(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PATCH" {
			first := make([]byte, 5)
			_, err := io.ReadFull(r.Body, first)
			received <- fmt.Sprint(string(first), err)
			rest, _ := io.ReadAll(r.Body) // what it is shows below
			w.Header().Set("Location", "/v2/a/blobs/uploads/u")
			w.Header().Set("Got", string(rest))
			w.WriteHeader(202)
			return
		}
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "first") // the client is gone if that fails
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = io.WriteString(w, " last")
	}))
	res, err := client.Get("http://" + s.address + "/v2/a/blobs/sha256:x")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
		t.Fatalf("got %q, %v before the registry went on", first, err)
	}
	close(goOn)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != " last" {
		t.Errorf("got %q, %v", rest, err)
	}

	body, send := io.Pipe()
	answers := make(chan *http.Response, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), "PATCH", "http://"+s.address+"/v2/a/blobs/uploads/u", body)
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
		}
		answers <- res
	}()
	_, _ = io.WriteString(send, "first")
	if got := <-received; got != "first<nil>" {
		t.Errorf("the registry got %s before the client went on", got)
	}
	_, _ = io.WriteString(send, " last")
	_ = send.Close()
	if res := <-answers; res != nil {
		_ = res.Body.Close()
		if res.StatusCode != 202 || res.Header.Get("Got") != "last" || res.Header.Get("Location") != "/v2/a/blobs/uploads/u" {
			t.Errorf("got %d, %v", res.StatusCode, res.Header)
		}
	}
}

// TestBesideHeader advertises exactly 1 on the ping, whatever the registry sends.
func TestBesideHeader(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	s := start(t, "-registry", odd(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Registry-Supports-Signatures"] = []string{"0", "true"}
		w.Header()["x-registry-supports-signatures"] = []string{"2"}
		w.Header().Set("Www-Authenticate", `Bearer realm="https://auth.example/token",service="s"`)
		w.WriteHeader(int(status.Load()))
	}))
	for _, code := range []int{200, 401} {
		status.Store(int64(code))
		for _, path := range []string{"/v2/", "/v2"} {
			s.get(t, path).says(t, "X-Registry-Supports-Signatures", "1").says(t, "Www-Authenticate", `Bearer realm="https://auth.example/token",service="s"`).want(t, code)
		}
		if a := s.get(t, "/v2/a/tags/list"); a.header.Get("X-Registry-Supports-Signatures") != "" {
			t.Errorf("%s advertises, too", a.asked)
		}
	}
	off := start(t, "-registry", odd(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Registry-Supports-Signatures", "1") }), "-config", config(t, "advertise: false\n"))
	if a := off.get(t, "/v2/"); a.header.Get("X-Registry-Supports-Signatures") != "" {
		t.Error("with advertise: false it advertises what the registry does")
	}
}

// TestBesideTricks sends paths that could mean another repository to whoever reads them next. The
// registry hears of none, neither as a request nor as a question whether somebody may.
func TestBesideTricks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	s := start(t, "-registry", odd(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.RequestURI)
	}))
	digest := newImage("tricks").digest()
	sha := strings.Replace(digest, ":", "=", 1)
	for _, path := range []string{
		"/v2/mine/../theirs/manifests/v1", "/v2/mine/%2e%2e/theirs/manifests/v1", "/v2/mine%2f..%2ftheirs/manifests/v1", "/v2/mine/..%2ftheirs/manifests/v1", "/v2/mine//../theirs/manifests/v1",
		"/v2/mine/manifests/..%2f..%2ftheirs%2fmanifests%2fv1", "/v2/mine/..;/theirs/manifests/v1%3f", "/v2/mine%5c..%5ctheirs/manifests/v1", "/v2/./theirs/manifests/v1", "/v2//theirs/manifests/v1", "//v2/theirs/manifests/v1",
		"/extensions/v2/mine/../theirs/signatures/" + digest, "/extensions/v2/mine%2f..%2ftheirs/signatures/" + digest, "/extensions/v2/mine/%2e%2e/theirs/signatures/" + digest, "/extensions/v2//theirs/signatures/" + digest,
		"/extensions/v2/mine/signatures/../../theirs/signatures/" + digest, "/extensions/v2/mine/manifests/v1%3f/signatures/" + digest, "/extensions/v2/mine%23/signatures/" + digest, "/extensions/v2/Mine/signatures/" + digest,
		"/sigstore/mine/../theirs@" + sha + "/signature-1", "/sigstore/mine%2f..%2ftheirs@" + sha + "/signature-1", "/sigstore/mine/%2e%2e/theirs@" + sha + "/signature-1",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			a := s.raw(t, method+" "+path+" HTTP/1.1\r\nHost: "+s.address+"\r\nAuthorization: Bearer mine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			if a.status < 400 || a.status >= 500 {
				t.Errorf("%s %s: got %d, want it refused", method, path, a.status)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) > 0 {
		t.Errorf("the registry was asked for %q", asked)
	}
}

// TestBesideLies stands beside a registry that does what it should not. Each costs a bounded time,
// and when all is over the server is as large as it was.
func TestBesideLies(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	i := newImage("lies")
	stop := make(chan bool)
	s := trusting(t, "-registry", odd(t, func(w http.ResponseWriter, r *http.Request) { lie(w, r, i, stop) }))
	t.Cleanup(func() { close(stop) })
	s.get(t, "/v2/") // what a first connection opens stays
	before, _ := s.scrape(t)
	rounds := 10
	if soak() {
		rounds = 100
	}
	var all sync.WaitGroup
	hurried := &http.Client{Transport: client.Transport, Timeout: 500 * time.Millisecond, CheckRedirect: client.CheckRedirect}
	for round := range rounds {
		for _, repository := range []string{"digest", "endless", "stall", "cut", "informs", "redirects", "garbage", "hangs"} {
			for _, request := range []string{
				"GET /v2/%s/manifests/v1", "PUT /v2/%s/manifests/v1", "GET /v2/%s/blobs/" + i.digest(), "GET /extensions/v2/%s/signatures/" + i.digest(), "PUT /extensions/v2/%s/signatures/" + i.digest(),
			} {
				all.Go(func() {
					method, path, _ := strings.Cut(fmt.Sprintf(request, repository), " ")
					req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address+path, strings.NewReader(string(i.manifest)))
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("Content-Type", i.mediaType)
					req.Header.Set("Authorization", fmt.Sprintf("Bearer %d", round)) // a question of its own
					if res, err := hurried.Do(req); err == nil {
						_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
						_ = res.Body.Close()
					}
				})
			}
		}
		all.Wait()
	}
	// What is pushed goes on without its client, until the registry has said nothing for a minute.
	eventuallyWithin(t, time.Minute+patience, "the server is as large as it was", func() bool {
		after, _ := s.scrape(t)
		return after["go_goroutines"] < before["go_goroutines"]+20 && after["go_memstats_heap_inuse_bytes"] < before["go_memstats_heap_inuse_bytes"]+64<<20
	})
	after, _ := s.scrape(t)
	if made, admitted := after.sum("countersign_signatures_made_total"), after.sum("countersign_uploads_total", `outcome="admitted"`); made+admitted > 0 {
		t.Errorf("%v signatures were made and %v admitted, of what nobody stored", made, admitted)
	}
}

// lie is a registry whose repositories are named for what they do.
func lie(w http.ResponseWriter, r *http.Request, i image, stop chan bool) {
	_, _ = io.Copy(io.Discard, r.Body)
	kind := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")[0]
	h := w.Header()
	h.Set("Content-Type", i.mediaType)
	switch kind {
	case "digest": // 201, and for another manifest
		h.Set("Docker-Content-Digest", digestOf([]byte("another")))
		w.WriteHeader(201)
	case "endless":
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	case "stall": // a header, and nothing behind it
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		wait(r, stop)
	case "hangs":
		wait(r, stop)
	case "cut":
		h.Set("Content-Length", "1000")
		_, _ = w.Write(i.manifest[:10])
	case "redirects":
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	case "informs":
		for range 1000 {
			h.Set("Link", "</x>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
		}
		wait(r, stop)
	case "garbage":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("HTTP/1.1 201 Created\r\nDocker-Content-Digest: " + i.digest() + "\r\nDocker-Content-Digest: x\r\nContent-Length: -5\r\n\r\n\x00\x00"))
			_ = conn.Close()
		}
	}
}

func wait(r *http.Request, stop chan bool) {
	select {
	case <-r.Context().Done():
	case <-stop:
	}
}

// TestBesideOwnAccess lets our own settings say who may sign, withdraw and administrate, and the
// registry who may pull and push. Each sees only the credentials that are for it.
func TestBesideOwnAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	made, err := command(t.Context(), "token", "-file", tokens, "-days", "1", "signer").Output()
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(made))
	i := newImage("own access")
	var leaked atomic.Bool
	registry := odd(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if strings.Contains(r.Header.Get("Authorization")+password, token) {
			leaked.Store(true)
		}
		if user != "alice" && user != "server" {
			w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(401)
			return
		}
		w.Header().Set("Content-Type", i.mediaType)
		_, _ = w.Write(i.manifest) // the client is gone if that fails
	})
	auth := filepath.Join(dir, "auth.json")
	writeSecret(t, auth, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, strings.TrimPrefix(registry, "http://"), strings.TrimPrefix(basic("server", "secret"), "Basic ")))
	s := start(t, "-config", config(t, fmt.Sprintf("registry: {url: '%s', authFile: %s}\naccess:\n  tokens: %s\n  grants:\n"+
		"  - {who: ['token:signer'], repositories: ['**'], actions: [pull, push, sign, withdraw, admin]}\nsigning: {rules: [{scope: '', on: [request]}]}\n", registry, auth, tokens)))
	signer, alice := s.as("Bearer "+token), s.as(basic("alice", "secret"))
	signer.get(t, "/api/v1/audit").want(t, 200)
	alice.get(t, "/api/v1/audit").refused(t, 401, "UNAUTHORIZED")
	alice.get(t, extension("ns/app", i.digest())).want(t, 200)
	for _, who := range []*server{signer, s.as(basic("x", token)), s} {
		who.get(t, extension("ns/app", i.digest())).says(t, "Www-Authenticate", `Basic realm="registry"`).refused(t, 401, "UNAUTHORIZED")
		who.do(t, "PUT", extension("ns/app", i.digest()), "{}").refused(t, 401, "UNAUTHORIZED")
	}
	signer.do(t, "POST", "/api/v1/sign", fmt.Sprintf(`{"reference":%q}`, s.address+"/ns/app:v1")).want(t, 201)
	alice.wantSigned(t, "ns/app", i.digest(), "server "+s.address+"/ns/app:v1")
	if leaked.Load() {
		t.Error("the registry was sent a token of ours")
	}
}

// TestBesideTLS reaches a registry by a certificate of a private authority, and none by another's.
func TestBesideTLS(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	a, dir := newAuthority(t), t.TempDir()
	certificate, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	a.issue(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 42)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, SerialNumber: a.certificate.SerialNumber}, certificate, key)
	registry := distribution(t, fmt.Sprintf("http: {addr: 'ADDRESS', tls: {certificate: %s, key: %s}}\n", certificate, key))
	s := start(t, "-config", config(t, fmt.Sprintf("registry: {url: 'https://%s', ca: %s}\n", registry, filepath.Join(a.dir, "ca.crt"))))
	i, reference := newImage("over TLS"), s.address+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	s.wantSigned(t, "ns/app", i.digest(), "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))

	stranger := start(t, "-registry", "https://"+registry)
	stranger.get(t, "/v2/").refused(t, 503, "UNAVAILABLE", "the registry is away")
	stranger.get(t, extension("ns/app", i.digest())).refused(t, 429, "TOOMANYREQUESTS") // clients try again
	stranger.tells(t, "certificate")
	for yaml, says := range map[string]string{
		"registry: {url: 'http://127.0.0.1:1', embedded: x}":                                            "two registries",
		"registry: {url: 'http://user:secret@127.0.0.1:1'}":                                             "authFile",
		"registry: {url: 'ftp://127.0.0.1:1'}":                                                          "http://",
		"registry: {ca: x}":                                                                             "there is none",
		"registry: {url: 'http://127.0.0.1:1', ca: /nowhere/ca.crt}":                                    "/nowhere/ca.crt",
		"registry: {url: 'http://127.0.0.1:1', authFile: /nowhere/auth.json}":                           "/nowhere/auth.json",
		"registry: {url: 'http://127.0.0.1:1', realms: ['http://x']}":                                   "host[:port]",
		"registry: {url: 'http://127.0.0.1:1', notifications: " + config(t, "readable by others") + "}": "chmod 600",
	} {
		out := refusal(t, "serve", "-data", t.TempDir(), "-config", config(t, yaml+"\n"))
		if !strings.Contains(out, says) || strings.Contains(out, "secret@") {
			t.Errorf("%s: got %q, want %q in it", yaml, out, says)
		}
	}
}

// TestBesideTokenExpires lets a token run out in the middle of a copy, after the manifest and before
// the signature: the client is told, and succeeds when it tries again.
func TestBesideTokenExpires(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	k := newTokenServer(t)
	behind, err := url.Parse("http://" + k.registry(t))
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool // time has passed
	expired := k.issue(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{k.chain}}, k.claims("alice", -2*time.Minute,
		[]map[string]any{{"type": "repository", "name": "ns/app", "actions": []string{"pull", "push"}}}))
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(behind)
			if over.Load() && strings.HasPrefix(p.In.Header.Get("Authorization"), "Bearer ") {
				p.Out.Header.Set("Authorization", "Bearer "+expired)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method == "PUT" && strings.Contains(r.Request.URL.Path, "/manifests/") {
				over.Store(true)
			}
			return nil
		},
	}
	s := trusting(t, "-registry", odd(t, proxy.ServeHTTP))
	i, reference := newImage("expires"), s.address+"/ns/app:v1"
	copying := func() (string, error) {
		return newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret", "--sign-by", fingerprintOf(t, "alice"))
	}
	fails(t, "unauthorized")(copying())
	over.Store(false)
	if got := s.as("Bearer "+k.token("alice", time.Minute, "repository:ns/app:pull")).signed(t, "ns/app", i.digest()); len(got) != 1 {
		t.Errorf("signed %v, want the server's alone", got)
	}
	proxy.ModifyResponse = nil
	works(t)(copying())
	s.as("Bearer "+k.token("alice", 2*time.Minute, "repository:ns/app:pull")).wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference)
}
