package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestHost refuses a Host that is not ours on every listener: a page whose name was pointed at
// this address would otherwise be of the same origin as this server (design.md 4).
func TestHost(t *testing.T) {
	t.Parallel()
	s := start(t, "-host", "registry.example.test:5000,other.example.test")
	digest := newImage("host").digest()
	for path, address := range map[string]string{
		"/v2/": s.address, extension("ns/app", digest): s.address, "/metrics": s.debug, "/healthz": s.debug, "/readyz": s.debug,
	} {
		for _, host := range []string{
			address, "localhost", "LocalHost:1", "127.0.0.1", "127.0.0.2:99", "10.1.2.3:80", "[::1]:5000", "[::1]",
			"registry.example.test:5000", "registry.example.test", "Registry.Example.Test:80", "other.example.test:443",
		} {
			ask(t, address, "GET", path, "", "Host: "+host).want(t, 200)
		}
		for _, host := range []string{
			"evil.example.com", "evil.example.com:5000", "registry.example.test.evil.com", "evilregistry.example.test", "localhost.evil.com",
			"127.0.0.1.evil.com", "xlocalhost", "example.test", "0x7f000001", "2130706433.evil", "localhost.",
		} {
			ask(t, address, "GET", path, "", "Host: "+host).refused(t, 421, "DENIED")
		}
	}
	// Unsafe methods, too, and before anything else is looked at.
	s.do(t, "PUT", extension("ns/app", digest), "{}", "Host: evil.example.com").refused(t, 421, "DENIED")
	s.do(t, "POST", "/v2/ns/app/blobs/uploads/", "", "Host: evil.example.com").refused(t, 421, "DENIED")
	s.raw(t, "GET http://evil.example.com/v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n").refused(t, 421, "DENIED")
	s.raw(t, "GET /v2/ HTTP/1.1\r\nHost:\r\n\r\n").want(t, 421)
	s.raw(t, "GET /v2/ HTTP/1.0\r\n\r\n").want(t, 421)
}

// TestOrigin refuses what another site's page makes a browser send.
func TestOrigin(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	i := newImage("origin")
	reference := s.address + "/ns/app:v1"
	content := string(sign(t, "alice", reference, i.digest()))
	for _, blob := range i.blobs {
		s.pushBlob(t, "ns/app", blob)
	}
	requests := []struct{ method, path, body string }{
		{"POST", "/v2/ns/app/blobs/uploads/", ""},
		{"POST", "/v2/ns/app/blobs/uploads/?mount=" + i.digest() + "&from=ns/other", ""},
		{"PUT", "/v2/ns/app/manifests/v1", string(i.manifest)},
		{"DELETE", "/v2/ns/app/manifests/" + i.digest(), ""},
		{"PUT", extension("ns/app", i.digest()), "{}"},
		{"PUT", lookaside("ns/app", i.digest()) + "/signature-1", content},
		{"POST", lookaside("ns/app", i.digest()), content},
	}
	for _, r := range requests {
		for _, headers := range [][]string{
			{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Origin: https://evil.example.com"},
			{"Origin: null"}, {"Origin: http://localhost:1"}, {"Sec-Fetch-Site: cross-site", "Origin: http://" + s.address},
		} {
			s.do(t, r.method, r.path, r.body, append(headers, "Content-Type: "+manifestType)...).refused(t, 403, "DENIED")
		}
	}
	s.get(t, "/v2/ns/app/manifests/v1", "Accept: "+manifestType).want(t, 404)
	s.wantSigned(t, "ns/app", i.digest())

	// Reading is harmless: no answer lets a page see it.
	for _, path := range []string{"/v2/", extension("ns/app", i.digest())} {
		a := s.get(t, path, "Origin: https://evil.example.com", "Sec-Fetch-Site: cross-site").want(t, 200)
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s answers another origin with %s: %s", path, name, a.header.Get(name))
			}
		}
	}
	s.do(t, "OPTIONS", extension("ns/app", i.digest()), "", "Origin: https://evil.example.com", "Access-Control-Request-Method: PUT").
		within(t, 403, 405)
	// What is no browser, and our own pages, pass.
	s.do(t, "POST", lookaside("ns/app", i.digest()), content, "Origin: http://"+s.address, "Sec-Fetch-Site: same-origin").want(t, 201)
	s.do(t, "POST", lookaside("ns/app", i.digest()), content).want(t, 200)
}

// TestNothingCrosses sends paths that mean something else once they are decoded, or cleaned: none
// reaches another image, a file, or another route (protocol.md 9.5, 9.13).
func TestNothingCrosses(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	i := newImage("crossing")
	s.push(t, i, "ns/app", "v1")
	hex := strings.TrimPrefix(i.digest(), "sha256:")
	for _, path := range []string{
		"/extensions/v2/ns%2Fapp/signatures/sha256:" + hex,
		"/extensions/v2/ns%2fapp/signatures/sha256:" + hex,
		"/extensions/v2/ns/app%2Fsignatures%2Fsha256:" + hex,
		"/extensions/v2/x/%2e%2e/ns/app/signatures/sha256:" + hex,
		"/extensions/v2/x/../ns/app/signatures/sha256:" + hex,
		"/extensions/v2/./ns/app/signatures/sha256:" + hex,
		"/extensions/v2/%6es/app/signatures/sha256:" + hex,
		"/extensions/v2/ns%252Fapp/signatures/sha256:" + hex,
		"/extensions/v2/ns/app%00/signatures/sha256:" + hex,
		"/extensions/v2/ns/app%20/signatures/sha256:" + hex,
		"/extensions/v2/ns%5Capp/signatures/sha256:" + hex,
		"/extensions/v2/../../v2/ns/app/manifests/v1",
		"/sigstore/../v2/ns/app/manifests/v1",
		"/sigstore/%2e%2e/v2/ns/app/manifests/v1",
		"/sigstore/ns%2Fapp@sha256=" + hex + "/signature-1",
		"/sigstore/x/../ns/app@sha256=" + hex + "/signature-1",
		"/sigstore/ns/app@sha256=" + hex + "%2Fsignature-1",
		"/sigstore/ns/app@sha256=" + hex + "/x/../signature-1",
		"/sigstore/ns/app@sha256=" + hex + "/%73ignature-1",
		"/sigstore/..%2f..%2f..%2fetc/passwd@sha256=" + hex + "/signature-1",
		"/sigstore/../../../../etc/passwd",
		"/lookaside/" + s.address + "%2Fns/app@sha256=" + hex + "/signature-1",
		"/lookaside/../sigstore/ns/app@sha256=" + hex + "/signature-1",
		"/lookaside/../keys/server.key",
		"/lookaside/%2e%2e/%2e%2e/keys/server.key",
		"/v2/ns%2Fapp/manifests/v1",
		"/v2/ns/app%2Fmanifests%2Fv1",
		"/v2/x/../ns/app/manifests/v1",
		"/v2/x/%2e%2e/ns/app/manifests/v1",
		"/v2/%2e%2e/%2e%2e/metrics",
		"/v2/ns/app/manifests/..%2f..%2f..%2f..%2fkeys%2fserver.key",
		"/v2/ns/app/manifests/%76%31",
		"/v2/ns/app/blobs/sha256:%2e%2e%2f" + hex,
		"/v2/../extensions/v2/ns/app/signatures/sha256:" + hex,
		"//extensions/v2/ns/app/signatures/sha256:" + hex,
		"//v2/ns/app/manifests/v1",
		"/v2//ns/app/manifests/v1",
		"/v2/ns//app/manifests/v1",
		"/%76%32/ns/app/manifests/v1",
		"/extensions/v2/ns//app/signatures/sha256:" + hex,
		"/sigstore/ns//app@sha256=" + hex + "/signature-1",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE"} {
			a := s.raw(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
				method, path, manifestType, manifestType, len(i.manifest), i.manifest))
			if a.status < 300 || a.status >= 500 {
				t.Errorf("%s: status %d, want a refusal\n%s", a.asked, a.status, tail(a.body, 300))
			}
			if strings.Contains(a.body, "PRIVATE KEY") || strings.Contains(a.body, "root:") {
				t.Errorf("%s serves a file", a.asked)
			}
			if where := a.header.Get("Location"); where != "" && !strings.HasPrefix(path, "/v2/") {
				t.Errorf("%s is redirected to %s", a.asked, where)
			}
			if a.header.Get("Etag") != "" || a.header.Get("Docker-Content-Digest") != "" {
				t.Errorf("%s found something: %v", a.asked, a.header)
			}
		}
	}
	// In the registry's own tree, names and digests that are none.
	for _, path := range []string{"/v2/ns/app/manifests/..", "/v2/ns/app/manifests/.", "/v2/../manifests/v1"} {
		if a := s.raw(t, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); a.status < 300 || a.status >= 500 {
			t.Errorf("%s: status %d, want a refusal", a.asked, a.status)
		}
	}
	s.wantSigned(t, "ns/app", i.digest(), "server "+s.address+"/ns/app:v1")
}

// TestEscapesOfTheRegistry: what the registry is asked for in escapes is refused as 400, and
// never forwarded (design.md 4).
func TestEscapesOfTheRegistry(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{
		"/v2/ns%2Fapp/manifests/v1", "/v2/ns/app/manifests/%76%31", "/v2/x/%2e%2e/ns/app/tags/list", "/v2/x/../ns/app/tags/list",
		"/v2/ns%5Capp/tags/list", "/v2/%2e/ns/tags/list", "/extensions/v2/ns%2Fapp/signatures/" + newImage("").digest(),
	} {
		s.raw(t, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n").refused(t, 400, "NAME_INVALID")
	}
	// A digest's colon may be escaped, as some clients do.
	i := newImage("escaped colon")
	s.push(t, i, "ns/app", "v1")
	escaped := strings.Replace(i.digest(), ":", "%3A", 1)
	s.get(t, "/v2/ns/app/manifests/"+escaped, "Accept: "+manifestType).want(t, 200)
	s.get(t, "/v2/ns/app/blobs/"+strings.Replace(digestOf(i.blobs[0]), ":", "%3A", 1)).want(t, 200)
}

// TestProfiling: profiles show memory, with keys in it. They are never on the main listener, and
// on the second only where -pprof asks for them.
func TestProfiling(t *testing.T) {
	t.Parallel()
	off, on := start(t), start(t, "-pprof")
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/profile?seconds=1", "/debug/vars"} {
		ask(t, off.debug, "GET", path, "").refused(t, 404, "NAME_INVALID")
		off.get(t, path).refused(t, 404, "NAME_INVALID")
		on.get(t, path).refused(t, 404, "NAME_INVALID")
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		off.get(t, path).refused(t, 404, "NAME_INVALID")
	}
	for _, path := range []string{"/v2/", "/sigstore/"} {
		ask(t, off.debug, "GET", path, "").refused(t, 404, "NAME_INVALID")
	}
	if a := ask(t, on.debug, "GET", "/debug/pprof/goroutine?debug=1", "").want(t, 200); !strings.Contains(a.body, "goroutine profile") {
		t.Errorf("%s is no profile: %s", a.asked, tail(a.body, 200))
	}
	ask(t, on.debug, "GET", "/debug/pprof/", "", "Host: evil.example.com").refused(t, 421, "DENIED")
}
