package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// A transaction that got its number before another one has committed holds back what came later:
// a cursor must not be past its place when it commits.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	o := options(url)
	o.TrailPatience = time.Millisecond
	s := open(t, o)
	shown := func(after store.Cursor) (reasons []string, next store.Cursor) {
		t.Helper()
		page, next, err := s.Records(t.Context(), after, 7)
		if err != nil && !errors.Is(err, store.ErrHeld) { // by other tests' transactions
			t.Fatalf("Records: %v", err)
		}
		for _, r := range page {
			reasons = append(reasons, r.Reason)
		}
		return reasons, next
	}
	do(t, s, adding(image("app"), 1))
	eventually(t, "the first record shows", func() bool { got, _ := shown(""); return slices.Equal(got, []string{"1"}) })

	late, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close(t.Context())
	for _, sql := range []string{"BEGIN", `INSERT INTO records (time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason)
		VALUES (now(), 'admitted', '', '', '', '', '', '{}', '', '', 'late')`} {
		if _, err := late.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	do(t, s, adding(image("app"), 2))
	got, cursor := shown("")
	if !slices.Equal(got, []string{"1"}) {
		t.Fatalf("the trail, while an earlier transaction is open: %q, want only what is before it", got)
	}
	if got, end, err := s.Records(t.Context(), cursor, 7); len(got) > 0 || end != cursor || !errors.Is(err, store.ErrHeld) || !strings.Contains(err.Error(), "pg_prepared_xacts") {
		t.Fatalf("behind that: %+v, the cursor %q for %q, %v; want %v and where to look", got, end, cursor, err, store.ErrHeld)
	}
	if _, err := late.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	var rest []string
	eventually(t, "the rest shows", func() bool {
		more, next := shown(cursor)
		rest, cursor = append(rest, more...), next
		return len(rest) >= 2
	})
	if !slices.Equal(rest, []string{"late", "2"}) {
		t.Errorf("behind the cursor: %q, want the late one and then the other", rest)
	}
}

// A database that came from another cluster's dump has records of transactions that are still to come
// here. The trail shows them, in their order, and goes on.
func TestRestoredElsewhere(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	for n := range 20 {
		do(t, s, adding(image("app"), n))
	}
	want, cursor := trail(t, s, "")
	psql(t, shared, name, `UPDATE records SET xid = (xid::text::bigint + 1000000000)::text::xid8 WHERE id > 5`)
	restored := open(t, options(url))
	settled(t, restored)
	if got, _ := trail(t, restored, ""); !slices.Equal(got, want) {
		t.Errorf("the trail of a restored database: %q, want %q", got, want)
	}
	if _, _, err := restored.Records(t.Context(), cursor, 1); !errors.Is(err, store.ErrCursor) {
		t.Errorf("a cursor from before: %v, want %v", err, store.ErrCursor)
	}
	do(t, restored, adding(image("app"), 20))
	again := open(t, options(url)) // and is mended only once
	if got, _ := trail(t, again, ""); !slices.Equal(got, append(want, "20")) {
		t.Errorf("the trail goes on as %q, want %q and 20", got, want)
	}
}

// A logged is what was logged, by several at once.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// settled waits until the trail is this cluster's.
func settled(t *testing.T, s *postgres.Store) {
	t.Helper()
	eventually(t, "the trail is renumbered", func() bool { return !s.Settling() })
}

// A long trail from another cluster is renumbered part by part, also by two at once, and by who comes later where one
// has gone. Meanwhile what images have is read, and nothing is written that the trail would have in another's place.
func TestRestoredLong(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	do(t, open(t, options(url)), adding(image("app"), 1))
	// Restored once before, with 10 records, and now with 34,990, of which 4,990 are of transactions that this one has had, too.
	psql(t, shared, name, `INSERT INTO records (xid, id, time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason)
		SELECT (CASE WHEN n <= 10 THEN 0 WHEN n <= 5000 THEN 1 ELSE 1000000000 + n / 3 END)::text::xid8, n, now(), 'admitted', '', '', '', '', '', '{}', '', '', n
		FROM generate_series(1, 35000) n ORDER BY n % 7, n; DELETE FROM records WHERE reason = '1' AND host <> ''`)
	lock, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(context.WithoutCancel(t.Context()))
	held := func(sql string) {
		t.Helper()
		if _, err := lock.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	held("BEGIN")
	held("SELECT FROM records WHERE reason = '15000' FOR UPDATE") // the second part has it
	var log logged
	o := options(url)
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, o)
	if set := get(t, s, image("app")); len(set.Signatures) != 1 {
		t.Errorf("meanwhile the image has %d signatures, want 1", len(set.Signatures))
	}
	refuses := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "is being renumbered") {
			t.Errorf("%s meanwhile: %v, want %v, and why", what, err, store.ErrUnavailable)
		}
	}
	_, err = s.Do(t.Context(), adding(image("app"), 2))
	refuses("Do", err)
	_, _, err = s.Records(t.Context(), "", 1)
	refuses("Records", err)
	_, err = s.Take(t.Context(), time.Minute)
	refuses("Take", err)
	_, _, err = s.List(t.Context(), store.Filter{Kind: store.Signatures}, "", 1)
	refuses("List", err)
	count := func() string { return psql(t, shared, name, "SELECT count(*) FROM records WHERE xid = '0'") }
	eventually(t, "the first part is renumbered, and the second waits", func() bool { return count() == "10010" })
	if err := s.Close(); err != nil { // while it waits
		t.Errorf("Close: %v", err)
	}
	if text := log.String(); strings.Contains(text, "away") || strings.Contains(text, "could not be renumbered") {
		t.Errorf("the log says of a database that is there: %s", text)
	}
	s, other := open(t, o), open(t, o)
	if got := count(); got != "10010" {
		t.Errorf("%s records are renumbered while the second part is held, want 10010", got)
	}
	held("COMMIT")
	o.Settle = true
	if third := open(t, o); third.Settling() {
		t.Error("a store that was to be open when the trail is renumbered is open before")
	}
	settled(t, s)
	settled(t, other)
	do(t, other, adding(image("app"), 35001))
	got := psql(t, shared, name, `SELECT count(*), count(*) FILTER (WHERE place::text <> reason), count(*) FILTER (WHERE xid <> '0')
		FROM (SELECT xid, reason, row_number() OVER (ORDER BY xid, id) AS place FROM records) r`)
	if got != "35001|0|1" {
		t.Errorf("records, those in another's place, and those of this cluster: %s, want 35001|0|1", got)
	}
	if text := log.String(); !strings.Contains(text, "the audit trail is renumbered") {
		t.Errorf("the log does not say that the trail is renumbered: %s", text)
	}
}

// What a database cannot keep as it is, is kept in what it can; what nobody could find again is
// refused.
func TestText(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s := open(t, options(url))
	c := adding(image("app"), 1)
	c.Add[0].UserID, c.Record.Reason = "Zo\xeb\x00!", "\xff\x00"
	set := do(t, s, c)
	if got := get(t, s, c.Image); got.Signatures[0].UserID != "Zo\uFFFD\uFFFD!" || set.Signatures[0].UserID != got.Signatures[0].UserID {
		t.Errorf("user id %q, and Do returned %q", got.Signatures[0].UserID, set.Signatures[0].UserID)
	}
	other := signature(c.Image, 1)
	other.Content = []byte("something else")
	for name, bad := range map[string]store.Change{
		"another content":  {Image: c.Image, Add: []store.Signature{other}},
		"a task of no key": {Image: c.Image, Then: []store.Task{{Kind: "sign"}}},
		"a key not UTF-8":  {Image: c.Image, Then: []store.Task{{Key: "\xff"}}},
		"a key with NUL":   {Image: c.Image, Then: []store.Task{{Key: "a\x00"}}},
		"a long key":       {Image: c.Image, Then: []store.Task{{Key: string(make([]byte, 40_000))}}},
		"an image":         {Image: image("a\x00"), Record: store.Record{Action: store.Refused}},
	} {
		if _, err := s.Do(t.Context(), bad); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want an error that is not %v: doing it again is no use", name, err, store.ErrUnavailable)
		}
	}
	if got := get(t, s, image("a\x00")); got.Version != 0 {
		t.Errorf("an image that cannot be: version %d, want 0", got.Version)
	}
}

// A content that is not that of its name is left out and told, does not make a hole, and can be
// brought again.
func TestDamaged(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	for n := range 3 {
		do(t, open(t, options(url)), adding(image("app"), n))
	}
	psql(t, shared, name, fmt.Sprintf(`UPDATE signatures SET content = 'x' WHERE name = '%s'`, signature(image("app"), 1).Name))
	var told []string
	o := options(url)
	o.Damaged = damagedTo(&told)
	s := open(t, o)
	set := get(t, s, image("app"))
	if len(set.Signatures) != 2 || set.Signatures[1].Name != signature(image("app"), 2).Name {
		t.Errorf("the set has %d signatures, want the two that read", len(set.Signatures))
	}
	if want := []string{signature(image("app"), 1).Name}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	entries, _, err := s.List(t.Context(), store.Filter{Kind: store.Signatures}, "", 10)
	if err != nil || len(entries) != 2 || entries[1].Index != 2 {
		t.Errorf("List: %+v, %v, want two, at 1 and 2", entries, err)
	}
	if len(told) != 2 || told[1] != told[0] {
		t.Errorf("told of %q by Get and List, want it from both", told)
	}
	do(t, s, store.Change{Image: image("app"), Record: store.Record{Action: store.Refused, Reason: "another"}})
	if left := psql(t, shared, name, "SELECT count(*) FROM signatures"); left != "3" {
		t.Errorf("after a change that changes nothing %s rows are left, want 3: what does not read stays for who mends it", left)
	}
	do(t, s, adding(image("app"), 1))
	if set := get(t, s, image("app")); len(set.Signatures) != 3 || string(set.Signatures[2].Content) != string(signature(image("app"), 1).Content) {
		t.Errorf("brought again, the set has %d signatures, want 3, and it at the end", len(set.Signatures))
	}
	psql(t, shared, name, fmt.Sprintf(`UPDATE signatures SET content = 'x' WHERE name = '%s'`, signature(image("app"), 0).Name))
	mended := open(t, o) // a content that is known is not read again
	for _, want := range []int{1, 0} {
		dropped, err := mended.Mend(t.Context(), image("app"), store.Record{Action: store.Dropped, Reason: "mended"})
		if err != nil || len(dropped) != want {
			t.Errorf("Mend dropped %q, %v, want %d", dropped, err, want)
		}
	}
	if left := psql(t, shared, name, "SELECT count(*) FROM signatures"); left != "2" {
		t.Errorf("%s rows are left, want 2", left)
	}
	if reasons, _ := trail(t, s, ""); reasons[len(reasons)-1] != "mended" {
		t.Errorf("the trail ends with %q, want what was mended", reasons)
	}
}
