package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// cli runs a client command against the server; it must end with this exit code.
func (s *server) cli(t testing.TB, code int, name string, args ...string) string {
	t.Helper()
	c := command(t.Context(), append([]string{name, "-server", "http://" + s.address}, args...)...)
	out, _ := c.CombinedOutput() // its exit code is looked at
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s %v: exit code %d, want %d\n%s", name, args, got, code, out)
	}
	return string(out)
}

// shows asserts words of an output.
func shows(t testing.TB, out string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("the output lacks %q:\n%s", word, out)
		}
	}
}

// TestWithdraw stops an image that a node pulls, in each scope, and lets it come back.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "gpg")
	s := trusting(t)
	for scope, flags := range map[string]func(s *server, digest string) []string{
		"signature": func(s *server, digest string) []string {
			return []string{"-signature", s.signatures(t, "ns/signature", digest)[0].Name}
		},
		"key": func(s *server, _ string) []string {
			return []string{"-key", fingerprint(t, []byte(read(t, s.serverKey())))}
		},
		"image": func(*server, string) []string { return []string{"-image"} },
	} {
		t.Run(scope, func(t *testing.T) {
			repository := "ns/" + scope
			i, reference := newImage("withdrawn "+scope), s.address+"/"+repository+":v1"
			byDigest := s.address + "/" + repository + "@" + i.digest()
			s.push(t, i, repository, "v1")
			s.upload(t, repository, i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
			n := newNode(t).require(t, s.address, s.serverKey())
			works(t)(n.pull(t, reference))

			out := s.cli(t, 0, "withdraw", append(append([]string{"-reason", "the build was bad"}, flags(s, i.digest())...), byDigest)...)
			shows(t, out, "withdrawn: "+scope, "countersign lift ")
			fails(t, "rejected")(n.pull(t, reference))
			if scope != "signature" { // of which a push makes another
				s.tag(t, i, repository, "v1") // pushed again, and not signed again
				fails(t, "rejected")(n.pull(t, reference))
			}
			want := []string{"alice " + reference}
			if scope == "image" {
				want = nil
				s.upload(t, repository, i.digest(), sign(t, "alice", reference, i.digest())).refused(t, 403, "DENIED", "withdrawn", "the build was bad")
			}
			s.wantSigned(t, repository, i.digest(), want...)
			s.get(t, fmt.Sprintf("%s/signature-%d", lookaside(repository, i.digest()), len(want)+1)).want(t, 404)
			shows(t, s.cli(t, 0, "list", "-withdrawn", repository), byDigest, scope, "the build was bad", "anonymous")

			id := regexp.MustCompile(`countersign lift (\S+)`).FindStringSubmatch(out)[1]
			s.cli(t, 0, "lift", id)
			shows(t, s.cli(t, 1, "lift", id), "lifted")
			s.tag(t, i, repository, "v1")
			works(t)(n.pull(t, reference))
			trail := s.cli(t, 0, "audit")
			shows(t, trail, "signed by countersign "+byDigest, "withdrawn by anonymous from 127.0.0.1 "+byDigest, "lifted by anonymous", "admitted by anonymous")
		})
	}
}

func TestWithdrawRefuses(t *testing.T) {
	t.Parallel()
	s := start(t)
	digest := digestOf([]byte("x"))
	reference := s.address + "/ns/app@" + digest
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{reference}, 2, "exactly one of"},
		{[]string{"-image", "-key", "x", "-reason", "y", reference}, 2, "exactly one of"},
		{[]string{"-image", reference}, 2, "-reason"},
		{[]string{"-image", "-reason", "y"}, 2, "REFERENCE"},
		{[]string{"-image", "-reason", "y", s.address + "/ns/app:v1"}, 2, "no digest"},
		{[]string{"-key", "1234", "-reason", "y", reference}, 1, "fingerprint"},
		{[]string{"-signature", digest + "@00", "-reason", "y", reference}, 1, "has no signature"},
		{[]string{"-image", "-reason", "two\nlines", reference}, 1, "one line"},
	} {
		shows(t, s.cli(t, test.code, "withdraw", test.args...), test.says)
	}
	const path = "/api/v1/withdrawals"
	s.do(t, "POST", path, `{"repository":"ns/app","digest":"`+digest+`","scope":"everything","reason":"x"}`).refused(t, 400, "UNSUPPORTED", "scope")
	s.do(t, "POST", path, `{"repository":"../app","digest":"`+digest+`","scope":"image","reason":"x"}`).refused(t, 400, "NAME_INVALID")
	s.do(t, "DELETE", path+"/x", "").refused(t, 400, "NAME_INVALID")
	s.do(t, "PUT", path, "").refused(t, 405, "UNSUPPORTED")
	s.do(t, "POST", path+"/x", "").refused(t, 405, "UNSUPPORTED")
	if got := len(s.cli(t, 0, "audit")); got != 0 {
		t.Errorf("what was refused is in the trail:\n%s", s.cli(t, 0, "audit"))
	}
}

// TestList pages through what several repositories have.
func TestList(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	for n := range 7 {
		s.push(t, newImage(fmt.Sprint("listed ", n)), fmt.Sprintf("ns/app%d", n%2), fmt.Sprint("v", n))
	}
	i := newImage("listed 0")
	s.upload(t, "ns/app0", i.digest(), sign(t, "alice", s.address+"/ns/app0:v0", i.digest())).want(t, 201)

	if got := strings.Count(s.cli(t, 0, "list"), "\n"); got != 1+8 {
		t.Errorf("list: %d lines, want a head and 8:\n%s", got, s.cli(t, 0, "list"))
	}
	shows(t, s.cli(t, 0, "list", "ns/app0"), "FINGERPRINT", s.address+"/ns/app0:v0", "upload by anonymous", fingerprintOf(t, "alice"))
	if out := s.cli(t, 0, "list", "-key", fingerprintOf(t, "alice")); strings.Count(out, "\n") != 2 {
		t.Errorf("-key: want a head and one line:\n%s", out)
	}
	if out := s.cli(t, 0, "list", "-digest", i.digest(), "-json"); strings.Count(out, "\n") != 2 || !json.Valid([]byte(strings.Split(out, "\n")[0])) {
		t.Errorf("-digest -json: want two objects:\n%s", out)
	}
	// A page at a time, everything once.
	seen, after := map[string]bool{}, ""
	for pages := 0; ; pages++ {
		var page struct {
			Signatures []struct{ Name, Repository string }
			Next       string
		}
		if err := json.Unmarshal([]byte(s.get(t, "/api/v1/signatures?limit=3&after="+after).want(t, 200).body), &page); err != nil {
			t.Fatal(err)
		}
		for _, sig := range page.Signatures {
			if seen[sig.Repository+sig.Name] {
				t.Errorf("%s is listed twice", sig.Name)
			}
			seen[sig.Repository+sig.Name] = true
		}
		if after = page.Next; after == "" || pages > 10 {
			break
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d signatures in pages, want 8", len(seen))
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "after=x"} {
		s.get(t, "/api/v1/signatures?"+bad).refused(t, 400, "UNSUPPORTED")
	}
	s.do(t, "POST", "/api/v1/signatures", "").refused(t, 405, "UNSUPPORTED")
}

// Nobody fills the trail with what they were refused.
func TestRefusalsRecorded(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t)
	i := newImage("refused")
	content := sign(t, "bob", s.address+"/ns/app:v1", i.digest())
	for range 30 {
		s.upload(t, "ns/app", i.digest(), content).want(t, 403)
	}
	trail := s.cli(t, 0, "audit", "-json")
	if got := strings.Count(trail, `"refused"`); got < 10 || got > 21 { // a minute may end meanwhile
		t.Errorf("30 refusals left %d records, want 10:\n%s", got, trail)
	}
	shows(t, trail, fingerprintOf(t, "bob"), s.address, "127.0.0.1")
}
