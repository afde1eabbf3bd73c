package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// life is all that a server tells of what it keeps.
func (s *server) life(t testing.TB) string {
	t.Helper()
	all := ""
	for _, args := range [][]string{{"list", "-json"}, {"list", "-withdrawn", "-json"}, {"audit", "-json"}, {"queue", "-json"}} {
		out := s.cli(t, 0, args[0], args[1:]...)
		if out == "" {
			t.Fatalf("%q tells nothing, and nothing could be lost", args)
		}
		all += out
	}
	return all
}

var instants = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)

// microseconds cuts times as a database does.
func microseconds(s string) string {
	return instants.ReplaceAllStringFunc(s, func(instant string) string {
		at, err := time.Parse(time.RFC3339Nano, instant)
		if err != nil {
			return instant
		}
		return at.Truncate(time.Microsecond).Format(time.RFC3339Nano)
	})
}

// TestMove moves a store into a database and back. Listings, withdrawals, trail and queue are what
// they were, a node pulls as before, and in between everything of a signature's life works there.
func TestMove(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	d := newDatabase(t)
	retention := config(t, "retention: {deleted: drop, after: 24h}\n")
	s := trusting(t, "-config", retention)
	i, j := newImage("moved"), newImage("moved and withdrawn")
	reference := s.address + "/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	s.push(t, j, "ns/app", "v2")
	for range 3 {
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	}
	s.upload(t, "ns/app", i.digest(), sign(t, "bob", reference, i.digest())).want(t, 403)
	name := s.signatures(t, "ns/app", i.digest())[2].Name
	s.cli(t, 0, "withdraw", "-signature", name, "-reason", "x", s.address+"/ns/app@"+i.digest())
	s.cli(t, 0, "withdraw", "-image", "-reason", "y", s.address+"/ns/app@"+j.digest())
	s.push(t, j, "ns/gone", "v1")
	s.deletes(t, "ns/gone", j.digest())
	want := microseconds(s.life(t))
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, reference))

	directory := filepath.Join(s.data, "signatures")
	url := filepath.Join(t.TempDir(), "url")
	write(t, url, d.URL("postgres")+"\n")
	shows(t, refusal(t, "move", "-from", directory, "-to", "@"+url), "in use by process")
	s.stop(t)
	moved := func(from, to string) {
		t.Helper()
		out, err := command(t.Context(), "move", "-from", from, "-to", to).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "signatures and 2 withdrawals of 3 images, 1 tasks, ") || !strings.Contains(string(out), "moved and compared") {
			t.Fatalf("move: %v\n%s", err, out)
		}
	}
	moved(directory, "@"+url)
	moved(directory, "@"+url) // again, with nothing left to do
	back := filepath.Join(t.TempDir(), "back")
	moved("@"+url, back)

	inDatabase := s.again(t, "-config", retention, "-database-file", url)
	if got := microseconds(inDatabase.life(t)); got != want {
		t.Errorf("in the database there is\n%s\nwant\n%s", got, want)
	}
	works(t)(n.pull(t, reference))
	inDatabase.stop(t)
	inBack := s.again(t, "-config", config(t, "retention: {deleted: drop, after: 24h}\nstore: {directory: "+back+"}\n"))
	if got := microseconds(inBack.life(t)); got != want {
		t.Errorf("in the directory it came back to there is\n%s\nwant\n%s", got, want)
	}
	inBack.upload(t, "ns/app", i.digest(), sign(t, "alice", reference, i.digest())).want(t, 201)
	inBack.stop(t)
	shows(t, refusal(t, "move", "-from", back, "-to", directory), "something of its own") // the other one has less
	shows(t, refusal(t, "move", "-from", filepath.Join(back, "none"), "-to", directory), "signatures.db")
	shows(t, refusal(t, "move", "-from", back), "-to")
}

// TestMoveKilled kills a move again and again, from a directory into a database and from there into
// another directory. Run once more, each ends with everything.
func TestMoveKilled(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	n, parts := 100, []int64{2}
	if soak() {
		n, parts = 5000, []int64{16, 8, 4, 2}
	}
	d := newDatabase(t)
	retention := config(t, "retention: {deleted: drop, after: 24h}\n")
	s := trusting(t, "-config", retention, "-sign-on", "none")
	tree := t.TempDir()
	newMill(t, s.data).tree(t, tree, s.address, n)
	s.cli(t, 0, "import", tree)
	i := newImage("moved by a killed move")
	s.push(t, i, "ns/app", "v1")
	for range 3 {
		s.upload(t, "ns/app", i.digest(), sign(t, "alice", s.address+"/ns/app:v1", i.digest())).want(t, 201)
	}
	s.cli(t, 0, "withdraw", "-signature", s.signatures(t, "ns/app", i.digest())[0].Name, "-reason", "x", s.address+"/ns/app@"+i.digest())
	s.deletes(t, "ns/app", i.digest())
	want := microseconds(s.life(t))
	s.stop(t)

	directory, back := filepath.Join(s.data, "signatures"), filepath.Join(t.TempDir(), "back")
	file := filepath.Join(back, "signatures.db")
	rows := func(table string, least int) func() bool {
		return func() bool {
			out, err := d.Psql("postgres", "SELECT count(*) >= "+fmt.Sprint(least)+" FROM "+table)
			return err == nil && out == "t"
		}
	}
	whole, err := os.Stat(filepath.Join(directory, "signatures.db"))
	if err != nil {
		t.Fatal(err)
	}
	size := func(part int64) func() bool {
		return func() bool {
			info, err := os.Stat(file)
			return err == nil && info.Size() >= whole.Size()/part
		}
	}
	url := d.URL("postgres")
	var there, backAgain []func() bool
	for _, part := range parts {
		there = append(there, rows("signatures", n/int(part)), rows("records", n/int(part)))
		backAgain = append(backAgain, size(4*part), size(part))
	}
	for _, way := range []struct {
		from, to string
		at       []func() bool
	}{
		{directory, url, there},
		{url, back, backAgain},
	} {
		for _, at := range way.at {
			killedAt(t, command(context.Background(), "move", "-from", way.from, "-to", way.to), at)
		}
		out, err := command(t.Context(), "move", "-from", way.from, "-to", way.to).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "moved and compared") {
			t.Fatalf("the last move: %v\n%s", err, out)
		}
		t.Logf("%s", out)
	}
	for name, flags := range map[string][]string{
		"the database":  {"-config", retention, "-database-url", url},
		"the directory": {"-config", config(t, "retention: {deleted: drop, after: 24h}\nstore: {directory: "+back+"}\n")},
	} {
		moved := s.again(t, append(flags, "-sign-on", "none")...)
		if got := microseconds(moved.life(t)); got != want {
			t.Errorf("in %s there is\n%s\nwant\n%s", name, tail(got, 5000), tail(want, 5000))
		}
		moved.stop(t)
	}
}

// TestLifeInDatabase has a signature's whole life with the other store: in, listed, out, withdrawn,
// released, checked.
func TestLifeInDatabase(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	d := newDatabase(t)
	data := filepath.Join(t.TempDir(), "data")
	trust(t, data, "alice")
	ledger := filepath.Join(t.TempDir(), "withdrawals")
	settings := config(t, "advertise: false\nwithdrawals: "+ledger+"\nrelease: [ns/app]\nretention: {deleted: drop, after: 0s}\nstore: {database: '"+d.URL("postgres")+"'}\n")
	s := startIn(t, data, "-config", settings, "-sign-on", "none")
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	images := newMill(t, s.data).tree(t, from, s.address, 100)
	i := newImage("life in a database")
	reference := s.address + "/ns/app:v1"
	s.push(t, i, "ns/app", "v1")
	for index := 1; index <= 3; index++ {
		put(t, from, "ns/app", i.digest(), index*2, sign(t, "alice", reference, i.digest()))
	}
	shows(t, s.cli(t, 0, "import", from), "103 signatures imported")
	shows(t, s.cli(t, 0, "import", from), "103 here already")
	shows(t, s.cli(t, 0, "export", "-host", s.address, to), "103 signatures of 51 images")
	got := files(t, to)
	for name, content := range images {
		if got[name] != content {
			t.Fatalf("%s did not come out as it went in", name)
		}
	}
	n := newNode(t).require(t, s.address, writeKey(t, "alice")).lookaside(t, s.address, "http://"+s.address+"/sigstore")
	works(t)(n.pull(t, reference))
	if lines := strings.Count(s.cli(t, 0, "list", "-key", fingerprintOf(t, "alice")), "\n"); lines != 1+3 {
		t.Errorf("list -key has %d lines, want a head and 3", lines)
	}
	list := s.signatures(t, "ns/app", i.digest())
	s.cli(t, 0, "withdraw", "-signature", list[0].Name, "-reason", "x", s.address+"/ns/app@"+i.digest())
	s.wantServed(t, "ns/app", i.digest())
	works(t)(n.pull(t, reference))
	out := s.cli(t, 0, "withdraw", "-image", "-reason", "a bad build", s.address+"/ns/app@"+i.digest())
	fails(t, "rejected")(n.pull(t, reference))
	eventually(t, "the file follows", func() bool { return strings.Contains(read(t, ledger), "a bad build") })
	s.cli(t, 0, "lift", strings.TrimSpace(out[strings.LastIndex(out, " "):]))
	s.upload(t, "ns/app", i.digest(), list[1].Content).want(t, 201)
	works(t)(n.pull(t, reference))
	s.deletes(t, "ns/app", "v1")
	eventually(t, "the deleted tag's signatures are dropped", func() bool { return len(s.signatures(t, "ns/app", i.digest())) == 0 })
	shows(t, s.cli(t, 0, "audit"), "imported by", "withdrawn by", "lifted by", "dropped by countersign")
	s.stop(t)
	checked, err := command(t.Context(), "fsck", "-config", settings, "-data", data).CombinedOutput()
	if err != nil || !strings.Contains(string(checked), "100 signatures of 50 images: 0 wrong") {
		t.Errorf("fsck: %v\n%s", err, checked)
	}
}
