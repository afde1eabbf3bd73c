package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/storetest"
)

// readMessage reads a frontend message (PostgreSQL's manual, 55.7), the first without a type.
func readMessage(r io.Reader, startup bool) ([]byte, error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[len(head)-4:])
	if length < 4 || length > 64<<20 {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	body := make([]byte, length-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}

// A change is two round trips, a read is one, whether the image is known or not; the first after another
// process has changed it is one more.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	name, direct := database(t, template)
	w, url := between(t, name)
	o := options(url)
	s, other := open(t, o), open(t, options(direct))
	do(t, s, adding(image("app"), 1)) // and looks at the schema
	w.count()
	for n, step := range []struct {
		what string
		run  func()
		want int
	}{
		{"a change", func() { do(t, s, adding(image("app"), 2)) }, 2},
		{"a change of a new image, with tasks", func() {
			c := adding(image("new"), 1)
			c.Then = []store.Task{{Key: "a", Kind: "sign", Image: c.Image}, {Key: "b", Kind: "sign", Image: c.Image}}
			do(t, s, c)
		}, 2},
		{"a lease", func() { take(t, s) }, 1},
		{"a change that finds it so already", func() { do(t, s, adding(image("app"), 2)) }, 2},
		{"a read of what is known", func() { get(t, s, image("app")) }, 1},
		{"a read of what another changed", func() { do(t, other, adding(image("app"), 3)); get(t, s, image("app")) }, 2},
		{"a change of what another changed", func() { do(t, other, adding(image("app"), 4)); do(t, s, adding(image("app"), 5)) }, 3},
		{"a read of it once more", func() { get(t, s, image("app")) }, 1},
		{"a read of what is not there", func() { get(t, s, image("none")) }, 1},
	} {
		if step.run(); w.count() != step.want {
			t.Errorf("step %d, %s: not in %d round trips", n, step.what, step.want)
		}
	}
	if got := len(get(t, s, image("app")).Signatures); got != 5 {
		t.Errorf("%d signatures, want 5", got)
	}
}

func take(t *testing.T, s store.Store) {
	t.Helper()
	if _, err := s.Take(t.Context(), time.Minute); err != nil {
		t.Errorf("Take: %v", err)
	}
}

// Reads that come together share queries.
func TestSharedReads(t *testing.T) {
	t.Parallel()
	name, _ := database(t, template)
	w, url := between(t, name)
	s := open(t, options(url+" pool_max_conns=2")) // one query at a time
	for n := range 5 {
		do(t, s, adding(image(fmt.Sprint("app", n)), n))
	}
	w.count()
	const readers, each = 50, 20
	var all sync.WaitGroup
	for n := range readers {
		all.Go(func() {
			for m := range each {
				if set, err := s.Get(t.Context(), image(fmt.Sprint("app", (n+m)%5))); err != nil || len(set.Signatures) != 1 {
					t.Errorf("Get: %d signatures, %v, want 1", len(set.Signatures), err)
				}
			}
		})
	}
	all.Wait()
	if got := w.count(); got > readers*each/4 {
		t.Errorf("%d readers needed %d queries for %d reads, want them to share", readers, got, readers*each)
	}
}

// While a query hangs, reads go on by other connections: of what is known, and of what is not. Who gives up is not
// answered as if the database was away.
func TestHangingRead(t *testing.T) {
	t.Parallel()
	name, _ := database(t, template)
	w, url := between(t, name)
	o := options(url + " pool_max_conns=8")
	o.Stale = time.Hour
	s := open(t, o)
	for n := range 3 {
		do(t, s, adding(image(fmt.Sprint("app", n)), n))
		get(t, s, image(fmt.Sprint("app", n)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hung := make(chan error, 1)
	hangs := w.hangNext(t, "")
	go func() {
		_, err := s.Get(ctx, image("app0"))
		hung <- err
	}()
	<-hangs
	for n := range 3 {
		get(t, s, image(fmt.Sprint("app", n)))
	}
	get(t, s, image("none"))
	select {
	case err := <-hung:
		t.Errorf("the others have waited for the read that hangs: it has ended, %v", err)
	default:
	}
	cancel()
	if err := <-hung; !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up is told %v, want %v: %v", err, store.ErrUnavailable, context.Canceled)
	}
}

// What is known is found again wherever its row goes, and nothing else is taken for it.
func TestMovedRows(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s, other := open(t, options(url)), open(t, options(url))
	do(t, s, adding(image("app"), 1))
	do(t, s, adding(image("gone"), 2))
	reads := func(what, repository string, want int) {
		t.Helper()
		for range 2 { // the second knows where
			if set := get(t, s, image(repository)); len(set.Signatures) != want {
				t.Errorf("%s: %s has %d signatures, want %d", what, repository, len(set.Signatures), want)
			}
		}
	}
	reads("at first", "app", 1)
	reads("at first", "gone", 1)
	for _, sql := range []string{
		"UPDATE images SET version = version",
		"VACUUM FULL images",
		"CREATE TABLE copied AS TABLE images; TRUNCATE images; INSERT INTO images SELECT * FROM copied ORDER BY repository DESC",
	} {
		psql(t, shared, name, sql)
		reads(sql, "app", 1)
		reads(sql, "gone", 1)
	}
	const place = "SELECT ctid FROM images WHERE repository = "
	was := psql(t, shared, name, place+"'gone'")
	for _, sql := range []string{"DELETE FROM signatures WHERE repository = 'gone'", "DELETE FROM images WHERE repository = 'gone'", "VACUUM images"} {
		psql(t, shared, name, sql)
	}
	do(t, other, adding(image("instead"), 3))
	if is := psql(t, shared, name, place+"'instead'"); is != was {
		t.Fatalf("the new row is at %s, want it where the old one was, at %s", is, was)
	}
	reads("when another has its place", "gone", 0)
	reads("when another is there", "instead", 1)
	do(t, other, adding(image("app"), 4))
	reads("when another process has changed it", "app", 2)
}

// Two processes on one database: who reads after another has been answered sees it.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	o := options(url)
	o.Limits = store.Limits{}
	writer, reader := open(t, o), open(t, o)
	i := image("app")
	for n := range 100 {
		want := do(t, writer, adding(i, n))
		if got := get(t, reader, i); got.Version != want.Version || len(got.Signatures) != n+1 {
			t.Fatalf("another process reads version %d with %d signatures, want %d with %d", got.Version, len(got.Signatures), want.Version, n+1)
		}
		if n%10 == 9 {
			writer, reader = reader, writer
		}
	}
}

// The whole contract, through a pool that gives each transaction whichever connection is free.
func TestBouncer(t *testing.T) {
	t.Parallel()
	need(t)
	entry := bouncer(t, "%s")
	storetest.Test(t, func(t *testing.T, limits store.Limits, clock func() time.Time) store.Store {
		name, _ := database(t, template)
		o := options(fmt.Sprintf(entry, name))
		o.Limits, o.Clock = limits, clock
		return open(t, o)
	})
}
