package postgres_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

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
