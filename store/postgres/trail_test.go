package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store"
)

// A transaction that got its number before another one has committed holds back what came later:
// a cursor must not be past its place when it commits.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	o := options(url)
	o.TrailPatience = time.Millisecond
	s := open(t, o)
	do(t, s, adding(image("app"), 1))
	eventually(t, "the first record shows", func() bool { got, _ := trail(t, s, ""); return slices.Equal(got, []string{"1"}) })

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
	got, cursor := trail(t, s, "")
	if !slices.Equal(got, []string{"1"}) {
		t.Fatalf("the trail, while an earlier transaction is open: %q, want only what is before it", got)
	}
	if _, err := late.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	var rest []string
	eventually(t, "the rest shows", func() bool {
		more, next := trail(t, s, cursor)
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
