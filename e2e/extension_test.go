package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const advertisement = "X-Registry-Supports-Signatures"

// TestPing asserts what clients read from the ping (protocol.md 3.1, 9.5).
func TestPing(t *testing.T) {
	t.Parallel()
	s := start(t)
	// Whatever a client sends for the header's value, there is one, and it is exactly 1.
	s.get(t, "/v2/").want(t, 200).says(t, advertisement, "1").says(t, "Docker-Distribution-Api-Version", "registry/2.0")
	s.get(t, "/v2/", advertisement+": true").want(t, 200).says(t, advertisement, "1")
	s.get(t, "/v2/?ns=docker.io").want(t, 200).says(t, advertisement, "1")
	s.do(t, "HEAD", "/v2/", "").want(t, 200).says(t, advertisement, "1")
	s.get(t, "/v2/", "User-Agent: Go-http-client/1.1").want(t, 200) // protocol.md 9.20
	s.get(t, "/v2/", "User-Agent: ").want(t, 200)

	silent := start(t, "-config", config(t, "advertise: false\n"))
	for _, path := range []string{"/v2/", "/v2/ns/app/manifests/v1", extension("ns/app", newImage("").digest())} {
		if got := silent.get(t, path).header.Values(advertisement); len(got) > 0 {
			t.Errorf("%s says %s: %q, and it is not advertised", path, advertisement, got)
		}
	}
	// The paths are there all the same, for who knows of them.
	silent.get(t, extension("ns/app", newImage("").digest())).want(t, 200)
}

// TestExtensionReads asserts that a read never fails a pull (protocol.md 3.4, 9.4).
func TestExtensionReads(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	i, reference := newImage("extension reads"), s.address+"/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)

	t.Run("nothing known is an empty list", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{
			extension("ns/app", newImage("never").digest()), extension("ns/never", i.digest()), extension("never", i.digest()),
			extension("library/busybox", i.digest()), extension("signatures/signatures", i.digest()),
		} {
			if a := s.get(t, path).want(t, 200); strings.TrimSpace(a.body) != `{"signatures":[]}` {
				t.Errorf(`%s: %q, want {"signatures":[]}`, path, a.body)
			}
		}
	})
	t.Run("the list", func(t *testing.T) {
		t.Parallel()
		a := s.get(t, extension("ns/app", i.digest())).want(t, 200).
			says(t, "Content-Type", "application/json; charset=utf-8").says(t, "Cache-Control", "no-store")
		if a.header.Get("Location") != "" {
			t.Errorf("a list with a Location: %s", a.header.Get("Location"))
		}
		for n, e := range s.signatures(t, "ns/app", i.digest()) {
			want := i.digest() + "@" + strings.TrimPrefix(digestOf(e.Content), "sha256:")[:32]
			if e.Name != want || e.SchemaVersion != 2 || e.Type != "atomic" {
				t.Errorf("entry %d is %s, schemaVersion %d, type %s; want %s, 2, atomic", n, e.Name, e.SchemaVersion, e.Type, want)
			}
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{extension("ns/app", i.digest()), extension("ns/never", i.digest())} {
			a := s.do(t, "HEAD", path, "").want(t, 200).says(t, "Content-Length", fmt.Sprint(len(s.get(t, path).body)))
			if a.body != "" {
				t.Errorf("HEAD %s has a body", path)
			}
		}
	})
	t.Run("query and spellings", func(t *testing.T) {
		t.Parallel()
		want := s.get(t, extension("ns/app", i.digest())).body
		for _, path := range []string{
			extension("ns/app", i.digest()) + "?ns=docker.io", extension("ns/app", i.digest()) + "?ns=a%2Fb&ns=%00&tok=x;y",
			strings.Replace(extension("ns/app", i.digest()), ":", "%3A", 1), strings.Replace(extension("ns/app", i.digest()), ":", "%3a", 1),
		} {
			if a := s.get(t, path).want(t, 200); a.body != want {
				t.Errorf("%s answers otherwise than without: %s", path, tail(a.body, 300))
			}
		}
		s.get(t, extension("ns/app", i.digest()), "Accept: text/html", "Authorization: Bearer x").want(t, 200)
	})
	t.Run("what does not parse", func(t *testing.T) {
		t.Parallel()
		testExtensionParse(t, s, i.digest())
	})
	t.Run("methods", func(t *testing.T) {
		t.Parallel()
		for _, method := range []string{"POST", "DELETE", "PATCH", "OPTIONS"} {
			a := s.do(t, method, extension("ns/app", i.digest()), "")
			a.refused(t, 405, "UNSUPPORTED")
			a.says(t, "Allow", "GET, HEAD, PUT")
		}
	})
}

// None of these is redirected to where a client would not follow (protocol.md 9.13).
func testExtensionParse(t *testing.T, s *server, digest string) {
	hex := strings.TrimPrefix(digest, "sha256:")
	for path, code := range map[string]string{
		extension("ns/app", digest) + "/":                      "NAME_INVALID",
		extension("ns/app", "v1"):                              "DIGEST_INVALID",
		extension("ns/app", hex):                               "DIGEST_INVALID",
		extension("ns/app", "sha256:"+hex[1:]):                 "DIGEST_INVALID",
		extension("ns/app", "sha256:"+strings.ToUpper(hex)):    "DIGEST_INVALID",
		extension("ns/app", "md5:"+hex[:32]):                   "DIGEST_INVALID",
		extension("ns/app", "sha512:"+hex+hex):                 "DIGEST_INVALID",
		extension("ns/app", "sha256="+hex):                     "DIGEST_INVALID",
		extension("ns/app", digest+"@x"):                       "DIGEST_INVALID",
		extension("", digest):                                  "NAME_INVALID",
		extension("/", digest):                                 "NAME_INVALID",
		extension("NS/app", digest):                            "NAME_INVALID",
		"/extensions/v2/ns/app/signatures":                     "NAME_INVALID",
		"/extensions/v2/ns/app/signatures/":                    "DIGEST_INVALID",
		"/extensions/v2/signatures/" + digest:                  "NAME_INVALID",
		"/extensions/v2/ns/app/signature/" + digest:            "NAME_INVALID",
		"/extensions/v2/ns/app/Signatures/" + digest:           "NAME_INVALID",
		"/extensions/v2/ns/app/signatures/" + digest + "/more": "NAME_INVALID",
		"/extensions/v2/":                                      "NAME_INVALID",
	} {
		s.get(t, path).refused(t, 400, code)
		s.do(t, "PUT", path, "{}").refused(t, 400, code)
	}
	for _, path := range []string{"/extensions", "/extensions/", "/extensions/v1/x", "/extensions/v2", "/v1/", "/api/v0/", "/token"} {
		s.get(t, path).refused(t, 404, "NAME_INVALID")
	}
}

// TestExtensionWrites asserts what clients take for success, and what else the server must not
// take (protocol.md 3.5, 9.7, 9.8, 9.11, 9.12).
func TestExtensionWrites(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-sign-on", "none")
	i, other := newImage("extension writes"), newImage("another")
	good := func(t testing.TB, repository string) entry {
		content := sign(t, "alice", s.address+"/"+repository+":v1", i.digest())
		return entry{2, i.digest() + "@0123456789abcdef0123456789abcdef", "atomic", content}
	}

	t.Run("once, twice, under another name", func(t *testing.T) {
		t.Parallel()
		e, path := good(t, "ns/twice"), extension("ns/twice", i.digest())
		for _, name := range []string{"0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef", strings.Repeat("f", 32)} {
			e.Name = i.digest() + "@" + name
			if a := s.do(t, "PUT", path, wire(t, e)).want(t, 201); a.body != "" && !json.Valid([]byte(a.body)) {
				t.Errorf("PUT: a body that is no JSON: %q", a.body)
			}
		}
		s.wantSigned(t, "ns/twice", i.digest(), "alice "+s.address+"/ns/twice:v1")
		if got := s.signatures(t, "ns/twice", i.digest())[0].Name; got == e.Name {
			t.Errorf("the client's name %s was kept", got)
		}
	})
	t.Run("headers that clients leave out, or add", func(t *testing.T) {
		t.Parallel()
		for n, headers := range [][]string{{}, {"Content-Type: text/plain"}, {"Content-Type: application/json"}, {"Expect: 100-continue"}, {"Authorization: Basic dTpw"}} {
			repository := fmt.Sprint("ns/headers", n)
			s.do(t, "PUT", extension(repository, i.digest())+"?ns=docker.io", wire(t, good(t, repository)), headers...).want(t, 201)
			s.wantSigned(t, repository, i.digest(), "alice "+s.address+"/"+repository+":v1")
		}
	})
	t.Run("the same signature by both protocols is one", func(t *testing.T) {
		t.Parallel()
		e := good(t, "ns/both")
		s.do(t, "POST", lookaside("ns/both", i.digest()), string(e.Content)).want(t, 201)
		s.do(t, "PUT", extension("ns/both", i.digest()), wire(t, e)).want(t, 201)
		s.do(t, "PUT", lookaside("ns/both", i.digest())+"/signature-1", string(e.Content)).want(t, 200).
			says(t, "Content-Location", lookaside("ns/both", i.digest())+"/signature-1")
		s.wantSigned(t, "ns/both", i.digest(), "alice "+s.address+"/ns/both:v1")
	})
	t.Run("bodies", func(t *testing.T) {
		t.Parallel()
		path, e := extension("ns/bodies", i.digest()), good(t, "ns/bodies")
		valid := wire(t, e)
		change := func(old, new string) string {
			if !strings.Contains(valid, old) {
				t.Fatalf("%q is not in %s", old, valid)
			}
			return strings.Replace(valid, old, new, 1)
		}
		for name, body := range map[string]string{
			"nothing": "", "no JSON": "signature", "an array": "[" + valid + "]", "null": "null", "an object of nothing": "{}",
			"something behind it": valid + "{}", "half of it": valid[:len(valid)/2], "a list": `{"signatures":[` + valid + `]}`,
			"schemaVersion 1": change(`"schemaVersion":2`, `"schemaVersion":1`), "schemaVersion as a string": change(`"schemaVersion":2`, `"schemaVersion":"2"`),
			"no schemaVersion": change(`"schemaVersion":2,`, ""), "OpenShift's type": change(`"atomic"`, `"AtomicImageV1"`),
			"no type": change(`"type":"atomic",`, ""), "an empty type": change(`"atomic"`, `""`),
			"another digest in the name": change(i.digest()+"@", other.digest()+"@"), "no @ in the name": change("@0123", "0123"),
			"a short name": change("@0123", "@"), "an upper-case name": change("abcdef", "ABCDEF"), "a name of no hex": change("@0123", "@wxyz"),
			"a path in the name": change("@0123456789", "@../../../"), "no base64": change(`"content":"`, `"content":"*`),
			"URL-safe base64": change(`"content":"`, `"content":"_-_-`), "no content": change(`"content":"`, `"contents":"`),
			"empty content": strings.Split(valid, `"content"`)[0] + `"content":""}`, "an unknown member": change(`{"schema`, `{"detached":true,"schema`),
		} {
			s.do(t, "PUT", path, body).refused(t, 400, "SIGNATURE_INVALID")
			if n := len(s.signatures(t, "ns/bodies", i.digest())); n != 0 {
				t.Fatalf("%s: %d signatures are stored", name, n)
			}
		}
		s.do(t, "PUT", path, valid+"\n").want(t, 201)
	})
	t.Run("for another digest than the path's", func(t *testing.T) {
		t.Parallel()
		// protocol.md 9.7: path, name and claim must be for the same manifest.
		content := sign(t, "alice", s.address+"/ns/agree:v1", i.digest())
		name := func(i image) string { return i.digest() + "@0123456789abcdef0123456789abcdef" }
		s.do(t, "PUT", extension("ns/agree", other.digest()), wire(t, entry{2, name(i), "atomic", content})).refused(t, 400, "SIGNATURE_INVALID")
		s.do(t, "PUT", extension("ns/agree", other.digest()), wire(t, entry{2, name(other), "atomic", content})).refused(t, 400, "SIGNATURE_INVALID", i.digest())
		s.do(t, "PUT", extension("ns/agree", i.digest()), wire(t, entry{2, name(other), "atomic", content})).refused(t, 400, "SIGNATURE_INVALID")
		s.do(t, "PUT", extension("ns/agree", i.digest()), wire(t, entry{2, name(i), "atomic", content})).want(t, 201)
		s.wantSigned(t, "ns/agree", other.digest())
	})
	t.Run("too large", func(t *testing.T) {
		t.Parallel()
		testTooLarge(t, s, i.digest())
	})
}

func testTooLarge(t *testing.T, s *server, digest string) {
	path := extension("ns/large", digest)
	// Above the limit and small enough for the server to read to its end: beyond some 256 KiB it
	// hangs up, and whether the answer arrives is up to the network.
	body := wire(t, entry{2, digest + "@0123456789abcdef0123456789abcdef", "atomic", make([]byte, 128<<10)})
	s.do(t, "PUT", path, body).refused(t, 413, "SIGNATURE_INVALID")
	s.do(t, "POST", lookaside("ns/large", digest), strings.Repeat("x", 64<<10+1)).refused(t, 413, "SIGNATURE_INVALID", "65536")
	// Without a length, and with a length that nobody will send.
	s.raw(t, "PUT "+path+" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)).refused(t, 413, "SIGNATURE_INVALID")
	s.raw(t, "PUT "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"+body[:132<<10]).refused(t, 413, "SIGNATURE_INVALID")
	if n := len(s.signatures(t, "ns/large", digest)); n != 0 {
		t.Errorf("%d signatures are stored", n)
	}
}

// TestErrorShape asks every route for an error: all of them are the registry's shape, so that
// clients show their message (protocol.md 3.5, 9.19).
func TestErrorShape(t *testing.T) {
	t.Parallel()
	s := trusting(t)
	digest := newImage("errors").digest()
	s.get(t, "/v2/ns/never/manifests/v1").refused2(t, 404, "MANIFEST_UNKNOWN", "NAME_UNKNOWN")
	s.get(t, "/v2/ns/never/blobs/"+digest).refused2(t, 404, "BLOB_UNKNOWN", "NAME_UNKNOWN")
	s.get(t, extension("ns/app", "latest")).refused(t, 400, "DIGEST_INVALID", "latest")
	s.upload(t, "ns/app", digest, sign(t, "bob", s.address+"/ns/app:v1", digest)).refused(t, 403, "DENIED", fingerprintOf(t, "bob"))
	s.get(t, "/nothing/here").refused(t, 404, "NAME_INVALID")
	s.get(t, lookaside("ns/app", digest)+"/signature-1").refused(t, 404, "NAME_INVALID")
	s.get(t, "/v2/", "Host: evil.example.com").refused(t, 421, "DENIED", "evil.example.com", "host")
	ask(t, s.debug, "GET", "/nothing", "").refused(t, 404, "NAME_INVALID")
}

// refused2 asserts the registry's own error, which may have a detail and one of two codes.
func (a answer) refused2(t testing.TB, status int, codes ...string) {
	t.Helper()
	a.want(t, status)
	var list struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || len(list.Errors) != 1 {
		t.Errorf("%s: %v, want one error: %q", a.asked, err, a.body)
		return
	}
	for _, code := range codes {
		if list.Errors[0].Code == code && list.Errors[0].Message != "" {
			return
		}
	}
	t.Errorf("%s: %+v, want one of %q and a message", a.asked, list.Errors, codes)
}
