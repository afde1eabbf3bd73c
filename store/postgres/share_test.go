package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// An answer is what became of a change.
type answer struct {
	set store.Set
	err error
}

// together makes changes that come together. What each is answered comes on a channel of its own.
func together(t *testing.T, s *postgres.Store, changes ...store.Change) (answers []chan answer) {
	t.Helper()
	var until []time.Time
	for range changes {
		answers, until = append(answers, make(chan answer, 1)), append(until, time.Now().Add(patience))
	}
	err := s.Write(until, changes, func(n int, set store.Set, err error) { answers[n] <- answer{set, err} })
	if err != nil {
		t.Fatal(err)
	}
	return answers
}

// wants has one signature, or fails so.
func wants(t *testing.T, what string, got answer, failure error) {
	t.Helper()
	if !errors.Is(got.err, failure) || failure == nil && len(got.set.Signatures) != 1 {
		t.Errorf("%s: %d signatures, %v, want 1, %v", what, len(got.set.Signatures), got.err, failure)
	}
}

// Changes that come together share a transaction, each is decided by itself, and what is refused is neither
// there nor keeps the others.
func TestShared(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	do(t, s, adding(image("stopped"), 0))
	stopped := store.Change{Image: image("stopped"), Withdraw: []store.Withdrawal{{ID: "w", Scope: store.ScopeImage, Reason: "lost"}}, Record: store.Record{Action: store.Withdrawn}}
	do(t, s, stopped)
	ends := adding(image("leased"), 1)
	ends.Ends = &store.Task{Key: "none", Lease: "ours", State: store.Done}
	answers := together(t, s, adding(image("a"), 1), adding(image("stopped"), 1), ends, adding(image("b"), 1), adding(image("c"), 1))
	for n, failure := range []error{nil, store.ErrWithdrawn, store.ErrLease, nil, nil} {
		wants(t, fmt.Sprint("change ", n), <-answers[n], failure)
	}
	const perTransaction = "SELECT string_agg(n::text, ' ' ORDER BY xid) FROM (SELECT xid, count(*) AS n FROM records GROUP BY xid) x"
	if got := psql(t, shared, name, perTransaction); got != "1 1 3" {
		t.Errorf("records by transaction: %s, want 1 1 3", got)
	}
	if got := len(get(t, s, image("leased")).Signatures); got != 0 {
		t.Errorf("what was refused has %d signatures", got)
	}
	answers = together(t, s, adding(image("stopped"), 2))
	wants(t, "all refused", <-answers[0], store.ErrWithdrawn)
	for n, got := range together(t, s, adding(image("a"), 1), adding(image("d"), 1)) { // the first is there already
		wants(t, fmt.Sprint("change ", n, " of one that writes and one that is there"), <-got, nil)
	}
	do(t, s, adding(image("a"), 2))
}

// Where the database refuses what one of them writes, as it does with a name that no index has room for, the
// others are written.
func TestSharedRefused(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s := open(t, options(url))
	var long strings.Builder
	for n := rand.New(rand.NewPCG(1, 2)); long.Len() < 20_000; {
		fmt.Fprintf(&long, "%x", n.Uint64())
	}
	answers := together(t, s, adding(image("a"), 1), adding(image(long.String()), 1), adding(image("b"), 1))
	for n, failure := range []error{nil, store.ErrUnavailable, nil} {
		wants(t, fmt.Sprint("change ", n), <-answers[n], failure)
	}
}

// An image that another process has at this moment is waited for by whoever changes it, and by nobody else.
func TestSharedHeld(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url+" pool_max_conns=8"))
	free := hold(t, url, image("held"))
	answers := together(t, s, adding(image("a"), 1), adding(image("held"), 1), adding(image("b"), 1))
	wants(t, "one before it", <-answers[0], nil)
	wants(t, "one behind it", <-answers[2], nil)
	eventually(t, "who changes it waits", func() bool { return waiting(t, name, "advisory") == "1" })
	lone := together(t, s, adding(image("held"), 1))
	wants(t, "while one waits alone", <-together(t, s, adding(image("c"), 1))[0], nil)
	free()
	wants(t, "when it is free", <-answers[1], nil)
	wants(t, "one that came alone", <-lone[0], nil)
}

// hold has an image as another process would that changes it, until it is freed.
func hold(t *testing.T, url string, i api.Image) (free func()) {
	t.Helper()
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close(context.WithoutCancel(t.Context())) }) // it is freed, or the test failed
	ask := func(sql string, arguments ...any) {
		t.Helper()
		if _, err := other.Exec(t.Context(), sql, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	ask("SELECT pg_advisory_lock(hashtextextended($1, 0))", i.String())
	return func() { t.Helper(); ask("SELECT pg_advisory_unlock_all()") }
}

// waiting counts who waits for locks of a kind, of this database.
func waiting(t *testing.T, name, kind string) string {
	t.Helper()
	return psql(t, shared, name, fmt.Sprintf(`SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE NOT l.granted AND l.locktype = '%s' AND a.datname = '%s'`, kind, name))
}

// Neither is a task that another process has, by anybody but whose it is.
func TestSharedTaskHeld(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url+" pool_max_conns=8"))
	tasked := func(repository string) store.Change {
		c := adding(image(repository), 1)
		c.Then = []store.Task{{Key: "held", Kind: "sign", Image: c.Image}}
		return c
	}
	do(t, s, tasked("before"))
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	for _, sql := range []string{"BEGIN", "SELECT FROM tasks WHERE key = 'held' FOR UPDATE"} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	answers := together(t, s, adding(image("a"), 1), tasked("b"), adding(image("c"), 1))
	wants(t, "one before it", <-answers[0], nil)
	wants(t, "one behind it", <-answers[2], nil)
	eventually(t, "who has the task waits", func() bool { return waiting(t, name, "transactionid") == "1" })
	if _, err := other.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	wants(t, "when it is free", <-answers[1], nil)
}

// What nobody waits for any more is not begun.
func TestSharedLate(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s := open(t, options(url))
	answers := []chan answer{make(chan answer, 1), make(chan answer, 1)}
	until := []time.Time{time.Now(), time.Now().Add(patience)}
	err := s.Write(until, []store.Change{adding(image("late"), 1), adding(image("wanted"), 1)}, func(n int, set store.Set, err error) {
		answers[n] <- answer{set, err}
	})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "a change that nobody waits for", <-answers[0], store.ErrUnavailable)
	wants(t, "one beside it", <-answers[1], nil)
	if got := len(get(t, s, image("late")).Signatures); got != 0 {
		t.Errorf("it has %d signatures, want none", got)
	}
}

// Changes that are about the same task come one after the other: each sees what the one before it left.
func TestSharedTask(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	var changes []store.Change
	for _, repository := range []string{"a", "b", "c"} {
		c := adding(image(repository), 1)
		c.Then = []store.Task{{Key: "one for all", Kind: "sign", Image: c.Image}, {Key: repository, Kind: "sign", Image: c.Image}}
		changes = append(changes, c)
	}
	for n, got := range together(t, s, changes...) {
		wants(t, fmt.Sprint("change ", n), <-got, nil)
	}
	if got := psql(t, shared, name, "SELECT string_agg(key || ' of ' || repository, ', ' ORDER BY key) FROM tasks"); got != "a of a, b of b, c of c, one for all of a" {
		t.Errorf("tasks are %s", got)
	}
}

// Many who write at once share transactions, in the order that their images are written in.
func TestSharedByMany(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s, other := open(t, options(url)), open(t, options(url))
	const writers, each = 32, 20
	var all sync.WaitGroup
	for n := range writers {
		all.Go(func() {
			for m := range each {
				s := []*postgres.Store{s, other}[m%2]
				set, err := s.Do(t.Context(), adding(image(fmt.Sprint("app", n)), m))
				if err != nil || len(set.Signatures) != m+1 {
					t.Errorf("change %d of app%d: %d signatures, %v", m, n, len(set.Signatures), err)
				}
			}
		})
	}
	all.Wait()
	if got := psql(t, shared, name, "SELECT count(DISTINCT xid) < count(*) / 3 FROM records"); got != "t" {
		t.Errorf("%s records are of %s transactions, want a third at most", psql(t, shared, name, "SELECT count(*) FROM records"),
			psql(t, shared, name, "SELECT count(DISTINCT xid) FROM records"))
	}
	const order = `SELECT count(*) FROM (SELECT reason::int AS has, row_number() OVER (PARTITION BY repository ORDER BY xid, id) - 1 AS want FROM records) x WHERE has <> want`
	if got := psql(t, shared, name, order); got != "0" {
		t.Errorf("%s records are elsewhere in the trail than their image's changes were made", got)
	}
}

// Of changes whose shared commit got no answer it is not known whether they are done, and so says each of them. They are,
// and who brings one again finds that.
func TestSharedCommitUnanswered(t *testing.T) {
	t.Parallel()
	name, _ := database(t, template)
	w, url := between(t, name)
	s := open(t, options(url))
	do(t, s, adding(image("before"), 1))
	var changes []store.Change
	for n := range 8 {
		changes = append(changes, adding(image(fmt.Sprint("app", n)), n))
	}
	w.cutNext("\x00COMMIT\x00")
	for n, answer := range together(t, s, changes...) {
		got := <-answer
		wants(t, fmt.Sprint("change ", n), got, store.ErrUnavailable)
		if got.err != nil && !strings.Contains(got.err.Error(), "it is not known whether") {
			t.Errorf("change %d: %v, want an error that says that it is not known", n, got.err)
		}
	}
	for n, c := range changes {
		if set := get(t, s, c.Image); len(set.Signatures) != 1 {
			t.Errorf("change %d was committed, and %s has %d signatures", n, c.Image, len(set.Signatures))
		}
		if set := do(t, s, c); set.Version != 1 {
			t.Errorf("change %d, brought again, makes version %d, want 1: nothing changes", n, set.Version)
		}
	}
}

// So does a lease: the task may be leased, and another is not taken in its place.
func TestTakeUnanswered(t *testing.T) {
	t.Parallel()
	name, _ := database(t, template)
	w, url := between(t, name)
	s := open(t, options(url))
	do(t, s, tasked(3))
	w.cutNext("UPDATE tasks")
	if task, err := s.Take(t.Context(), time.Minute); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "it is not known whether") {
		t.Errorf("Take: task %s, %v, want an error that says that it is not known", task.Key, err)
	}
	eventually(t, "one task is leased", func() bool { return psql(t, shared, name, "SELECT sum(attempts) FROM tasks") == "1" })
}
