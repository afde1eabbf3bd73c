package postgres_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// watched returns a store of one connection with a wire on it, and another of the same database.
func watched(t *testing.T) (w *wire, s, other *postgres.Store) {
	t.Helper()
	name, direct := database(t, template)
	w, url := between(t, name)
	return w, open(t, options(url+" pool_max_conns=1")), open(t, options(direct))
}

// What every read asks the database parses once on a connection. Where it no longer can answer it so, it
// parses it again, and nobody notices.
func TestPrepared(t *testing.T) {
	t.Parallel()
	const text = "FROM images WHERE ctid"
	w, s, other := watched(t)
	do(t, s, adding(image("app"), 1))
	read := func(want int) {
		t.Helper()
		if n := len(get(t, s, image("app")).Signatures); n != want {
			t.Errorf("%d signatures, want %d", n, want)
		}
	}
	read(1) // by its name
	w.parses(text)
	for range 10 {
		read(1)
	}
	if n := w.parses(text); n != 0 {
		t.Errorf("in ten reads the database has parsed the query %d times", n)
	}
	do(t, other, adding(image("app"), 2))
	read(2)
	for _, change := range []string{"DEALLOCATE ALL", "ALTER TABLE images ALTER COLUMN state TYPE varchar(100)"} {
		s.Reset()
		read(2) // on a new connection
		if n, err := s.OnEach(t.Context(), change); n != 1 || err != nil {
			t.Fatalf("%s on %d connections: %v", change, n, err)
		}
		w.parses(text)
		read(2)
		read(2)
		if n := w.parses(text); n != 2 {
			t.Errorf("after %s the database has parsed the query %d times in two reads", change, n)
		}
	}
}

// What reads ask of images that are not known, or not there, is parsed once on a connection. Where it no longer can be
// answered so, the read is made on another connection, also where nothing else is tried again, and nobody notices.
func TestPreparedReads(t *testing.T) {
	t.Parallel()
	name, direct := database(t, template)
	w, url := between(t, name)
	o := options(url + " pool_max_conns=1 connect_timeout=60")
	o.Retries = -1
	s, other := open(t, o), open(t, options(direct))
	at := 0
	absent := func() {
		t.Helper()
		if set := get(t, s, image("none")); set.Version != 0 {
			t.Errorf("an image that is not there has version %d", set.Version)
		}
	}
	unknown := func() {
		t.Helper()
		at++
		i := image(fmt.Sprint("app-", at))
		do(t, other, adding(i, 1))
		if n := len(get(t, s, i).Signatures); n != 1 {
			t.Errorf("%s has %d signatures, want 1", i, n)
		}
	}
	parses := func(when string, want int) {
		t.Helper()
		if n := w.parses("FROM images i\n\t"); n < want || want == 0 && n > 0 {
			t.Errorf("%s: the database has parsed what looks by name %d times, want %d", when, n, want)
		}
	}
	absent()
	unknown()
	parses("on a new connection", 1)
	for range 5 {
		absent()
		unknown()
	}
	parses("in five rounds of reads", 0)
	for _, then := range []string{"DEALLOCATE ALL", "ALTER TABLE images ALTER COLUMN state TYPE varchar(100)", "ALTER TABLE images ALTER COLUMN state TYPE varchar(200)"} {
		for _, first := range []func(){absent, unknown} {
			if n, err := s.OnEach(t.Context(), then); n != 1 || err != nil {
				t.Fatalf("%s on %d connections: %v", then, n, err)
			}
			first()
			parses("after "+then, 1)
			absent()
			unknown()
			parses("later", 0)
			then = strings.Replace(then, "0)", "1)", 1)
		}
	}
}

// A change whose image another has changed reads what it has within its transaction. That the connection has lost
// how to ask for it loses no change.
func TestPreparedContent(t *testing.T) {
	t.Parallel()
	_, s, other := watched(t)
	do(t, s, adding(image("app"), 1))
	for n, then := range []string{"DEALLOCATE countersign_content", "DEALLOCATE countersign_named", "DEALLOCATE ALL"} {
		do(t, other, adding(image("app"), 2+2*n))
		if n, err := s.OnEach(t.Context(), then); n != 1 || err != nil {
			t.Fatalf("%s on %d connections: %v", then, n, err)
		}
		if got := len(do(t, s, adding(image("app"), 3+2*n)).Signatures); got != 3+2*n {
			t.Errorf("after %s there are %d signatures, want %d", then, got, 3+2*n)
		}
	}
}

// Nothing reads all of a table or of an index, also not while they are so small that it would be the least: what is
// prepared then stays as it is when they have grown.
func TestPlans(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	url += " pool_max_conns=1"
	s, other := open(t, options(url)), open(t, options(url))
	do(t, other, adding(image("first"), 1))
	for _, table := range []string{"images", "signatures", "withdrawals", "tasks", "records"} {
		psql(t, shared, name, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)")
		psql(t, shared, name, "VACUUM ANALYZE "+table)
	}
	s.Reset()
	other.Reset()
	at := 0
	ask := func() {
		t.Helper()
		at++
		i := image(fmt.Sprint("app-", at))
		c := adding(i, 1)
		c.Then = []store.Task{{Key: fmt.Sprint("task-", at), Kind: "sign", Image: i}}
		do(t, other, c)
		get(t, s, i)
		get(t, s, i)
		get(t, s, image("none"))
		withdrawn := store.Withdrawal{ID: fmt.Sprint(at), Scope: store.ScopeSignature, Name: c.Add[0].Name, Reason: "lost"}
		do(t, s, store.Change{Image: i, Withdraw: []store.Withdrawal{withdrawn}, Record: store.Record{Action: store.Withdrawn}})
		get(t, other, i)
		taken, err := s.Take(t.Context(), time.Minute)
		if err == nil {
			taken.State = store.Done
			_, err = s.Do(t.Context(), store.Change{Image: i, Ends: &taken})
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []store.Filter{
			{Kind: store.Signatures, Host: i.Host, Repository: i.Repository}, {Kind: store.Withdrawals, Host: i.Host, Repository: i.Repository},
			{Kind: store.Tasks, State: store.Queued},
		} {
			if _, _, err := s.List(t.Context(), f, "", 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 10 {
		ask()
	}
	const rounds, grown = 10, 20_000
	for _, table := range []string{"images (host, repository, digest, version, serial, state, number) SELECT 'grown', 'r', g::text, 1, 1, g::text, -g",
		"signatures (image, host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content) SELECT -g, 'grown', 'r', g::text, 1, '', '', '', '', '', false, '', '', now(), now(), ''",
		"withdrawals (host, repository, digest, serial, id, scope, name, identity, key, reason, subject, time) SELECT 'grown', 'r', g::text, 1, '', '', '', '', '', '', '', now()"} {
		psql(t, shared, name, "INSERT INTO "+table+fmt.Sprintf(" FROM generate_series(1, %d) g", grown))
	}
	for range rounds {
		ask()
	}
	for _, s := range []*postgres.Store{s, other} { // what they have counted is told as their connections end
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all connections have ended", func() bool {
		return psql(t, shared, name, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()") == "0"
	})
	const scans = "SELECT string_agg(relname || ' ' || seq_scan, ', ' ORDER BY relname) FROM pg_stat_user_tables WHERE seq_scan > 0 AND relname NOT LIKE 'schema%'"
	if found := psql(t, shared, name, scans); found != "" {
		t.Errorf("tables are read as a whole: %s times", found)
	}
	const entries = "SELECT string_agg(indexrelname || ' ' || idx_tup_read, ', ' ORDER BY indexrelname) FROM pg_stat_user_indexes WHERE idx_tup_read >= %d"
	if found := psql(t, shared, name, fmt.Sprintf(entries, grown)); found != "" {
		t.Errorf("indexes are read as a whole: of %d rounds with %d entries they have returned: %s", rounds, grown, found)
	}
	if found := psql(t, shared, name, "SELECT count(*) FROM pg_stat_user_indexes WHERE idx_scan > 0"); found < "5" {
		t.Errorf("%s indexes were used, want five at least", found)
	}
}

// What every change asks is parsed once on a connection, too. A change that the database no longer takes so is
// made on another connection, once.
func TestPreparedWrites(t *testing.T) {
	t.Parallel()
	const text = "INSERT INTO signatures"
	w, s, other := watched(t)
	change := func(n int) {
		t.Helper()
		do(t, s, adding(image("app"), n))
		if got := len(get(t, other, image("app")).Signatures); got != n {
			t.Errorf("after change %d there are %d signatures", n, got)
		}
	}
	change(1)
	if n := w.parses(text); n != 1 {
		t.Errorf("a new connection has had it parsed %d times", n)
	}
	for n := range 5 {
		change(2 + n)
	}
	if n := w.parses(text); n != 0 {
		t.Errorf("in five changes the database has parsed it %d times", n)
	}
	for at, then := range []string{"DEALLOCATE ALL", "ALTER TABLE images ALTER COLUMN state TYPE varchar(100)"} {
		if n, err := s.OnEach(t.Context(), then); n != 1 || err != nil {
			t.Fatalf("%s on %d connections: %v", then, n, err)
		}
		change(7 + 2*at)
		change(8 + 2*at)
		if n := w.parses(text); n != 1 {
			t.Errorf("after %s the database has parsed it %d times in two changes, want once, on a new connection", then, n)
		}
	}
}

// Where all connections have lost what was prepared, no change fails for it, and nobody is called.
func TestPreparedEverywhere(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	var log strings.Builder
	o := options(url + " pool_max_conns=16")
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, o)
	if err := s.Connect(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	n, err := s.OnEach(t.Context(), "DEALLOCATE ALL")
	if n < 4 || err != nil {
		t.Fatalf("%d connections: %v; want more than a change has attempts", n, err)
	}
	do(t, s, adding(image("app"), 1))
	if log.Len() > 0 {
		t.Errorf("of a database that is there it is logged: %s", log.String())
	}
}

// A connection on which nothing is answered once it is there, as by a pooler whose database is away, is
// given up.
func TestPrepareHangs(t *testing.T) {
	t.Parallel()
	name, _ := database(t, template)
	w, url := between(t, name)
	o := options(url + " pool_max_conns=1 connect_timeout=1")
	o.Timeout = 20 * time.Second
	s := open(t, o)
	do(t, s, adding(image("app"), 1))
	s.Reset()
	hangs := w.hangNext(t, "pg_backend_pid")
	if n := len(get(t, s, image("app")).Signatures); n != 1 {
		t.Errorf("%d signatures, want 1", n)
	}
	select {
	case <-hangs:
	default:
		t.Error("the new connection has asked nothing")
	}
}
