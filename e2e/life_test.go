package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
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
	eachStore(t, testWithdraw)
}

func testWithdraw(t *testing.T, k kept) {
	s := k.start(t, "")
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
			s.wantServed(t, repository, i.digest())
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

// withdrew says whether something is withdrawn of an image.
func (s *server) withdrew(t testing.TB, repository, digest string) bool {
	t.Helper()
	return strings.Contains(s.get(t, "/api/v1/withdrawals?repository="+repository+"&digest="+digest).want(t, 200).body, `"id"`)
}

// wantServed asserts that the lookaside serves nothing but what the extension lists, all of it, and
// then 404; after a withdrawal some of it for a second time.
func (s *server) wantServed(t testing.TB, repository, digest string) {
	t.Helper()
	list := s.signatures(t, repository, digest)
	for index := 1; ; index++ {
		a := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside(repository, digest), index)).within(t, 200, 404)
		if a.status == 404 {
			if index <= len(list) {
				t.Errorf("%d signatures are listed, and there is no signature-%d", len(list), index)
			}
			return
		}
		if len(list) == 0 || a.body != string(list[(index-1)%len(list)].Content) {
			t.Fatalf("signature-%d is none of the %d that are listed, or at another's place", index, len(list))
		}
	}
}

// TestReaderInMidLoop reads the lookaside as clients do, a file after the other, while a signature is
// withdrawn: before each of the steps once, each of the signatures once. What stays is met.
func TestReaderInMidLoop(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	eachStore(t, testReaderInMidLoop)
}

func testReaderInMidLoop(t *testing.T, k kept) {
	s := k.start(t, "", "-sign-on", "none")
	const n = 3
	for gone := range n {
		for at := 1; at <= n+1; at++ {
			i := newImage(fmt.Sprint("mid-loop ", gone, at))
			for range n {
				s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v1", i.digest())).want(t, 201)
			}
			list := s.signatures(t, "ns/app", i.digest())
			met := map[string]int{}
			for index := 1; ; index++ {
				if index == at {
					s.do(t, "POST", "/api/v1/withdrawals", fmt.Sprintf(`{"repository":"ns/app","digest":%q,"scope":"signature","name":%q,"reason":"x"}`,
						i.digest(), list[gone].Name)).want(t, 201)
				}
				a := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside("ns/app", i.digest()), index)).within(t, 200, 404)
				if a.status == 404 {
					break
				}
				met[a.body] = index
			}
			for k, e := range list {
				index, ok := met[string(e.Content)]
				if k != gone && !ok {
					t.Errorf("signature %d of %d was withdrawn before step %d: the reader missed %d", gone+1, n, at, k+1)
				}
				if k == gone && index >= at {
					t.Errorf("signature %d of %d was withdrawn before step %d, and met at %d", gone+1, n, at, index)
				}
			}
		}
	}
}

// TestKilledInWithdraw kills the server behind each write-class system call of a withdrawal. When it
// is back the withdrawal is whole, the list is dense, and to withdraw again works.
func TestKilledInWithdraw(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	begun := trusting(t, "-sign-on", "none")
	i := newImage("killed in withdraw")
	for _, person := range []string{"alice", "carol", "alice"} {
		begun.upload(t, "ns/app", i.digest(), sign(t, person, begun.address+"/ns/app:v1", i.digest())).want(t, 201)
	}
	signers := begun.signed(t, "ns/app", i.digest())
	begun.stop(t)
	request := fmt.Sprintf(`{"repository":"ns/app","digest":%q,"scope":"key","key":%q,"reason":"lost"}`, i.digest(), fingerprintOf(t, "alice"))
	send := func(s *server) int {
		res, err := client.Post("http://"+s.address+"/api/v1/withdrawals", "application/json", strings.NewReader(request))
		if err != nil {
			return 0 // killed
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	on := func(t *testing.T) *server {
		data := filepath.Join(t.TempDir(), "data")
		copyData(t, begun.data, data)
		return startIn(t, data, "-sign-on", "none", "-host", begun.address)
	}
	s := on(t)
	r := s.trace(t, 0)
	if status := send(s); status != 201 {
		t.Fatalf("the withdrawal is answered %d", status)
	}
	n := len(slices.DeleteFunc(r.finish(t), isResumed))
	points := pointsOf(n, 1, n/2+1, n)
	t.Logf("a withdrawal makes %d write-class calls; killing behind those: %d", n, points)
	for _, k := range points {
		t.Run(fmt.Sprint("behind call ", k), func(t *testing.T) {
			t.Parallel()
			s := on(t)
			r := s.trace(t, hold)
			status, answered := 0, make(chan struct{})
			go func() {
				defer close(answered)
				status = send(s)
			}()
			_ = r.behind(t, k, answered)
			s.kill(t)
			<-answered
			_ = r.rest(t)
			back := startIn(t, s.data, "-sign-on", "none", "-host", begun.address)
			got, kept := back.signed(t, "ns/app", i.digest()), back.cli(t, 0, "list", "-withdrawn", "ns/app")
			done := strings.Contains(kept, "lost")
			if want := signers[1:2]; done && !slices.Equal(got, want) {
				t.Errorf("it is withdrawn, and there are %q, want %q", got, want)
			}
			if !done && (status == 201 || !slices.Equal(got, signers)) {
				t.Errorf("answered %d and not withdrawn, there are %q, want %q", status, got, signers)
			}
			if records := strings.Count(back.cli(t, 0, "audit"), "withdrawn by"); (records == 1) != done {
				t.Errorf("withdrawn: %v, and %d records of it", done, records)
			}
			back.wantServed(t, "ns/app", i.digest())
			if status := send(back); status != 201 {
				t.Errorf("once more is answered %d", status)
			}
			if got := back.signed(t, "ns/app", i.digest()); !slices.Equal(got, signers[1:2]) {
				t.Errorf("in the end there are %q", got)
			}
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

// TestWithdrawalsSurviveRestore brings a store back from a backup: what was withdrawn since is
// withdrawn before the first node is answered, and what was lifted since is lifted. With both stores.
func TestWithdrawalsSurviveRestore(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	eachStore(t, testWithdrawalsSurviveRestore)
}

func testWithdrawalsSurviveRestore(t *testing.T, k kept) {
	file := filepath.Join(t.TempDir(), "withdrawals")
	settings := "withdrawals: " + file + "\n"
	s := k.start(t, settings)
	i, j := newImage("restored"), newImage("restored and lifted")
	reference, lifted := s.address+"/ns/app:v1", s.address+"/ns/app:v2"
	s.push(t, i, "ns/app", "v1")
	s.push(t, j, "ns/app", "v2")
	out := s.cli(t, 0, "withdraw", "-key", fingerprintOf(t, "alice"), "-reason", "a lost key", s.address+"/ns/app@"+j.digest())
	s.stop(t)
	restore := k.backup(t, s)

	s = s.again(t, k.flags(t, settings)...)
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, reference))
	s.cli(t, 0, "withdraw", "-image", "-reason", "a bad build", s.address+"/ns/app@"+i.digest())
	eventually(t, "the file follows", func() bool { return strings.Contains(read(t, file), "a bad build") })
	s.upload(t, "ns/app", j.digest(), sign(t, "alice", lifted, j.digest())).want(t, 403)
	s.cli(t, 0, "lift", regexp.MustCompile(`countersign lift (\S+)`).FindStringSubmatch(out)[1])
	s.stop(t)
	if got := read(t, file); !strings.Contains(got, `"lifted"`) {
		t.Errorf("the file of a server that has stopped lacks what was lifted last:\n%s", got)
	}
	restored := restore(settings)
	fails(t, "rejected")(n.pull(t, reference))
	restored.tag(t, i, "ns/app", "v1")
	fails(t, "rejected")(n.pull(t, reference))
	restored.upload(t, "ns/app", j.digest(), sign(t, "alice", lifted, j.digest())).want(t, 201)
	restored.tells(t, "withdrawals file", `"level":"WARN"`)
	all, _ := restored.scrape(t)
	if got := all.sum("countersign_withdrawals_restored_total"); got != 2 {
		t.Errorf("countersign_withdrawals_restored_total is %v, want 2", got)
	}
	shows(t, restored.cli(t, 0, "audit"), "withdrawn by countersign", "lifted by countersign")
	id := regexp.MustCompile(`\S+\n$`).FindString(restored.cli(t, 0, "list", "-withdrawn"))
	restored.cli(t, 0, "lift", strings.TrimSpace(id))
	restored.tag(t, i, "ns/app", "v1")
	works(t)(n.pull(t, reference))
}
