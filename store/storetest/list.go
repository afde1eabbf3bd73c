package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func listings() []subtest {
	return []subtest{
		{name: "list", run: testList},
		{name: "list_filter", run: testListFilter},
		{name: "list_tasks", run: testListTasks},
		{name: "list_limit", run: testListLimit},
		{name: "list_meanwhile", run: testListMeanwhile},
		{name: "list_behind_gone", run: testListBehindGone},
		{name: "list_key_behind_gone", run: testListKeyBehindGone},
		{name: "list_cursor", run: testListCursor},
	}
}

// fill gives each image three signatures and two withdrawals, and returns their listings. Images
// come in another order than they are listed in.
func (f *fixture) fill() (signatures, withdrawals []store.Entry) {
	f.Helper()
	all := images()
	for n := range all {
		i := all[(n*7+5)%len(all)]
		key, name := withdrawal("z", store.ScopeKey), withdrawal("a", store.ScopeSignature)
		key.Key, name.Name = fingerprint(5), "gone"
		c := adding(i, 1, 3)
		c.Withdraw = []store.Withdrawal{key, name}
		f.do(c)
	}
	for _, i := range all {
		set := f.get(i)
		for n := range set.Signatures {
			s := set.Signatures[n]
			s.Content = nil
			signatures = append(signatures, store.Entry{Image: i, Index: n + 1, Signature: &s})
		}
		for n := range set.Withdrawn {
			withdrawals = append(withdrawals, store.Entry{Image: i, Withdrawal: &set.Withdrawn[n]})
		}
	}
	return signatures, withdrawals
}

func testList(f *fixture) {
	signatures, withdrawals := f.fill()
	for _, limit := range []int{0, 1, 2, 5, 7, 500, 1000} {
		f.same(fmt.Sprintf("signatures, limit %d", limit), signatures, f.list(store.Filter{Kind: store.Signatures}, limit))
		f.same(fmt.Sprintf("withdrawals, limit %d", limit), withdrawals, f.list(store.Filter{Kind: store.Withdrawals}, limit))
	}
	if page, next, err := f.s.List(f.Context(), store.Filter{Kind: store.Signatures}, "", 1000); err != nil || next != "" {
		f.Errorf("List of everything in a page: %d entries, cursor %q, %v; want an empty cursor", len(page), next, err)
	}
}

func testListFilter(f *fixture) {
	signatures, withdrawals := f.fill()
	i := images()[8]
	for _, filter := range []store.Filter{
		{Host: i.Host},
		{Repository: i.Repository},
		{Digest: string(i.Digest)},
		{Key: fingerprint(1)},
		{Key: fingerprint(5)},
		{Host: i.Host, Repository: i.Repository},
		{Host: i.Host, Digest: string(i.Digest)},
		{Repository: i.Repository, Digest: string(i.Digest), Key: fingerprint(5)},
		{Host: i.Host, Repository: i.Repository, Digest: string(i.Digest)},
		{Host: i.Host, Repository: i.Repository, Digest: string(i.Digest), Key: fingerprint(2)},
		{Host: "registry"},
		{Host: "registry%"},
		{Repository: "app/"},
		{Repository: "APP"},
		{Key: "a0"},
	} {
		for kind, all := range map[string][]store.Entry{store.Signatures: signatures, store.Withdrawals: withdrawals} {
			filter.Kind = kind
			var want []store.Entry
			for _, e := range all {
				if matches(filter, e) {
					want = append(want, e)
				}
			}
			for _, limit := range []int{1, 4, 1000} {
				got := f.list(filter, limit)
				if filter.Key != "" && kind == store.Signatures {
					slices.SortStableFunc(got, comparePlaces)
				}
				f.same(fmt.Sprintf("List(%+v, limit %d)", filter, limit), want, got)
			}
		}
	}
}

// comparePlaces puts what may come in another order, since a key is asked for, in that of the rest.
func comparePlaces(a, b store.Entry) int {
	return cmp.Or(strings.Compare(a.Image.Host, b.Image.Host), strings.Compare(a.Image.Repository, b.Image.Repository),
		strings.Compare(string(a.Image.Digest), string(b.Image.Digest)), cmp.Compare(a.Index, b.Index))
}

func matches(filter store.Filter, e store.Entry) bool {
	is := func(asked, have string) bool { return asked == "" || asked == have }
	key := ""
	if e.Signature != nil {
		key = e.Signature.Fingerprint
	} else if e.Withdrawal != nil {
		key = e.Withdrawal.Key
	}
	return is(filter.Host, e.Image.Host) && is(filter.Repository, e.Image.Repository) &&
		is(filter.Digest, string(e.Image.Digest)) && is(filter.Key, key)
}

func testListTasks(f *fixture) {
	keys := []string{"A", "B b", "a", "a a", "a!", "a-b", "a/b", "aa", "ab", "z", "ä"}
	dead := map[string]bool{"B b": true, "aa": true, "ä": true}
	var want []store.Task
	for n, key := range keys {
		t := task(key, epoch().Add(time.Duration(len(keys)-n)*time.Minute))
		t.Image = images()[n%3]
		want = append(want, t)
	}
	for n := range want {
		f.queue(want[(n*4+3)%len(want)])
	}
	for n := range want {
		want[n].State, want[n].Queued = store.Queued, epoch()
		if dead[want[n].Key] {
			f.do(ending(want[n], store.Dead))
			want[n].State = store.Dead
		}
	}
	for _, filter := range []store.Filter{
		{}, {State: store.Queued}, {State: store.Dead}, {Host: images()[0].Host}, {Host: "none"},
		{Repository: images()[2].Repository}, {Digest: string(images()[1].Digest), State: store.Queued},
	} {
		filter.Kind = store.Tasks
		var entries []store.Entry
		for n := range want {
			e := store.Entry{Image: want[n].Image, Task: &want[n]}
			if matches(filter, e) && (filter.State == "" || filter.State == want[n].State) {
				entries = append(entries, e)
			}
		}
		for _, limit := range []int{1, 2, 100} {
			f.same(fmt.Sprintf("List(%+v, limit %d)", filter, limit), entries, f.list(filter, limit))
		}
	}
}

func testListLimit(f *fixture) {
	const each, all = 126, 8 * 126
	for at, i := range images()[:8] {
		c := store.Change{Image: i}
		for n := range each {
			w := withdrawal(fmt.Sprintf("%d %05d", at, n), store.ScopeKey)
			w.Key = w.ID
			c.Add, c.Withdraw, c.Then = append(c.Add, signature(i, n)), append(c.Withdraw, w), append(c.Then, task(w.ID, epoch()))
		}
		f.do(c)
	}
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		for limit, want := range map[int]int{-5: 1, 0: 1, 1: 1, 7: 7, 1000: 1000, 1001: 1000, 1 << 30: 1000} {
			page, next, err := f.s.List(f.Context(), store.Filter{Kind: kind}, "", limit)
			if err != nil || len(page) != want || next == "" {
				f.Errorf("List of %s, limit %d: %d entries, cursor %q, %v; want %d of %d and a cursor", kind, limit, len(page), next, err, want, all)
			}
		}
		f.same("how many "+kind+" are listed", all, len(f.list(store.Filter{Kind: kind}, 1000)))
	}
}

// testListMeanwhile has something come and something go, before and behind the cursor, after each page.
func testListMeanwhile(f *fixture) {
	mine := make(map[string]bool) // what is there all along
	for n, i := range images()[8:10] {
		c := adding(i, 0, 8)
		for m := range 9 {
			w := withdrawal(fmt.Sprintf("%d.%d", n, m), store.ScopeKey)
			w.Key = w.ID
			c.Withdraw = append(c.Withdraw, w)
			c.Then = append(c.Then, task(w.ID, epoch()))
			if m%2 == 1 {
				mine["signature "+signature(i, m).Name] = true
				mine["withdrawal "+w.ID] = true
				mine["task "+w.ID] = true
			}
		}
		f.do(c)
	}
	listed := make(map[string]int)
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		var after store.Cursor
		for pages := 0; pages == 0 || after != ""; pages++ {
			page, next, err := f.s.List(f.Context(), store.Filter{Kind: kind}, after, 1)
			if err != nil || pages > 5000 {
				f.Fatalf("List of %s, page %d: %v; want an end by now", kind, pages, err)
			}
			for _, e := range page {
				listed[label(e)]++
			}
			after = next
			f.churn(kind, pages)
		}
	}
	for what := range mine {
		if listed[what] != 1 {
			f.Errorf("%s was there all along: listed %d times, want once", what, listed[what])
		}
	}
}

func label(e store.Entry) string {
	switch {
	case e.Signature != nil:
		return "signature " + e.Signature.Name
	case e.Withdrawal != nil:
		return "withdrawal " + e.Withdrawal.ID
	default:
		return "task " + e.Task.Key
	}
}

// churn takes one of a kind that testListMeanwhile does not hold on to, and brings another, until it
// has done so often enough: a listing must come to its end.
func (f *fixture) churn(kind string, n int) {
	f.Helper()
	if n >= 10 {
		return
	}
	at, m := n/5, n%5*2
	old := fmt.Sprintf("%d.%d", at, m)
	goes := store.Change{Image: images()[8+at]}
	comes := store.Change{Image: images()[n*5%len(images())]}
	w := withdrawal(fmt.Sprintf("new %d", n), store.ScopeKey)
	w.Key = w.ID
	switch kind {
	case store.Signatures:
		goes.Drop, comes.Add = []string{signature(goes.Image, m).Name}, signatures(comes.Image, 100+n, 100+n)
	case store.Withdrawals:
		goes.Lift, comes.Withdraw = []store.Withdrawal{{ID: old}}, []store.Withdrawal{w}
	case store.Tasks:
		goes.Ends = &store.Task{Key: old, State: store.Done}
		comes.Then = []store.Task{task(fmt.Sprintf("%d.%d.", n%2, n), epoch()), task(fmt.Sprintf("0 %d", n), epoch())}
	}
	f.do(goes)
	f.do(comes)
}

// testListBehindGone goes on behind what is no longer there, and whose image has nothing else.
func testListBehindGone(f *fixture) {
	all := images()[6:12]
	for n, i := range all {
		w := withdrawal("w", store.ScopeKey)
		w.Key = fingerprint(7)
		c := adding(i, n, n)
		c.Withdraw, c.Then = []store.Withdrawal{w}, []store.Task{task(fmt.Sprint(n), epoch())}
		c.Then[0].Image = i
		f.do(c)
	}
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		var after store.Cursor
		for n, i := range all {
			page, next, err := f.s.List(f.Context(), store.Filter{Kind: kind}, after, 1)
			if err != nil || len(page) != 1 || page[0].Image != i || (next == "") != (n == len(all)-1) {
				f.Fatalf("List of %s behind %d that are gone, of %d: %+v, cursor %q, %v; want the one of %s", kind, n, len(all), page, next, err, i)
			}
			after = next
			c := store.Change{Image: i}
			switch kind {
			case store.Signatures:
				c.Drop = []string{page[0].Signature.Name}
			case store.Withdrawals:
				c.Lift = []store.Withdrawal{*page[0].Withdrawal}
			case store.Tasks:
				c.Ends = &store.Task{Key: page[0].Task.Key, State: store.Done}
			}
			f.do(c)
		}
	}
}

// testListKeyBehindGone lists what a key signed while each that was listed goes, and more comes.
func testListKeyBehindGone(f *fixture) {
	all := images()[4:12]
	for n := range all {
		f.do(adding(all[(n*3+1)%len(all)], 0, 4)) // 0 and 3 are by the same key
	}
	listed := make(map[string]int)
	filter := store.Filter{Kind: store.Signatures, Key: fingerprint(0)}
	var after store.Cursor
	for pages := 0; pages == 0 || after != ""; pages++ {
		page, next, err := f.s.List(f.Context(), filter, after, 1)
		if err != nil || pages > 5000 {
			f.Fatalf("List by key, page %d: %v; want an end by now", pages, err)
		}
		for _, e := range page {
			listed[label(e)]++
			f.do(store.Change{Image: e.Image, Drop: []string{e.Signature.Name}})
		}
		if pages < 5 {
			f.do(adding(images()[pages], 3, 3))
		}
		after = next
	}
	for _, i := range all {
		for _, n := range []int{0, 3} {
			if what := "signature " + signature(i, n).Name; listed[what] != 1 {
				f.Errorf("%s was there until it was listed: %d times, want once", what, listed[what])
			}
		}
	}
}

func testListCursor(f *fixture) {
	f.fill()
	f.queue(task("a", epoch()), task("b", epoch()))
	kinds := []string{store.Signatures, store.Withdrawals, store.Tasks}
	refuses := func(kind string, c store.Cursor) {
		f.Helper()
		page, _, err := f.s.List(f.Context(), store.Filter{Kind: kind}, c, 10)
		if !errors.Is(err, store.ErrCursor) {
			f.Errorf("List of %s with cursor %.40q: %d entries, %v, want %v", kind, c, len(page), err, store.ErrCursor)
		}
	}
	f.do(store.Change{Image: image(), Record: admitted()})
	_, trail := f.trail("", 1)
	for _, kind := range kinds {
		refuses(kind, trail)
		for _, c := range badCursors() {
			refuses(kind, c)
		}
		for _, c := range damaged(f.listCursor(kind)) {
			if _, _, err := f.s.List(f.Context(), store.Filter{Kind: kind}, c, 10); err != nil && !errors.Is(err, store.ErrCursor) {
				f.Errorf("List of %s with a damaged cursor, %q: %v, want %v", kind, c, err, store.ErrCursor)
			}
		}
		for _, other := range kinds {
			if other != kind {
				refuses(kind, f.listCursor(other))
			}
		}
	}
	byKey := store.Filter{Kind: store.Signatures, Key: fingerprint(0)}
	_, own, err := f.s.List(f.Context(), byKey, "", 1)
	if err != nil || own == "" {
		f.Fatalf("List by key: cursor %q, %v, want one", own, err)
	}
	for _, c := range append(damaged(own), badCursors()...) {
		if _, _, err := f.s.List(f.Context(), byKey, c, 10); err != nil && !errors.Is(err, store.ErrCursor) {
			f.Errorf("List by key with cursor %.40q: %v, want %v", c, err, store.ErrCursor)
		}
	}
	for _, kind := range []string{"", "images"} {
		if _, _, err := f.s.List(f.Context(), store.Filter{Kind: kind}, "", 10); err == nil || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrCursor) {
			f.Errorf("List of kind %q: %v, want an error for a caller's mistake", kind, err)
		}
	}
}
