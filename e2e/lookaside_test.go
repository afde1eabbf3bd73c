package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestLookasideClients lets nodes find signatures below a URL, where the extension is not
// advertised (protocol.md 3.8).
func TestLookasideClients(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-config", config(t, "advertise: false\n"))
	i, reference := newImage("lookaside"), s.address+"/ns1/ns2/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	s.upload(t, "ns1/ns2/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	s.wantSigned(t, "ns1/ns2/app", i.digest(), "server "+reference, "alice "+reference)
	base := "http://" + s.address + "/sigstore"

	for name, url := range map[string]string{
		"skopeo":                        base,
		"skopeo, base ends with /":      base + "/", // protocol.md 1.1: the path gets two slashes
		"skopeo, base has a query":      base + "?tok=a%20b",
		"skopeo, base has a user":       strings.Replace(base, "http://", "http://user:password@", 1),
		"skopeo, base of any host":      "http://" + s.address + "/lookaside/" + s.address,
		"skopeo, base of any host with": "http://" + s.address + "/lookaside/" + s.address + "/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, key := range []string{s.serverKey(), keyOf(t, "alice")} {
				n := newNode(t).require(t, s.address, key).lookaside(t, s.address, url)
				works(t)(n.pull(t, reference))
				works(t)(n.pull(t, s.address+"/ns1/ns2/app@"+i.digest()))
			}
			n := newNode(t).require(t, s.address, keyOf(t, "bob")).lookaside(t, s.address, url)
			fails(t, "Source image rejected")(n.pull(t, reference))
		})
	}
	t.Run("podman", func(t *testing.T) {
		t.Parallel()
		n := newNode(t).require(t, s.address, s.serverKey()).lookaside(t, s.address, base)
		works(t)(n.podman(t, "pull", "--tls-verify=false", reference))
	})
	t.Run("no lookaside configured", func(t *testing.T) {
		t.Parallel()
		fails(t, "no signature exists")(newNode(t).require(t, s.address, s.serverKey()).
			lookaside(t, s.address, "file:///nonexistent").pull(t, reference))
	})
	t.Run("an image without signatures", func(t *testing.T) {
		t.Parallel()
		// 404 ends the list and is no error: the pull fails for the policy, or not at all.
		wild := start(t, "-sign-on", "none", "-config", config(t, "advertise: false\n"))
		wild.push(t, i, "ns/app", "v1")
		url := "http://" + wild.address + "/sigstore"
		works(t)(newNode(t).lookaside(t, wild.address, url).pull(t, wild.address+"/ns/app:v1"))
		fails(t, "no signature exists")(newNode(t).require(t, wild.address, wild.serverKey()).
			lookaside(t, wild.address, url).pull(t, wild.address+"/ns/app:v1"))
	})
	t.Run("a list", func(t *testing.T) {
		t.Parallel()
		index := newIndex("lookaside list", "amd64", "arm64")
		works(t)(newNode(t).copyTo(t, index.layout(t, "v1"), s.address+"/ns/list:v1", "--all"))
		n := newNode(t).require(t, s.address, s.serverKey()).lookaside(t, s.address, base)
		works(t)(n.pull(t, s.address+"/ns/list:v1", "--all"))
		works(t)(n.skopeo(t, "--override-os=linux", "--override-arch=arm64", "copy", "--src-tls-verify=false",
			"docker://"+s.address+"/ns/list:v1", "dir:"+t.TempDir()))
	})
}

// TestLookasideReads asserts what the answers of the lookaside are, where a client would fail
// on any other (protocol.md 1.3, 1.4, 9.1, 9.9).
func TestLookasideReads(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	i, reference := newImage("reads"), s.address+"/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	s.do(t, "POST", lookaside("ns/app", i.digest()), string(sign(t, "alice", reference, i.digest()))).want(t, 201)
	hit := lookaside("ns/app", i.digest()) + "/signature-1"
	content := s.signatures(t, "ns/app", i.digest())[0].Content

	t.Run("a hit", func(t *testing.T) {
		t.Parallel()
		a := s.get(t, hit).want(t, 200).says(t, "Content-Type", "application/octet-stream").
			says(t, "Cache-Control", "no-cache").says(t, "Content-Length", fmt.Sprint(len(content)))
		if a.body != string(content) {
			t.Errorf("%s has other bytes than the extension serves", hit)
		}
		if first := content[0]; first != 0xa3 && first != 0x90 && first != 0xc4 && first != 0xa0 {
			t.Errorf("the first byte is %#x; clients read it as no signature (protocol.md 1.4)", first)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		t.Parallel()
		a := s.do(t, "HEAD", hit, "").want(t, 200).says(t, "Content-Length", fmt.Sprint(len(content)))
		if a.body != "" || a.header.Get("ETag") != s.get(t, hit).header.Get("ETag") {
			t.Errorf("HEAD has body %q and ETag %q, want no body and GET's ETag", a.body, a.header.Get("ETag"))
		}
		if a := s.do(t, "HEAD", hit+"0", "").want(t, 404); a.body != "" {
			t.Errorf("HEAD of a miss has a body: %q", a.body)
		}
	})
	t.Run("ETag", func(t *testing.T) {
		t.Parallel()
		testETag(t, s, hit)
	})
	t.Run("misses", func(t *testing.T) {
		t.Parallel()
		testLookasideMisses(t, s, i)
	})
	t.Run("spellings", func(t *testing.T) {
		t.Parallel()
		testLookasideSpellings(t, s, i, string(content))
	})
	t.Run("methods", func(t *testing.T) {
		t.Parallel()
		for _, method := range []string{"DELETE", "PATCH", "OPTIONS", "POST"} {
			s.do(t, method, hit, "").refused(t, 405, "UNSUPPORTED")
		}
		s.do(t, "PUT", lookaside("ns/app", i.digest()), "").refused(t, 405, "UNSUPPORTED")
		s.do(t, "DELETE", lookaside("ns/app", i.digest()), "").refused(t, 405, "UNSUPPORTED")
	})
	t.Run("no credentials needed, none asked for", func(t *testing.T) {
		t.Parallel()
		// protocol.md 1.5: only userinfo of the base URL is ever sent, and must do no harm.
		s.get(t, hit, "Authorization: Basic dTpwdw==").want(t, 200)
		s.get(t, hit+"9", "Authorization: Basic dTpwdw==").want(t, 404)
		s.get(t, hit, "Authorization: Bearer nonsense", "User-Agent: Go-http-client/1.1").want(t, 200)
	})
}

func testETag(t *testing.T, s *server, hit string) {
	etag := s.get(t, hit).header.Get("ETag")
	if len(etag) < 10 || etag[0] != '"' || etag[len(etag)-1] != '"' {
		t.Fatalf("ETag %q is not strong", etag)
	}
	second := strings.TrimSuffix(hit, "1") + "2"
	if other := s.get(t, second).want(t, 200).header.Get("ETag"); other == etag {
		t.Errorf("two signatures have one ETag %s", etag)
	}
	for _, known := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
		a := s.get(t, hit, "If-None-Match: "+known).want(t, 304).says(t, "ETag", etag)
		if a.body != "" {
			t.Errorf("If-None-Match: %s: 304 with a body", known)
		}
		s.get(t, hit+"0", "If-None-Match: "+known).want(t, 404) // a miss is never "not modified"
	}
	s.get(t, hit, `If-None-Match: "other"`).want(t, 200)
	s.get(t, second, "If-None-Match: "+etag).want(t, 200)
}

// Every miss is a plain 404 that no cache keeps: it would hide the next upload.
func testLookasideMisses(t *testing.T, s *server, i image) {
	directory := lookaside("ns/app", i.digest())
	other := lookaside("ns/app", newImage("never").digest())
	for _, path := range []string{
		directory + "/signature-3", directory + "/signature-128", directory + "/signature-99999999999999999999",
		directory + "/signature-0", directory + "/signature-01", directory + "/signature-+1", directory + "/signature--1",
		directory + "/signature-", directory + "/signature-1.asc", directory + "/Signature-1", directory + "/signature-1/", directory + "/signature-1/x",
		other + "/signature-1", lookaside("ns/never", i.digest()) + "/signature-1",
		lookaside("app", i.digest()) + "/signature-1", lookaside("ns/app/more", i.digest()) + "/signature-1",
		directory, directory + "/", "/sigstore", "/sigstore/", "/sigstore/ns", "/sigstore/ns/", "/sigstore/ns/app", "/sigstore//",
		"/sigstore/index.html", "/sigstore/signature-1", "/sigstore/@sha256=00/signature-1",
		"/sigstore/ns/app@sha256=" + strings.ToUpper(i.digest()[7:]) + "/signature-1",
		"/sigstore/ns/app@sha256=" + i.digest()[7:70] + "/signature-1", "/sigstore/ns/app@md5=00/signature-1",
		"/sigstore/NS/app" + directory[len("/sigstore/ns/app"):] + "/signature-1",
		"/lookaside", "/lookaside/", "/lookaside/" + s.address, "/lookaside/" + s.address + "/",
		"/lookaside/registry.example.test/" + directory[len("/sigstore/"):] + "/signature-1",
		"/lookaside/ns/app" + directory[len("/sigstore/ns/app"):] + "/signature-1",
		"/", "/index.html", "/favicon.ico", "/sigstorex/" + directory[len("/sigstore/"):] + "/signature-1",
		"/ns/app" + directory[len("/sigstore/ns/app"):] + "/signature-1",
	} {
		a := s.get(t, path).want(t, 404).says(t, "Cache-Control", "no-store")
		if strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: a miss of type text/html", path)
		}
		if strings.Contains(a.body, "signature-1") && strings.Contains(a.body, "signature-2") {
			t.Errorf("%s lists signatures: %s", path, a.body)
		}
	}
}

// One signature, many ways to ask for it (protocol.md 1.1).
func testLookasideSpellings(t *testing.T, s *server, i image, content string) {
	hex := strings.TrimPrefix(i.digest(), "sha256:")
	for _, path := range []string{
		"/sigstore//ns/app@sha256=" + hex + "/signature-1",
		"/sigstore///ns/app@sha256=" + hex + "/signature-1",
		"/sigstore/ns/app%40sha256=" + hex + "/signature-1",
		"/sigstore/ns/app%40sha256%3D" + hex + "/signature-1",
		"/sigstore/ns/app%40sha256%3d" + hex + "/signature-1",
		"/sigstore//ns/app%40sha256%3d" + hex + "/signature-1?tok=a%20b&ns=docker.io",
		"/lookaside/" + s.address + "/ns/app@sha256=" + hex + "/signature-1",
		"/lookaside/" + strings.Replace(s.address, ":", "%3A", 1) + "/ns/app@sha256=" + hex + "/signature-1",
		"/lookaside/" + s.address + "//ns/app%40sha256=" + hex + "/signature-1",
	} {
		if a := s.get(t, path).want(t, 200); a.body != content {
			t.Errorf("%s has other bytes than signature-1", path)
		}
	}
}

// TestNames pushes, uploads and reads under names of every shape (protocol.md 9.5).
func TestNames(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	for n, repository := range []string{
		"app", "library/busybox", "a/b/c/d/e/f/g/h", "signatures", "signatures/signatures", "ns/signatures/app",
		"ns/signatures", "extensions/v2/ns", "v2", "v2/manifests/blobs", "sigstore/ns", "manifests/x/tags", "blobs/uploads",
		"a.b_c-d/e__f---g", "api/v1/sign", "uploads", "lookaside/app", "signature-1/app", "0/1/2",
		strings.Repeat("n", 200), strings.Repeat("s/", 60) + "s",
	} {
		t.Run(tail(repository, 40), func(t *testing.T) {
			t.Parallel()
			i, reference := newImage(fmt.Sprint("name ", n)), s.address+"/"+repository+":v1"
			s.push(t, i, repository, "v1")
			s.upload(t, repository, i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
			where := lookaside(repository, i.digest())
			s.do(t, "POST", where, string(sign(t, "carol", reference, i.digest()))).want(t, 201).says(t, "Location", where+"/signature-3")
			s.wantSigned(t, repository, i.digest(), "server "+reference, "alice "+reference, "carol "+reference)
			works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
		})
	}
	for _, repository := range []string{"UPPER/case", "ns/a..b", "ns/-a", "ns/a:tag", "ns//app", "ns/app/", "ns/a@b", strings.Repeat("n", 256)} {
		t.Run("not "+tail(repository, 40), func(t *testing.T) {
			t.Parallel()
			digest := newImage("bad name").digest()
			s.get(t, extension(repository, digest)).refused(t, 400, "NAME_INVALID")
			s.do(t, "PUT", extension(repository, digest), "{}").refused(t, 400, "NAME_INVALID")
			s.get(t, lookaside(repository, digest)+"/signature-1").want(t, 404)
			s.do(t, "POST", lookaside(repository, digest), "x").refused(t, 400, "NAME_INVALID")
			s.do(t, "PUT", "/v2/"+repository+"/manifests/v1", "{}", "Content-Type: "+manifestType).within(t, 301, 400, 404, 405)
		})
	}
}

// within asserts that the status is one of some.
func (a answer) within(t testing.TB, statuses ...int) answer {
	t.Helper()
	for _, status := range statuses {
		if a.status == status {
			return a
		}
	}
	t.Errorf("%s: status %d, want one of %d\n%s", a.asked, a.status, statuses, tail(a.body, 500))
	return a
}

// TestHostAliases keeps images under the first name, and finds them under every one.
func TestHostAliases(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-host", "registry.example.test:5000,alias.example.test", "-sign-on", "upload")
	i := newImage("aliases")
	s.push(t, i, "ns/app", "v1")
	hosts := []string{"registry.example.test:5000", "alias.example.test"}
	for n, host := range hosts {
		reference := host + "/ns/app:v1"
		path := "/lookaside/" + host + "/" + strings.TrimPrefix(lookaside("ns/app", i.digest()), "/sigstore/")
		s.do(t, "POST", path, string(sign(t, people[2*n], reference, i.digest()))).want(t, 201)
	}
	// The countersignature names the first, also for the upload that named the other: one is enough.
	want := []string{"alice registry.example.test:5000/ns/app:v1", "server registry.example.test:5000/ns/app:v1", "carol alias.example.test/ns/app:v1"}
	s.wantSigned(t, "ns/app", i.digest(), want...)
	for n := range want {
		own := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside("ns/app", i.digest()), n+1)).want(t, 200).body
		for _, host := range hosts {
			path := fmt.Sprintf("/lookaside/%s/%s/signature-%d", host, strings.TrimPrefix(lookaside("ns/app", i.digest()), "/sigstore/"), n+1)
			if s.get(t, path).want(t, 200).body != own {
				t.Errorf("%s is not what /sigstore serves", path)
			}
		}
	}
	// Who signs with the address instead of a name, signs for a host that is not ours.
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v1", i.digest())).refused(t, 403, "DENIED", "registry.example.test:5000")
}
