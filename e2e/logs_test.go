package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A line is one line of the log.
type line struct {
	Msg, Level                 string
	Route, Method, Path, Image string
	Signer, Remote, Error      string
	Status, Index              int
	Duration                   *float64
}

// log reads what the server has logged; every line must be JSON.
func (s *server) log(t testing.TB) (requests []line) {
	t.Helper()
	for _, text := range strings.Split(strings.TrimSpace(s.stderr.String()), "\n") {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Errorf("a line of the log is no JSON: %v: %s", err, text)
			continue
		}
		if l.Msg == "request" {
			requests = append(requests, l)
		}
	}
	return requests
}

// TestLogLines asserts that each request is one line, and what it says.
func TestLogLines(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	i := newImage("logged")
	reference, other := s.address+"/ns/app:v1", s.address+"/ns/app:v2"
	image, path := s.address+"/ns/app@"+i.digest(), lookaside("ns/app", i.digest())
	alice, bob, carol := fingerprintOf(t, "alice"), fingerprintOf(t, "bob"), fingerprintOf(t, "carol")
	s.push(t, i, "ns/app", "v1")
	pushed := len(s.logged(t))
	content := sign(t, "carol", other, i.digest())

	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	s.do(t, "POST", path, string(content)).want(t, 201)
	s.do(t, "PUT", path+"/signature-9", string(content)).want(t, 200) // it is the second
	s.upload(t, "ns/app", i.digest(), sign(t, "bob", reference, i.digest())).want(t, 403)
	s.get(t, extension("ns/app", i.digest())).want(t, 200)
	s.get(t, path+"/signature-2").want(t, 200)
	s.get(t, path+"/signature-3").want(t, 404)
	s.get(t, "/v2/ns/app/manifests/v1", "Accept: "+manifestType).want(t, 200)
	s.get(t, "/v2/").want(t, 200)
	s.get(t, "/nowhere").want(t, 404)
	s.get(t, "/v2/", "Host: evil.example.test").want(t, 421)
	ask(t, s.debug, "GET", "/healthz", "").want(t, 200)
	s.do(t, "DELETE", extension("ns/app", i.digest()), "").want(t, 405)

	want := []line{
		{Route: "extension", Method: "PUT", Status: 201, Image: image, Signer: alice},
		{Route: "lookaside", Method: "POST", Status: 201, Image: image, Signer: carol, Index: 2},
		{Route: "lookaside", Method: "PUT", Status: 200, Image: image, Signer: carol},
		{Route: "extension", Method: "PUT", Status: 403, Image: image, Signer: bob},
		{Route: "extension", Method: "GET", Status: 200, Image: image},
		{Route: "lookaside", Method: "GET", Status: 200, Image: image, Index: 2},
		{Route: "lookaside", Method: "GET", Status: 404, Image: image, Index: 3},
		{Route: "registry", Method: "GET", Status: 200},
		{Route: "registry", Method: "GET", Status: 200},
		{Route: "none", Method: "GET", Status: 404},
		{Route: "registry", Method: "GET", Status: 421},
		{Route: "debug", Method: "GET", Status: 200},
		{Route: "extension", Method: "DELETE", Status: 405},
	}
	var got []line
	eventually(t, fmt.Sprintf("%d lines more than %d", len(want), pushed), func() bool {
		got = s.log(t)[pushed:]
		return len(got) >= len(want)
	})
	if len(got) != len(want) {
		t.Errorf("%d requests made %d lines", len(want), len(got))
	}
	for n, w := range want {
		g := got[n]
		if g.Route != w.Route || g.Method != w.Method || g.Status != w.Status || g.Image != w.Image || g.Index != w.Index && w.Index != 0 || !signerLogged(g, w) {
			t.Errorf("line %d is\n\t%+v, want\n\t%+v", n, g, w)
		}
		if g.Duration == nil || *g.Duration <= 0 || g.Remote == "" || g.Path == "" {
			t.Errorf("line %d lacks duration, remote or path: %+v", n, g)
		}
		if (g.Error != "") != (w.Status >= 400 && w.Route != "debug") && w.Route != "registry" {
			t.Errorf("line %d has status %d and error %q", n, g.Status, g.Error)
		}
	}
}

// signerLogged tells whether a line names the signer that it should. Whom the door refuses, no
// verification has named; then the error does.
func signerLogged(got, want line) bool {
	if want.Status == 403 {
		return strings.Contains(got.Signer+got.Error, want.Signer)
	}
	return got.Signer == want.Signer
}

// logged waits until the log has been quiet: as many lines as answers were read. A line is
// written when the answer is out, which can be after the client has it.
func (s *server) logged(t testing.TB) []line {
	t.Helper()
	before, _ := s.scrape(t)
	n := int(before.sum("countersign_http_requests_total"))
	var lines []line
	eventually(t, "every request has its line", func() bool {
		lines = s.log(t)
		return len(lines) >= n+1 // with the scrape itself
	})
	return lines
}

// secret is what clients put where it does not belong into a log.
const secret = "s3cr3t"

// TestLogsNoSecrets sends a secret in every place where clients keep some, to every route, in
// requests that succeed and that fail, and looks for it in all that was logged.
func TestLogsNoSecrets(t *testing.T) {
	t.Parallel()
	s := start(t)
	i := newImage("secrets")
	s.push(t, i, "ns/app", "v1")
	headers := []string{
		"Authorization: Bearer " + secret, "Cookie: session=" + secret, "Referer: http://h.example.test/?tok=" + secret,
		"X-Api-Key: " + secret, "User-Agent: " + secret, "X-Forwarded-For: " + secret, "X-Request-Id: " + secret,
	}
	query := "?tok=" + secret + "&account=" + secret
	for _, path := range []string{
		"/v2/", "/v2/_catalog", "/v2/ns/app/tags/list", "/v2/ns/app/manifests/v1", "/v2/ns/app/manifests/none", "/v2/ns/app/blobs/" + i.digest(),
		"/v2/ns/app/blobs/nonsense", "/v2/NS/app/manifests/v1", "/v2/ns%2Fapp/manifests/v1", "/v2/ns/app/blobs/uploads/none",
		extension("ns/app", i.digest()), extension("ns/app", "nonsense"), lookaside("ns/app", i.digest()) + "/signature-1",
		lookaside("ns/app", i.digest()) + "/signature-9", "/lookaside/" + s.address + "/ns/app", "/nowhere", "/", "/token",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"} {
			s.do(t, method, path+query, secret, headers...)
		}
		s.raw(t, "GET http://user:"+secret+"@"+s.address+path+query+" HTTP/1.1\r\nHost: "+s.address+"\r\nConnection: close\r\n\r\n")
		s.do(t, "GET", path+query, "", append(headers, "Host: evil.example.test")...).want(t, 421)
		ask(t, s.debug, "GET", path+query, "", headers...)
	}
	upload := s.do(t, "POST", "/v2/ns/app/blobs/uploads/"+query, "", headers...).want(t, 202)
	s.do(t, "PUT", s.where(t, upload, "digest=sha256:"+strings.Repeat("0", 64)+"&tok="+secret), secret, headers...).want(t, 400)
	s.do(t, "POST", "/v2/ns/app/blobs/uploads/?mount="+i.digest()+"&from="+secret+"/"+secret+"&tok="+secret, "", headers...)
	requests := s.logged(t)
	s.stop(t)
	for _, text := range strings.Split(s.stderr.String(), "\n") {
		if strings.Contains(text, secret) {
			t.Errorf("the log tells a secret: %s", text)
		}
		if strings.Contains(text, "?tok") || strings.Contains(text, "account=") || strings.Contains(text, "?digest=") {
			t.Errorf("the log tells a query: %s", text)
		}
	}
	// What a client sends must not forge a line or a field either.
	if slices.ContainsFunc(requests, func(l line) bool { return l.Route == "" || l.Status == 0 || l.Duration == nil }) {
		t.Errorf("a line lacks its route, status or duration")
	}
	if len(requests) < 18*9 {
		t.Errorf("%d requests are logged, want more than %d", len(requests), 18*9)
	}
}

// TestLogForgery sends paths and headers that would end a line or begin another field.
func TestLogForgery(t *testing.T) {
	t.Parallel()
	s := start(t)
	const forged = `%0A{"level":"INFO","msg":"request","route":"forged","status":200}`
	s.get(t, "/forged"+strings.ReplaceAll(strings.ReplaceAll(forged, `"`, "%22"), " ", "%20")).want(t, 404)
	s.raw(t, "GET /\"status\":200,\"route\":\"forged\" HTTP/1.1\r\nHost: "+s.address+"\r\nConnection: close\r\n\r\n").within(t, 400, 404)
	s.get(t, "/%1b[31mred%0d%0a").want(t, 404)
	for _, l := range s.logged(t) {
		if l.Route == "forged" || l.Status == 200 && l.Route == "none" {
			t.Errorf("a client wrote a line of the log: %+v", l)
		}
	}
	if strings.ContainsAny(s.stderr.String(), "\x1b\r") {
		t.Error("a client wrote control characters to the log")
	}
}
