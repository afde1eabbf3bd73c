package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// newDatabase starts a cluster with our schema in its database postgres.
func newDatabase(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := newCluster(t)
	migrate(t, c)
	return c
}

func newCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start()
	if errors.Is(err, cluster.ErrMissing) {
		lack(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func migrate(t *testing.T, c *cluster.Cluster, more ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := command(ctx, append([]string{"migrate", "-database-url", c.URL("postgres")}, more...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	return string(out)
}

// on starts a server on a database, which trusts a crowd.
func (c *crowd) on(t *testing.T, url string, flags ...string) *server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	c.join(t, data)
	return startIn(t, data, append([]string{"-database-url", url, "-host", crowdHost, "-sign-on", "none"}, flags...)...)
}

// TestReplicas has two servers on one database take uploads of one image by four keys at once: as
// many are taken as the limits allow, and both serve the same.
func TestReplicas(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 4)
	servers := []*server{c.on(t, d.URL("postgres")), c.on(t, d.URL("postgres"))}
	digest := newImage("replicas").digest()
	const uploads, limit = 100, 64
	contents := make([][]byte, uploads)
	for n := range contents {
		var err error
		if contents[n], err = c.sign(n, digest); err != nil {
			t.Fatal(err)
		}
	}
	statuses := make([]int, uploads)
	var all sync.WaitGroup
	for n, content := range contents {
		all.Go(func() {
			var err error
			if statuses[n], err = c.put(t.Context(), servers[n%2].address, digest, content); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	count := map[int]int{}
	for _, status := range statuses {
		count[status]++
	}
	if count[201] != limit || count[409] != uploads-limit {
		t.Errorf("%d uploads at once by four keys through two servers are answered %v, want %d times 201 and the rest 409", uploads, count, limit)
	}
	if one, other := servers[0].crowdList(t, digest), servers[1].crowdList(t, digest); len(one) != limit || !slices.EqualFunc(one, other, func(a, b entry) bool { return a.Name == b.Name }) {
		t.Errorf("the servers list %d and %d signatures, want the same %d", len(one), len(other), limit)
	}
	for _, s := range servers {
		c.check(t, s)
	}
	out, err := command(t.Context(), "fsck", "-data", servers[0].data, "-database-url", d.URL("postgres")).CombinedOutput()
	if want := fmt.Sprintf("%d signatures of 1 images: 0 wrong", limit); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("fsck: %v, %s, want %q", err, out, want)
	}
}

// TestMigrate is what a person meets who has a database: none of our schema, several migrations at
// once, one that was cut, and a later release's.
func TestMigrate(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 1)
	sql := func(statement string) {
		t.Helper()
		if _, err := d.Psql("postgres", statement); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(words ...string) {
		t.Helper()
		shows(t, refusal(t, "serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0", "-database-url", d.URL("postgres")), words...)
	}
	sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
	refused("it has none yet", "hint: countersign migrate")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { migrate(t, d) })
	}
	all.Wait()
	shows(t, migrate(t, d), "The schema is 2 already.")
	shows(t, migrate(t, d, "-database-url", "postgres://pool@127.0.0.1:1/nothing", "-direct-url", d.URL("postgres")), "The schema is 2 already.")
	s := c.on(t, d.URL("postgres"))
	digest := newImage("migrate").digest()
	if status, err := c.put(t.Context(), s.address, digest, c.mustSign(t, digest)); err != nil || status != 201 {
		t.Fatalf("an upload is answered %d, %v, want 201", status, err)
	}
	s.stop(t)

	sql("UPDATE schema_migrations SET dirty = true")
	refused("was cut", "countersign migrate")
	shows(t, refusal(t, "migrate", "-database-url", d.URL("postgres")), "was cut", "countersign migrate -force 1")
	shows(t, migrate(t, d, "-force", "1"), "is 2 now")
	c.check(t, c.on(t, d.URL("postgres")))

	sql("UPDATE schema_migrations SET version = 3")
	c.check(t, c.on(t, d.URL("postgres"))) // which it allows
	sql("UPDATE schema_compatibility SET oldest = 3")
	refused("schema 3", "later release")
}

// TestDatabaseSecrets looks for a password where none may be, and for what stops a start.
func TestDatabaseSecrets(t *testing.T) {
	t.Parallel()
	const secret = "geheim"
	file := filepath.Join(t.TempDir(), "url")
	write(t, file, "postgres://u:"+secret+"%zz@h/x\n")
	for _, test := range []struct{ args, words []string }{
		{[]string{"-database-url", "postgres://u:" + secret + "%zz@127.0.0.1:1/x"}, []string{"store.database", "hint:"}},
		{[]string{"-database-file", file}, []string{file, "hint:"}},
		{[]string{"-database-url", "postgres://u:" + secret + "@h/x", "-database-file", file}, []string{"store.databaseFile", "leave one out"}},
		{[]string{"-config", config(t, "store: {directory: x, database: 'postgres://u:"+secret+"@h/x'}\n")}, []string{"store.directory", "leave one out"}},
	} {
		out := refusal(t, append([]string{"serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0"}, test.args...)...)
		shows(t, out, test.words...)
		if strings.Contains(out, secret) {
			t.Errorf("%v shows the password: %s", test.args, out)
		}
	}
	help := command(t.Context(), "serve", "-h")
	help.Env = append(help.Env, "COUNTERSIGN_DATABASE_URL=postgres://u:"+secret+"@h/x")
	if out, err := help.CombinedOutput(); err != nil || strings.Contains(string(out), secret) {
		t.Errorf("serve -h: %v, %s; want help without the password", err, out)
	}
	// A database that is away is logged, and named without its password.
	s := startIn(t, filepath.Join(t.TempDir(), "data"), "-database-url", "postgres://u:"+secret+"@127.0.0.1:1/x", "-sign-on", "none")
	s.ready(t, 503)
	if log := s.tells(t, "the database is away"); strings.Contains(log, secret) {
		t.Errorf("the log has the password: %s", log)
	}
}

// TestNoKeyWithDatabase holds a server with a database to making itself no key.
func TestNoKeyWithDatabase(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	s := start(t, "-database-url", d.URL("postgres"))
	i := newImage("no key")
	s.push(t, i, "ns/app", "v1")
	if got := s.signatures(t, "ns/app", i.digest()); len(got) != 0 {
		t.Errorf("%d signatures, want none: there is no key", len(got))
	}
	if found, err := filepath.Glob(filepath.Join(s.data, "keys", "*")); err != nil || len(found) != 0 {
		t.Errorf("keys are %q, %v, want none", found, err)
	}
	s.tells(t, "nothing is signed")
}

// TestReadsAfterAnother reads from one server what another has answered 201 to: never is anything
// missing.
func TestReadsAfterAnother(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 4)
	servers := []*server{c.on(t, d.URL("postgres")), c.on(t, d.URL("postgres"))}
	uploads, reads := 100, 10
	if soak() {
		uploads, reads = 2000, 50
	}
	for n := range uploads {
		digest := newImage(fmt.Sprint("read ", n/24)).digest()
		content, err := c.sign(n, digest)
		if err != nil {
			t.Fatal(err)
		}
		if status, err := c.put(t.Context(), servers[n%2].address, digest, content); err != nil || status != 201 {
			t.Fatalf("upload %d: %d, %v, want 201", n, status, err)
		}
		if stale := c.readAll(t, servers[(n+1)%2].address, digest, reads, n%24+1); stale > 0 {
			t.Fatalf("%d of %d reads that began after upload %d was answered do not have it", stale, reads, n)
		}
	}
	t.Logf("%d reads, each begun after the other server's 201; none was stale", uploads*reads)
}

// readAll reads an image from several sides at once and counts the answers that have not so many.
func (c *crowd) readAll(t *testing.T, address, digest string, reads, want int) (stale int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			for range reads / 5 {
				got, err := c.countAt(t.Context(), address, digest)
				if err != nil {
					t.Error(err)
				}
				if got < want {
					mu.Lock()
					stale++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return stale
}

// TestDatabaseAway is an outage as clients see it, with a restart of the server in the middle.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 1)
	nodes := filepath.Join(t.TempDir(), "nodes.json")
	write(t, nodes, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"%s/open":[{"type":"insecureAcceptAnything"}]}}}`, crowdHost))
	flags := []string{"-config", config(t, fmt.Sprintf("store: {keep: %s}\nnodes: {all: %s}\n", filepath.Join(t.TempDir(), "kept"), nodes))}
	s := c.on(t, d.URL("postgres"), flags...)
	known, unknown := newImage("known").digest(), newImage("unknown").digest()
	content := c.mustSign(t, known)
	put := func(digest string, content []byte, want int) {
		t.Helper()
		if status, err := c.put(t.Context(), s.address, digest, content); err != nil || status != want {
			t.Errorf("an upload is answered %d, %v, want %d", status, err, want)
		}
	}
	put(known, content, 201)
	s.crowdList(t, known)
	s.ready(t, 200)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	outage := func() {
		t.Helper()
		if got := s.crowdList(t, known); len(got) != 1 || string(got[0].Content) != string(content) {
			t.Errorf("while the database is away what is known has %d signatures, want 1", len(got))
		}
		s.do(t, "GET", lookaside(crowdRepository, known)+"/signature-1", "", "Host: "+crowdHost).want(t, 200)
		s.do(t, "GET", lookaside(crowdRepository, known)+"/signature-2", "", "Host: "+crowdHost).want(t, 404)
		s.do(t, "GET", extension(crowdRepository, unknown), "", "Host: "+crowdHost).says(t, "Retry-After", "2").refused(t, 429, "TOOMANYREQUESTS")
		s.do(t, "GET", lookaside(crowdRepository, unknown)+"/signature-1", "", "Host: "+crowdHost).refused(t, 503, "UNAVAILABLE")
		if got := s.do(t, "GET", extension("open/app", unknown), "", "Host: "+crowdHost).want(t, 200).body; strings.TrimSpace(got) != `{"signatures":[]}` {
			t.Errorf("where no node asks for a signature: %s, want an empty list", got)
		}
		put(unknown, c.mustSign(t, unknown), 503)
		s.ready(t, 200)
	}
	outage()
	s.stop(t)
	s = s.again(t, append([]string{"-database-url", d.URL("postgres"), "-host", crowdHost, "-sign-on", "none"}, flags...)...)
	outage()
	all, _ := s.scrape(t)
	for _, name := range []string{"countersign_store_away", "countersign_stale_answers_total", "countersign_unsigned_answers_total"} {
		if all.sum(name) == 0 {
			t.Errorf("%s is 0 in an outage", name)
		}
	}
	if err := d.Serve(); err != nil {
		t.Fatal(err)
	}
	put(unknown, c.mustSign(t, unknown), 201)
	c.check(t, s)
}

// TestRestoredElsewhere starts a server on a dump from another cluster, with a trail that takes it a while to renumber.
// With a withdrawals file, which needs the trail, nobody is answered before; without one images are.
func TestRestoredElsewhere(t *testing.T) {
	t.Parallel()
	d, c := newDatabase(t), newCrowd(t, 1)
	url := d.URL("postgres")
	psql := func(sql string) string {
		t.Helper()
		out, err := d.Psql("postgres", sql)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	psql(`INSERT INTO records (xid, id, time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason)
		SELECT (1000000000 + n)::text::xid8, n, now(), 'admitted', 'token:ci', '', 'registry.example', 'app', '', '{}', '', '', n FROM generate_series(1, 20000) n`)
	holder, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(context.WithoutCancel(t.Context()))
	held, err := holder.Begin(t.Context())
	if err == nil {
		_, err = held.Exec(t.Context(), "SELECT FROM records WHERE reason = '15000' FOR UPDATE")
	}
	if err != nil {
		t.Fatal(err)
	}
	open, waits := c.on(t, url), filepath.Join(t.TempDir(), "data")
	c.join(t, waits)
	closed := launch(t, waits, func(*exec.Cmd) {}, "-database-url", url, "-host", crowdHost, "-sign-on", "none",
		"-config", config(t, "withdrawals: "+filepath.Join(t.TempDir(), "withdrawals")+"\n"))
	eventually(t, "both servers have waited for longer than for a short trail", func() bool {
		return psql(`SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND now() - query_start > interval '1500 ms'`) == "2"
	})
	open.ready(t, 200)
	digest := newImage("restored elsewhere").digest()
	content := c.mustSign(t, digest)
	if n, err := c.countAt(t.Context(), open.address, digest); err != nil || n != 0 {
		t.Errorf("a read meanwhile: %d signatures, %v, want none", n, err)
	}
	if status, err := c.put(t.Context(), open.address, digest, content); err != nil || status != 503 {
		t.Errorf("an upload meanwhile: %d, %v, want 503", status, err)
	}
	if log := closed.stderr.String(); closed.gone.Err() != nil || strings.Contains(log, `"msg":"listening"`) {
		t.Errorf("the server with a withdrawals file has not waited for the trail:\n%s", log)
	}
	if err := held.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed.locate(t)
	closed.ready(t, 200)
	eventually(t, "an upload is taken", func() bool {
		status, err := c.put(t.Context(), open.address, digest, content)
		return err == nil && status == 201
	})
	if got := psql("SELECT count(*) FILTER (WHERE xid <> '0'), count(*) FILTER (WHERE xid = '0' AND id::text <> reason) FROM records"); got != "1|0" {
		t.Errorf("records of this cluster, and those that are not in their place: %s, want 1|0", got)
	}
}
