package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// A testClock stands still until it is moved.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// While the database is away what is known goes on being answered, as of when it was current, and
// for so long; nothing is taken, and nothing is lost. All comes back by itself.
func TestAway(t *testing.T) {
	t.Parallel()
	c := own(t)
	clock := &testClock{t: time.Now().UTC().Truncate(time.Second)}
	o := options(c.URL("postgres"))
	o.Clock, o.Stale = clock.now, time.Hour
	s := open(t, o)
	o.Stale = 0
	without := open(t, o)
	do(t, s, adding(image("known"), 1))
	get(t, s, image("empty"))
	since := clock.now()
	clock.advance(10 * time.Hour) // and back: what was current then is so now
	for _, step := range []time.Duration{-10 * time.Hour, 0} {
		get(t, s, image("known"))
		get(t, s, image("empty"))
		get(t, without, image("known"))
		clock.advance(step)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	clock.advance(-time.Second) // to keep it right
	get(t, s, image("known"))
	clock.advance(-time.Minute)
	for name, s := range map[string]*postgres.Store{"for an hour": s, "never": without} {
		if set, err := s.Get(t.Context(), image("known")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Get, where what is stale is served %s, by a clock that was set back to %v: as of %v, %v, want %v", name, clock.now(), set.AsOf, err, store.ErrUnavailable)
		}
	}
	clock.advance(time.Second + 60*time.Minute)
	for name, n := range map[string]int{"known": 1, "empty": 0} {
		if set := get(t, s, image(name)); len(set.Signatures) != n || !set.AsOf.Equal(since) {
			t.Errorf("%s, while the database is away: %d signatures as of %v, want %d as of %v", name, len(set.Signatures), set.AsOf, n, since)
		}
	}
	away := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s, while the database is away: %v, want %v", what, err, store.ErrUnavailable)
		}
	}
	_, err := s.Get(t.Context(), image("unknown"))
	away("Get of what is not known", err)
	_, err = without.Get(t.Context(), image("known"))
	away("Get, where nothing stale is served", err)
	_, err = s.Do(t.Context(), adding(image("known"), 2))
	away("Do", err)
	_, _, err = s.List(t.Context(), store.Filter{Kind: store.Signatures}, "", 1)
	away("List", err)
	_, _, err = s.Records(t.Context(), "", 1)
	away("Records", err)
	_, err = s.Take(t.Context(), time.Minute)
	away("Take", err)
	clock.advance(time.Minute)
	_, err = s.Get(t.Context(), image("known"))
	away("Get after an hour", err)

	if err := c.Serve(); err != nil {
		t.Fatal(err)
	}
	if set := get(t, s, image("known")); len(set.Signatures) != 1 || !set.AsOf.IsZero() {
		t.Errorf("when the database is back: %d signatures as of %v, want 1, current", len(set.Signatures), set.AsOf)
	}
	do(t, s, adding(image("known"), 2))
	if set := get(t, without, image("known")); len(set.Signatures) != 2 {
		t.Errorf("what was taken then: %d signatures, want 2", len(set.Signatures))
	}
}

// A store starts while the database is away, and serves what was kept; with nothing kept, nothing.
func TestKept(t *testing.T) {
	t.Parallel()
	c := own(t)
	clock := &testClock{t: time.Now().UTC().Truncate(time.Second)}
	keep := filepath.Join(t.TempDir(), "kept")
	o := options(c.URL("postgres"))
	o.Clock, o.Stale, o.Keep = clock.now, time.Hour, keep
	s := open(t, o)
	do(t, s, adding(image("old"), 1))
	clock.advance(30 * time.Minute)
	want := do(t, s, adding(image("known"), 1))
	get(t, s, image("empty"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"cut.json": "{", "left.new": "x"} {
		if err := os.WriteFile(filepath.Join(keep, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	clock.advance(40 * time.Minute)
	restarted := open(t, o)
	set := get(t, restarted, image("known"))
	if len(set.Signatures) != 1 || string(set.Signatures[0].Content) != string(want.Signatures[0].Content) || set.Version != want.Version {
		t.Errorf("after a restart: %+v, want %+v", set, want)
	}
	if age := clock.now().Sub(set.AsOf); age != 40*time.Minute {
		t.Errorf("after a restart it is as of %v ago, want 40 minutes", age)
	}
	if set := get(t, restarted, image("empty")); set.AsOf.IsZero() {
		t.Error("after a restart an image without signatures is answered as current")
	}
	for _, name := range []string{"old", "unknown"} {
		if _, err := restarted.Get(t.Context(), image(name)); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s, after a restart: %v, want %v", name, err, store.ErrUnavailable)
		}
	}
	if left, err := os.ReadDir(keep); err != nil || len(left) != 2 {
		t.Errorf("kept are %v, %v, want the two that are served", left, err)
	}
	if err := c.Serve(); err != nil {
		t.Fatal(err)
	}
	if set := get(t, restarted, image("old")); len(set.Signatures) != 1 || !set.AsOf.IsZero() {
		t.Errorf("when the database is back: %d signatures as of %v, want 1, current", len(set.Signatures), set.AsOf)
	}
}

// A commit that waits for a standby and is interrupted is no commit that anybody is told of, although
// PostgreSQL says that all went well. Reads go on meanwhile.
func TestStandbyAway(t *testing.T) {
	t.Parallel()
	c := own(t)
	o := options(c.URL("postgres"))
	o.Retries = -1
	s := open(t, o)
	do(t, s, tasked(1))
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"} {
		psql(t, c, "postgres", sql)
	}
	eventually(t, "commits wait for a standby", func() bool { return psql(t, c, "postgres", "SHOW synchronous_standby_names") == "nobody" })
	done := make(chan error, 1)
	go func() {
		_, err := s.Do(t.Context(), adding(image("app"), 2))
		done <- err
	}()
	const waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	eventually(t, "the commit waits", func() bool { return psql(t, c, "postgres", "SELECT count(*) "+waiting) == "1" })
	if got := len(get(t, s, image("app")).Signatures); got != 1 {
		t.Errorf("%d signatures are read while a commit waits, want 1", got)
	}
	psql(t, c, "postgres", "SELECT pg_cancel_backend(pid) "+waiting)
	if err := <-done; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Do, when its wait for a standby was canceled: %v, want %v", err, store.ErrUnavailable)
	}
	go func() {
		_, err := s.Take(t.Context(), time.Minute)
		done <- err
	}()
	eventually(t, "the lease waits", func() bool { return psql(t, c, "postgres", "SELECT count(*) "+waiting) == "1" })
	psql(t, c, "postgres", "SELECT pg_cancel_backend(pid) "+waiting)
	if err := <-done; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Take, when its wait for a standby was canceled: %v, want %v", err, store.ErrUnavailable)
	}
	for _, sql := range []string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"} {
		psql(t, c, "postgres", sql)
	}
	do(t, s, adding(image("app"), 2)) // again, as the error says
	if got := len(get(t, s, image("app")).Signatures); got != 2 {
		t.Errorf("%d signatures in the end, want 2", got)
	}
}

// tasked adds to an image and queues so many tasks.
func tasked(tasks int) store.Change {
	c := adding(image("app"), 1)
	for n := range tasks {
		c.Then = append(c.Then, store.Task{Key: fmt.Sprint(n), Kind: "sign", Image: c.Image})
	}
	return c
}

// What is answered is durable, whatever a database has for a default.
func TestDurable(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	psql(t, shared, name, fmt.Sprintf(`ALTER DATABASE %s SET synchronous_commit = off;
		CREATE FUNCTION durable() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('synchronous_commit') = 'off' THEN RAISE 'a write of %% is not durable', TG_TABLE_NAME; END IF; RETURN NEW; END $$;
		CREATE TRIGGER durable BEFORE INSERT OR UPDATE ON images FOR EACH ROW EXECUTE FUNCTION durable();
		CREATE TRIGGER durable BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION durable()`, name))
	s := open(t, options(url))
	do(t, s, tasked(1))
	if _, err := s.Take(t.Context(), time.Minute); err != nil {
		t.Errorf("Take: %v", err)
	}
}

// A change that has no answer in time is said to have none, once, whatever becomes of it. A task is leased once then. Those behind it that hang up
// are let go meanwhile and are not made, and the next is made when it is through.
func TestStandbySlow(t *testing.T) {
	t.Parallel()
	c := own(t)
	o := options(c.URL("postgres"))
	o.Timeout = 2 * time.Second
	s := open(t, o)
	do(t, s, tasked(3))
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"} {
		psql(t, c, "postgres", sql)
	}
	eventually(t, "commits wait for a standby", func() bool { return psql(t, c, "postgres", "SHOW synchronous_standby_names") == "nobody" })
	var told atomic.Int32
	first := make(chan error, 2)
	s.Start(t.Context(), adding(image("app"), 2), func(_ store.Set, err error) { told.Add(1); first <- err })
	eventually(t, "the commit waits", func() bool {
		return psql(t, c, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
	})
	gone, hangUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	s.Start(gone, adding(image("app"), 3), func(_ store.Set, err error) { left <- err })
	hangUp()
	if err := <-left; !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up in the line is told %v, want %v: %v", err, store.ErrUnavailable, context.Canceled)
	}
	if _, err := s.Take(t.Context(), time.Minute); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("whose lease waits is told %v, want %v", err, store.ErrUnavailable)
	}
	if err := <-first; !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "no answer within 6s") {
		t.Errorf("whose commit waits is told %v, want %v: no answer within 6s", err, store.ErrUnavailable)
	}
	for _, sql := range []string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"} {
		psql(t, c, "postgres", sql)
	}
	set := do(t, s, adding(image("app"), 4))
	if n := told.Load(); n != 1 {
		t.Errorf("whose commit waited was told %d times, want once", n)
	}
	if taken := psql(t, c, "postgres", "SELECT sum(attempts) FROM tasks"); taken != "1" && taken != "0" {
		t.Errorf("whose lease waited has taken %s, want one at most", taken)
	}
	var names []string
	for _, sig := range set.Signatures {
		names = append(names, sig.Name)
	}
	want := []string{signature(image("app"), 1).Name, signature(image("app"), 2).Name, signature(image("app"), 4).Name}
	if !slices.Equal(names, want) {
		t.Errorf("in the end there are %q, want %q", names, want)
	}
}

// What is not through with when the store is closed says so.
func TestClosed(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s := open(t, options(url))
	do(t, s, adding(image("app"), 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, get := s.Get(t.Context(), image("app"))
	_, do := s.Do(t.Context(), adding(image("app"), 2))
	started := make(chan error, 1)
	s.Start(t.Context(), adding(image("app"), 2), func(_ store.Set, err error) { started <- err })
	_, _, list := s.List(t.Context(), store.Filter{Kind: store.Tasks}, "", 1)
	_, _, records := s.Records(t.Context(), "", 1)
	_, take := s.Take(t.Context(), time.Minute)
	for what, err := range map[string]error{"Get": get, "Do": do, "Start": <-started, "List": list, "Records": records, "Take": take} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want %v", what, err, store.ErrUnavailable)
		}
	}
}

// Whoever has started a change when the store is closed is answered, once: those who wait for another process, those in
// the line of an image, and those who wait for a connection. What was done is there.
func TestClosedWhileWriting(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url+" pool_max_conns=8"))
	free := hold(t, url, image("held"))
	var changes []store.Change
	for n := range 5 {
		changes = append(changes, adding(image("held"), n))
	}
	for n := range 300 {
		changes = append(changes, adding(image(fmt.Sprint("app", n)), n))
	}
	answers := make([]chan error, len(changes))
	for n, c := range changes {
		if n == 5 {
			eventually(t, "the first of those who change the image that is held waits for it", func() bool { return waiting(t, name, "advisory") == "1" })
		}
		answers[n] = make(chan error, 2)
		s.Start(t.Context(), c, func(_ store.Set, err error) { answers[n] <- err })
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	free()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	again := open(t, options(url))
	for n, c := range changes {
		err := <-answers[n]
		switch {
		case err != nil && n == 0:
			t.Errorf("who waited for the image with a connection: %v, want it done", err)
		case err != nil && !errors.Is(err, store.ErrUnavailable):
			t.Errorf("change %d of %s: %v, want none or %v", n, c.Image, err, store.ErrUnavailable)
		case err == nil && !slices.ContainsFunc(get(t, again, c.Image).Signatures, func(s store.Signature) bool { return s.Name == c.Add[0].Name }):
			t.Errorf("change %d of %s was done, and is not there", n, c.Image)
		}
		if len(answers[n]) > 0 {
			t.Errorf("change %d of %s was answered more than once", n, c.Image)
		}
	}
}
