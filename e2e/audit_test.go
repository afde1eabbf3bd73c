package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAudit has everything happen that is recorded, and reads what was.
func TestAudit(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	eachStore(t, testAudit)
}

// An audited is a record as audit -json writes it.
type audited struct {
	Time                                                     time.Time
	Action, Subject, Address, Fingerprint, Reference, Reason string
	Image                                                    struct{ Host, Repository, Digest string }
	Names                                                    []string
}

func (s *server) audited(t testing.TB) (records []audited) {
	t.Helper()
	for d := json.NewDecoder(strings.NewReader(s.cli(t, 0, "audit", "-json"))); d.More(); {
		var r audited
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

func testAudit(t *testing.T, k kept) {
	s := k.start(t, "retention: {deleted: drop, after: 0s}\n")
	i, j := newImage("audited"), newImage("audited, imported")
	reference, tree := s.address+"/ns/app:v1", t.TempDir()
	s.push(t, i, "ns/app", "v1")
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	s.upload(t, "ns/app", i.digest(), sign(t, "bob", reference, i.digest())).want(t, 403)
	put(t, tree, "ns/app", j.digest(), 1, sign(t, "carol", s.address+"/ns/app:v2", j.digest()))
	s.cli(t, 0, "import", tree)
	names := s.signatures(t, "ns/app", i.digest())
	out := s.cli(t, 0, "withdraw", "-key", fingerprintOf(t, "alice"), "-reason", "lost", s.address+"/ns/app@"+i.digest())
	id := regexp.MustCompile(`countersign lift (\S+)`).FindStringSubmatch(out)[1]
	s.cli(t, 0, "lift", id)
	s.deletes(t, "ns/app", i.digest())
	eventually(t, "the deleted manifest's signatures are dropped", func() bool { return len(s.signatures(t, "ns/app", i.digest())) == 0 })

	own := fingerprint(t, []byte(read(t, s.serverKey())))
	want := []audited{
		{Action: "signed", Subject: "countersign", Fingerprint: own, Reference: reference, Names: []string{names[0].Name}},
		{Action: "admitted", Subject: "anonymous", Address: "127.0.0.1", Fingerprint: fingerprintOf(t, "alice"), Reference: reference, Names: []string{names[1].Name}},
		{Action: "refused", Subject: "anonymous", Address: "127.0.0.1", Fingerprint: fingerprintOf(t, "bob"), Reason: "not known"},
		{Action: "imported", Subject: "anonymous", Address: "127.0.0.1", Fingerprint: fingerprintOf(t, "carol"), Reference: s.address + "/ns/app:v2"},
		{Action: "withdrawn", Subject: "anonymous", Address: "127.0.0.1", Fingerprint: fingerprintOf(t, "alice"), Reason: "lost", Names: []string{names[1].Name}},
		{Action: "lifted", Subject: "anonymous", Address: "127.0.0.1", Fingerprint: fingerprintOf(t, "alice"), Reason: "lost", Names: []string{id}},
		{Action: "dropped", Subject: "countersign", Reason: "deleted from the registry", Names: []string{names[0].Name}},
	}
	got := s.audited(t)
	if len(got) != len(want) {
		t.Fatalf("the trail has %d records, want %d: %+v", len(got), len(want), got)
	}
	for n, w := range want {
		g, digest := got[n], i.digest()
		if w.Action == "imported" {
			digest = j.digest()
		}
		host, _, _ := strings.Cut(g.Address, ":")
		if g.Action != w.Action || g.Subject != w.Subject || host != w.Address || g.Fingerprint != w.Fingerprint || g.Reference != w.Reference ||
			!strings.Contains(g.Reason, w.Reason) || len(w.Names) > 0 && fmt.Sprint(g.Names) != fmt.Sprint(w.Names) ||
			g.Image.Host != s.address || g.Image.Repository != "ns/app" || g.Image.Digest != digest || time.Since(g.Time) > time.Hour {
			t.Errorf("record %d is %+v, want %+v", n+1, g, w)
		}
	}
	// By pages, from any cursor on, the same.
	var paged []audited
	for after, pages := "", 0; ; pages++ {
		var page struct {
			Records []audited
			Next    string
		}
		if err := json.Unmarshal([]byte(s.get(t, "/api/v1/audit?limit=3&after="+after).want(t, 200).body), &page); err != nil || pages > 5 {
			t.Fatal(err, pages)
		}
		paged = append(paged, page.Records...)
		if after = page.Next; len(page.Records) == 0 {
			break
		}
	}
	if fmt.Sprint(paged) != fmt.Sprint(got) {
		t.Errorf("by pages the trail is %+v, want %+v", paged, got)
	}
}

// TestAuditFollow reads on while records come, and over the server's end.
func TestAuditFollow(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "none")
	i := newImage("followed trail")
	upload := func(s *server) {
		t.Helper()
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v1", i.digest())).want(t, 201)
	}
	upload(s)
	f, said := command(context.Background(), "audit", "-follow", "-json", "-server", "http://"+s.address), newOutput()
	var complaints bytes.Buffer
	f.Stdout, f.Stderr = said, &complaints
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = f.Process.Kill()
		<-ended
	})
	shown := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d records are shown", n), func() bool { return strings.Count(said.String(), `"admitted"`) == n })
	}
	shown(1)
	upload(s)
	shown(2)
	s.stop(t)
	s = s.again(t, "-sign-on", "none")
	upload(s)
	shown(3)
	_ = f.Process.Signal(syscall.SIGINT)
	<-ended
	if code := f.ProcessState.ExitCode(); code != 0 {
		t.Errorf("audit -follow ended with %d: %s", code, &complaints)
	}
	if got := complaints.String(); strings.Count(got, "waiting for the server") > 1 {
		t.Errorf("it told more than once that the server is away: %s", got)
	}
	refused := command(t.Context(), "audit", "-follow", "-server", "http://127.0.0.1:1")
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "hint") {
		t.Errorf("to follow a server that never answered: %v, %s, want an error at once", err, out)
	}
}

// Nobody fills the trail with what they were refused: the rest of a minute is a count, at the latest
// when the server ends.
func TestRefusalsRecorded(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	eachStore(t, testRefusalsRecorded)
}

func testRefusalsRecorded(t *testing.T, k kept) {
	s := k.start(t, "", "-sign-on", "none")
	i := newImage("refused")
	content := sign(t, "bob", s.address+"/ns/app:v1", i.digest())
	const refusals = 30
	for range refusals {
		s.upload(t, "ns/app", i.digest(), content).want(t, 403)
	}
	s.stop(t)
	s = s.again(t, append(k.flags(t, ""), "-sign-on", "none")...)
	singly, rest := 0, 0
	for _, r := range s.audited(t) {
		if r.Image.Digest == i.digest() && r.Action == "refused" && r.Fingerprint == fingerprintOf(t, "bob") {
			singly++
		}
		if n := 0; r.Image.Digest == "" && r.Action == "refused" && r.Subject == "anonymous" {
			_, _ = fmt.Sscanf(r.Reason, "%d more in a minute", &n)
			rest += n
		}
	}
	if singly < 10 || singly > 20 || singly+rest != refusals { // a minute may end meanwhile
		t.Errorf("of %d refusals %d are recorded and %d counted, want 10 and the rest", refusals, singly, rest)
	}
}

// TestNothingUnrecorded has a database that takes no records: then nothing else happens either.
func TestNothingUnrecorded(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	k := inDatabase(t)
	s := k.start(t, "admission: {foreign: drop}\nretention: {deleted: drop, after: 0s}\n")
	sql := func(statement string) {
		t.Helper()
		if _, err := k.database.Psql("postgres", statement); err != nil {
			t.Fatal(err)
		}
	}
	i, j := newImage("recorded"), newImage("deleted")
	reference, byDigest := s.address+"/ns/app:v1", s.address+"/ns/app@"+i.digest()
	alice := sign(t, "alice", reference, i.digest())
	s.push(t, i, "ns/app", "v1")
	s.push(t, j, "ns/gone", "v1")
	out := s.cli(t, 0, "withdraw", "-key", fingerprintOf(t, "carol"), "-reason", "lost", byDigest)
	lift := regexp.MustCompile(`countersign lift (\S+)`).FindStringSubmatch(out)[1]
	before := s.told(t)

	sql("ALTER TABLE records ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
	s.upload(t, "ns/app", i.digest(), alice).within(t, 500, 503)
	s.upload(t, "ns/app", i.digest(), sign(t, "bob", reference, i.digest())).within(t, 500, 503) // to be recorded as dropped
	s.cli(t, 1, "withdraw", "-image", "-reason", "bad", byDigest)
	s.cli(t, 1, "lift", lift)
	for _, blob := range i.blobs {
		s.pushBlob(t, "ns/new", blob)
	}
	s.do(t, "PUT", "/v2/ns/new/manifests/v1", string(i.manifest), "Content-Type: "+i.mediaType).within(t, 500, 503) // a push that would be signed
	s.do(t, "POST", "/api/v1/import", fmt.Sprintf(`{"repository":"ns/app","digest":%q,"signatures":[%q]}`, i.digest(), base64.StdEncoding.EncodeToString(alice))).within(t, 500, 503)
	s.deletes(t, "ns/gone", j.digest())
	eventually(t, "the drop is tried", func() bool { return strings.Contains(s.cli(t, 0, "queue", "-json"), `"problem"`) })
	if got := s.told(t); got != before {
		t.Errorf("without a record there is now\n%s\nand there was\n%s", got, before)
	}

	sql("ALTER TABLE records DROP CONSTRAINT full_disk")
	s.upload(t, "ns/app", i.digest(), alice).want(t, 201)
	s.cli(t, 0, "lift", lift)
	eventually(t, "the drop is done", func() bool { return len(s.signatures(t, "ns/gone", j.digest())) == 0 })
}

// told is what is served and withdrawn, and by what records.
func (s *server) told(t testing.TB) (all string) {
	t.Helper()
	for _, args := range [][]string{{"list", "-json"}, {"list", "-withdrawn", "-json"}, {"audit", "-json"}} {
		all += s.cli(t, 0, args[0], args[1:]...)
	}
	return all
}
