package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestList pages through what several repositories have.
func TestList(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	eachStore(t, testList)
}

func testList(t *testing.T, k kept) {
	s := k.start(t, "")
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
	for query, want := range map[string]int{
		"host=" + s.address: 8, "host=elsewhere.example.com": 0, "repository=ns/app1": 3, "repository=ns/none": 0,
		"digest=" + i.digest(): 2, "repository=ns/app0&digest=" + i.digest() + "&key=" + fingerprintOf(t, "alice"): 1,
		"repository=ns/app1&digest=" + i.digest(): 0, "key=" + strings.ToLower(fingerprintOf(t, "alice")): 1, "key=" + fingerprintOf(t, "bob"): 0, "state=served": 8,
	} {
		if got := strings.Count(s.get(t, "/api/v1/signatures?"+query).want(t, 200).body, `"name"`); got != want {
			t.Errorf("%s lists %d, want %d", query, got, want)
		}
	}
	testListed(t, s, i)
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
	shows(t, s.cli(t, 0, "list", "-state", "served", "ns/app0"), "alice <alice@example.test>", "ADDED")
	if out := s.get(t, "/api/v1/signatures?state=withdrawn").want(t, 200).body; !strings.Contains(out, `"signatures":[]`) {
		t.Errorf("nothing was withdrawn, and the listing has %s", out)
	}
	s.cli(t, 0, "withdraw", "-key", fingerprintOf(t, "alice"), "-reason", "lost", s.address+"/ns/app0@"+i.digest())
	shows(t, s.get(t, "/api/v1/signatures?state=withdrawn&repository=ns/app0").want(t, 200).body,
		`"state":"withdrawn"`, `"fingerprint":"`+fingerprintOf(t, "alice"), `"reason":"lost"`)
	shows(t, s.cli(t, 0, "list", "-state", "withdrawn", "-digest", i.digest()), "lost")
	for _, bad := range []string{"state=x", "limit=0", "limit=1001", "limit=x", "after=x"} {
		s.get(t, "/api/v1/signatures?"+bad).refused(t, 400, "UNSUPPORTED")
	}
	s.do(t, "POST", "/api/v1/signatures", "").refused(t, 405, "UNSUPPORTED")
}

// testListed looks at all that is told of two signatures of an image: the server's and alice's.
func testListed(t *testing.T, s *server, i image) {
	t.Helper()
	type listed struct {
		Host, Repository, Digest, State, Name, Fingerprint, UserID, Reference, Origin, Uploader string
		Index                                                                                   int
		Own                                                                                     bool
		Signed, Added                                                                           time.Time
	}
	var page struct{ Signatures []listed }
	if err := json.Unmarshal([]byte(s.get(t, "/api/v1/signatures?digest="+i.digest()).want(t, 200).body), &page); err != nil {
		t.Fatal(err)
	}
	served := s.signatures(t, "ns/app0", i.digest())
	want := []listed{
		{Fingerprint: fingerprint(t, []byte(read(t, s.serverKey()))), Origin: "push", Own: true},
		{Fingerprint: fingerprintOf(t, "alice"), UserID: "alice <alice@example.test>", Origin: "upload", Uploader: "anonymous"},
	}
	for n := range want {
		if n >= len(page.Signatures) {
			t.Fatalf("%d are listed, want 2", len(page.Signatures))
		}
		w, got := &want[n], page.Signatures[n]
		w.Host, w.Repository, w.Digest, w.State = s.address, "ns/app0", i.digest(), "served"
		w.Name, w.Index, w.Reference = served[n].Name, n+1, s.address+"/ns/app0:v0"
		for what, at := range map[string]time.Time{"signed": got.Signed, "added": got.Added} {
			if age := time.Since(at); age < 0 || age > time.Hour {
				t.Errorf("signature %d was %s at %s", n+1, what, at)
			}
		}
		if w.Signed, w.Added = got.Signed, got.Added; w.UserID == "" {
			w.UserID = got.UserID // the server's, however its key was made
		}
		if got != *w || got.UserID == "" {
			t.Errorf("signature %d is listed as %+v, want %+v", n+1, got, *w)
		}
	}
}

// A listed is one line of countersign list -json.
type listed struct{ Fingerprint, Reference string }

func (s *server) list(t testing.TB, repository, digest string) (all []listed) {
	t.Helper()
	for line := range strings.Lines(s.cli(t, 0, "list", "-json", "-digest", digest, repository)) {
		var l listed
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, l)
	}
	return all
}

// signers are the fingerprints of who has signed an image, in order.
func (s *server) signers(t testing.TB, repository, digest string) (fingerprints []string) {
	t.Helper()
	for _, l := range s.list(t, repository, digest) {
		fingerprints = append(fingerprints, l.Fingerprint)
	}
	return fingerprints
}
