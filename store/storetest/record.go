package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func records() []subtest {
	return []subtest{
		{name: "records", run: testRecords},
		{name: "records_go_on", run: testRecordsGoOn},
		{name: "records_limit", run: testRecordsLimit},
		{name: "records_cursor", run: testRecordsCursor},
	}
}

func testRecords(f *fixture) {
	i := image()
	full := store.Record{
		Time: epoch().Add(-time.Hour), Action: store.Signed, Subject: "zoe \"Z\"", Address: "[2001:db8::1]", Names: []string{"a", "b"},
		Fingerprint: fingerprint(1), Reference: "registry.example/app:v1", Reason: "Zoë\nsaid <so>",
	}
	f.do(store.Change{Image: i, Record: full})
	f.do(store.Change{Image: i, Add: signatures(i, 1, 1)}) // no action
	f.clock.advance(time.Hour)
	f.do(store.Change{Image: images()[0], Record: admitted(), Add: signatures(images()[0], 1, 2)})
	f.do(store.Change{Image: i, Record: admitted(), Add: signatures(i, 1, 1)}) // found it so
	f.do(store.Change{Image: i, Record: store.Record{Action: store.Dropped}, Drop: []string{signature(i, 1).Name}, Add: signatures(i, 2, 2)})
	full.Image = i
	second, third := admitted(), store.Record{Action: store.Dropped, Image: i, Time: f.clock.now()}
	second.Image, second.Time = images()[0], f.clock.now()
	second.Names = []string{signature(images()[0], 1).Name, signature(images()[0], 2).Name}
	third.Names = []string{signature(i, 1).Name, signature(i, 2).Name}
	f.same("the trail", []store.Record{full, second, third}, f.records())
}

// testRecordsGoOn follows the trail from its very beginning, also where there is nothing yet.
func testRecordsGoOn(f *fixture) {
	var cursor store.Cursor
	for n := range 30 {
		none, next := f.trail(cursor, 10)
		f.same("records behind the last one", []store.Record(nil), none)
		cursor = next
		var want []string
		for m := range n % 3 {
			want = append(want, fmt.Sprintf("%d.%d", n, m))
			f.clock.advance(-time.Minute) // a clock that is set back moves no record
			f.do(store.Change{Image: images()[(n*7+m*5)%len(images())], Record: store.Record{Action: store.Refused, Reason: want[m]}})
		}
		var got []string
		for range want {
			page, next := f.trail(cursor, 1)
			if len(page) != 1 {
				f.Fatalf("Records(%q, 1): %d records, want 1 of %q", cursor, len(page), want)
			}
			got, cursor = append(got, page[0].Reason), next
		}
		f.same("what came since", want, got)
	}
}

func testRecordsLimit(f *fixture) {
	const all = 1010
	f.together(40, func(n int) error {
		for m := n; m < all; m += 40 {
			_, err := f.s.Do(f.Context(), store.Change{Image: images()[n%len(images())], Record: store.Record{Action: store.Refused}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for limit, want := range map[int]int{-1: 1, 0: 1, 1: 1, 7: 7, 1000: 1000, 1001: 1000, 1 << 30: 1000} {
		page, next := f.trail("", limit)
		if len(page) != want {
			f.Errorf("Records, limit %d: %d records, want %d of %d", limit, len(page), want, all)
		}
		if rest, _ := f.trail(next, 1000); len(rest) != min(1000, all-want) {
			f.Errorf("Records behind a page of %d: %d records, want %d of %d", want, len(rest), min(1000, all-want), all)
		}
	}
}

// badCursors are none that a store gave out.
func badCursors() []store.Cursor {
	return []store.Cursor{"?", "\x00", "\xff\xfe", "-1", "'; --", "../..", "99999999999999999999999999", store.Cursor(strings.Repeat("A", 100_000))}
}

// damaged are cursors that somebody tampered with, or cut. Some may happen to be good.
func damaged(c store.Cursor) (all []store.Cursor) {
	for n := range len(c) {
		for _, with := range []string{"", "0", "9", "A", "_", "\x00", "\xff", string(c[n]) + string(c[n])} {
			all = append(all, c[:n]+store.Cursor(with)+c[n+1:])
		}
		all = append(all, c[:n])
	}
	return all
}

func testRecordsCursor(f *fixture) {
	refuses := func(what string, s store.Store, c store.Cursor) {
		if page, _, err := s.Records(f.Context(), c, 10); !errors.Is(err, store.ErrCursor) {
			f.Errorf("Records with %s, %.40q: %d records, %v, want %v", what, c, len(page), err, store.ErrCursor)
		}
	}
	for _, c := range badCursors() {
		refuses("no cursor of a store", f.s, c)
	}
	change := adding(image(), 1, 2)
	change.Then = []store.Task{task("1", epoch()), task("2", epoch())}
	change.Withdraw = []store.Withdrawal{withdrawal("1", store.ScopeKey), withdrawal("2", store.ScopeKey)}
	f.do(change)
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		refuses("a cursor of "+kind, f.s, f.listCursor(kind))
	}
	_, cursor := f.trail("", 10)
	for _, c := range damaged(cursor) {
		if _, _, err := f.s.Records(f.Context(), c, 10); err != nil && !errors.Is(err, store.ErrCursor) {
			f.Errorf("Records with a damaged cursor, %q: %v, want %v", c, err, store.ErrCursor)
		}
	}
	restored := f.another()
	refuses("a cursor of before a backup was restored", restored, cursor)
	if _, err := restored.Do(f.Context(), store.Change{Image: image(), Record: store.Record{Action: store.Refused}}); err != nil {
		f.Fatal(err)
	}
	f.do(store.Change{Image: image(), Record: store.Record{Action: store.Refused}})
	_, cursor = f.trail("", 10)
	refuses("a cursor of before an older backup was restored", restored, cursor)
}

// listCursor is one of a listing that has more than one entry.
func (f *fixture) listCursor(kind string) store.Cursor {
	f.Helper()
	page, cursor, err := f.s.List(f.Context(), store.Filter{Kind: kind}, "", 1)
	if err != nil || cursor == "" {
		f.Fatalf("List of %s, limit 1: %d entries, cursor %q, %v; want one and a cursor", kind, len(page), cursor, err)
	}
	return cursor
}
