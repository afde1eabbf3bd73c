package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// A page looks at so many rows and no more: it may be empty and still have a next. Where an index
// leads to what is wanted it is there at once.
func TestListLong(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	last := image("zzz")
	change := adding(last, 1)
	w := store.Withdrawal{ID: "w", Scope: store.ScopeKey, Key: "AB", Reason: "lost"}
	change.Withdraw, change.Then = []store.Withdrawal{w}, []store.Task{{Key: "zzz", Image: last}}
	do(t, s, change)
	const long = postgres.MaxScanned + 10
	psql(t, shared, name, fmt.Sprintf(`
		INSERT INTO images (host, repository, digest, version, serial, state, number)
		SELECT 'registry.example', 'app' || n, 'sha256:00', 1, 1, n, n FROM generate_series(1, %[1]d) n;
		INSERT INTO signatures (image, host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content)
		SELECT n, 'registry.example', 'app' || n, 'sha256:00', 1, 'sha256:00@' || left(encode(sha256('x'), 'hex'), 32), '', 'CD', '', '', false, '', '', now(), now(), 'x' FROM generate_series(1, %[1]d) n;
		UPDATE signatures SET fingerprint = 'CD' WHERE repository = 'zzz';
		INSERT INTO withdrawals (host, repository, digest, serial, id, scope, name, identity, key, reason, subject, time)
		SELECT 'registry.example', 'app' || n, 'sha256:00', 1, n, 'image', '', '', '', '', '', now() FROM generate_series(1, %[1]d) n;
		INSERT INTO tasks (key, kind, host, repository, digest, state, due, attempts, problem, queued, lease)
		SELECT n, 'sign', 'registry.example', 'app' || n, 'sha256:00', 'dead', now(), 0, '', now(), '' FROM generate_series(1, %[1]d) n;
		ANALYZE`, long))
	digest := string(last.Digest)
	for f, want := range map[store.Filter]int{
		{Kind: store.Signatures, Digest: digest}:                                        2,
		{Kind: store.Signatures, Host: last.Host, Digest: digest}:                       2,
		{Kind: store.Signatures, Repository: "zzz"}:                                     2,
		{Kind: store.Withdrawals, Key: "AB"}:                                            2,
		{Kind: store.Withdrawals, Digest: digest, Key: "AB"}:                            2,
		{Kind: store.Tasks, State: store.Queued}:                                        2,
		{Kind: store.Tasks, Repository: "zzz"}:                                          2,
		{Kind: store.Signatures, Key: "CE"}:                                             1,
		{Kind: store.Signatures, Key: "CD", Digest: digest}:                             2,
		{Kind: store.Signatures, Key: "CD", Host: last.Host, Repository: "zzz"}:         1,
		{Kind: store.Signatures, Key: "CD", Digest: "another"}:                          2,
		{Kind: store.Signatures, Key: "CD", Host: "another"}:                            2,
		{Kind: store.Signatures, Key: "CD", Host: last.Host, Repository: "another"}:     1,
		{Kind: store.Signatures, Host: last.Host, Repository: "zzz"}:                    1,
		{Kind: store.Withdrawals, Host: last.Host, Repository: "zzz", Digest: digest}:   1,
		{Kind: store.Signatures, Host: last.Host, Repository: "zzz", Digest: "another"}: 1,
	} {
		found, pages := 0, 0
		for after := store.Cursor(""); pages == 0 || after != ""; pages++ {
			page, next, err := s.List(t.Context(), f, after, 1000)
			if err != nil {
				t.Fatalf("List %+v, page %d: %v", f, pages+1, err)
			}
			if len(page) > 0 && page[0].Image != last {
				t.Errorf("List %+v has %s", f, page[0].Image)
			}
			found, after = found+len(page), next
		}
		if wantFound := map[bool]int{true: 0, false: 1}[f.Host == "another" || f.Repository == "another" || f.Digest == "another" || f.Key == "CE"]; found != wantFound || pages != want {
			t.Errorf("List %+v: %d entries on %d pages, want %d on %d", f, found, pages, wantFound, want)
		}
	}
}

// Images that have nothing any more do not make a page as long as there are of them, and the last one of a page
// is listed once.
func TestListNothing(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	lastOfPage := image(fmt.Sprintf("app%05d", postgres.MaxImages-1))
	images := []api.Image{image("app"), lastOfPage, image("zzz")}
	for _, i := range images {
		do(t, s, adding(i, 1))
	}
	const nothing = 30 * postgres.MaxImages
	psql(t, shared, name, fmt.Sprintf(`INSERT INTO images (host, repository, digest, version, serial, state, number)
		SELECT 'registry.example', 'app' || lpad(n::text, 5, '0'), 'sha256:00', 2, 1, n, n FROM generate_series(1, %d) n WHERE n <> %d`, nothing, postgres.MaxImages-1))
	for limit, fewest := range map[int]int{1: nothing / postgres.MaxImages, 1000: 3} {
		found, pages := 0, 0
		for after := store.Cursor(""); pages == 0 || after != ""; pages++ {
			page, next, err := s.List(t.Context(), store.Filter{Kind: store.Signatures}, after, limit)
			if err != nil || pages > 2*fewest {
				t.Fatalf("List, limit %d, page %d: %v, want an end by now", limit, pages+1, err)
			}
			for _, e := range page {
				if found == len(images) || e.Image != images[found] {
					t.Fatalf("List, limit %d, entry %d is of %s, want those of %v", limit, found+1, e.Image, images)
				}
				found++
			}
			after = next
		}
		if found != len(images) || pages < fewest {
			t.Errorf("List, limit %d: %d entries on %d pages, want %d on %d or more", limit, found, pages, len(images), fewest)
		}
	}
}

// A cursor of a listing by key is none of another listing, and the other way round.
func TestListCursorByKey(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s := open(t, options(url))
	for n := range 2 {
		do(t, s, adding(image(fmt.Sprint("app", n)), 1))
	}
	all := store.Filter{Kind: store.Signatures}
	byKey := store.Filter{Kind: store.Signatures, Key: signature(image("app"), 1).Fingerprint}
	for _, f := range []struct{ of, to store.Filter }{{all, byKey}, {byKey, all}} {
		_, next, err := s.List(t.Context(), f.of, "", 1)
		if err != nil || next == "" {
			t.Fatalf("List %+v: cursor %q, %v, want one", f.of, next, err)
		}
		if page, _, err := s.List(t.Context(), f.to, next, 1); !errors.Is(err, store.ErrCursor) {
			t.Errorf("List %+v with a cursor of %+v: %d entries, %v, want %v", f.to, f.of, len(page), err, store.ErrCursor)
		}
		if page, _, err := s.List(t.Context(), f.of, next, 1); err != nil || len(page) != 1 {
			t.Errorf("List %+v with its own cursor: %d entries, %v, want one", f.of, len(page), err)
		}
	}
}

// A listing that nobody waits for any more, or that takes too long, is neither asked again nor costs others their connections.
func TestListLeft(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"hangs up": time.Minute, "too slow": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name, direct := database(t, template)
			w, url := between(t, name)
			var log strings.Builder
			o := options(url + " pool_max_conns=8")
			o.Timeout, o.Log = timeout, slog.New(slog.NewTextHandler(&log, nil))
			s := open(t, o)
			const connections = 4
			if err := s.Connect(t.Context(), connections); err != nil {
				t.Fatal(err)
			}
			made := s.Connected()
			other, err := pgx.Connect(t.Context(), direct)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close(t.Context())
			if _, err := other.Exec(t.Context(), "BEGIN; LOCK TABLE images"); err != nil {
				t.Fatal(err)
			}
			ctx, hangUp := context.WithCancel(t.Context())
			listed := make(chan error, 1)
			w.parses("")
			go func() {
				_, _, err := s.List(ctx, store.Filter{Kind: store.Signatures}, "", 1)
				listed <- err
			}()
			if timeout == time.Minute {
				eventually(t, "the listing waits", func() bool { return waiting(t, name, "relation") == "1" })
				hangUp()
			}
			defer hangUp()
			if err := <-listed; !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("List: %v, want %v", err, store.ErrUnavailable)
			}
			if n := w.parses("FROM images x"); n != 1 {
				t.Errorf("the listing was asked %d times, want once", n)
			}
			if _, err := other.Exec(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			if err := s.Connect(t.Context(), connections-1); err != nil { // one is closed, with the question
				t.Fatal(err)
			}
			if n := s.Connected(); n != made {
				t.Errorf("%d connections were made anew, want none", n-made)
			}
			if strings.Contains(log.String(), "away") {
				t.Errorf("the log has an outage: %s", &log)
			}
		})
	}
}
