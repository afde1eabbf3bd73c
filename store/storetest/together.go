package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

const writers = 20

func together() []subtest {
	return []subtest{
		{name: "writers_one_image", run: testWritersOne},
		{name: "writers_several_images", run: testWritersSeveral},
		{name: "writers_same_signature", run: testWritersSame},
		{name: "writers_if", run: testWritersIf},
		{name: "writers_at", run: testWritersAt},
		{name: "get_after_do", run: testGetAfterDo},
		{name: "visible_as_a_whole", run: testVisibleWhole},
		{name: "commit_order", run: testCommitOrder},
		{name: "behind_no_cursor", run: testBehindNoCursor},
		{name: "context_ends_meanwhile", run: testContextEnds},
	}
}

func testWritersOne(f *fixture) { f.write(images()[:1], many(100)) }

func testWritersSeveral(f *fixture) { f.write(images()[:4], many(200)) }

// write has each writer add signatures in turn to these images, and drop one of them at once now and then.
func (f *fixture) write(to []api.Image, each int) {
	f.Helper()
	f.together(writers, func(w int) error {
		for n := range each {
			i, s := to[(w+n)%len(to)], 1000*w+n
			set, err := f.s.Do(f.Context(), adding(i, s, s))
			if err == nil && n%5 == 4 {
				set, err = f.s.Do(f.Context(), store.Change{Image: i, Drop: []string{signature(i, s).Name}, Record: store.Record{Action: store.Dropped}})
			}
			if err != nil {
				return fmt.Errorf("writer %d, change %d: %w", w, n, err)
			}
			if place := index(set, signature(i, s).Name); (place == 0) != (n%5 == 4) {
				return fmt.Errorf("writer %d: signature %d is at index %d of what Do returned", w, n, place)
			}
		}
		return nil
	})
	changes := 0
	for at, i := range to {
		set, want, version := f.get(i), 0, 0
		for w := range writers {
			for n := range each {
				if (w+n)%len(to) != at {
					continue
				}
				version++
				if n%5 == 4 {
					version++
				} else if want++; index(set, signature(i, 1000*w+n).Name) == 0 {
					f.Errorf("%s: signature %d of writer %d was added, and is not there", i, n, w)
				}
			}
		}
		f.same("how many signatures "+i.String()+" has", want, len(set.Signatures))
		f.same("version of "+i.String(), uint64(version), set.Version)
		changes += version
		f.walk(i, 0, func() {})
	}
	f.same("how many records there are", changes, len(f.records()))
}

// index is from 1; 0: it is not there.
func index(set store.Set, name string) int {
	return 1 + slices.IndexFunc(set.Signatures, func(s store.Signature) bool { return s.Name == name })
}

func testWritersSame(f *fixture) {
	rounds := many(200)
	for n := range rounds {
		f.together(writers, func(int) error {
			_, err := f.s.Do(f.Context(), adding(image(), n, n))
			return err
		})
	}
	f.has(image(), signatures(image(), 0, rounds-1)...)
	f.same("how many records there are", rounds, len(f.records()))
}

// testWritersIf has all writers replace what all of them read, in many rounds: in each only one can.
func testWritersIf(f *fixture) {
	last := f.do(adding(image(), 0, 0))
	rounds := many(200)
	for round := range rounds {
		var won atomic.Int64
		f.together(writers, func(w int) error {
			c := adding(image(), writers*round+w+1, writers*round+w+1)
			c.If, c.Drop = last.Version, []string{last.Signatures[0].Name}
			_, err := f.s.Do(f.Context(), c)
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, store.ErrChanged) {
				return err
			}
			return nil
		})
		f.same("how many had the version they read", int64(1), won.Load())
		last = f.get(image())
		f.same("how many signatures there are", 1, len(last.Signatures))
	}
	f.same("how many records there are", 1+rounds, len(f.records()))
}

// testWritersAt is what clients of a lookaside do: they find the end, and write there. All of them
// found it when there was nothing yet.
func testWritersAt(f *fixture) {
	f.together(writers, func(w int) error {
		c := adding(image(), w, w)
		for c.At = 1; ; {
			set, err := f.s.Do(f.Context(), c)
			if err == nil {
				if at := index(set, c.Add[0].Name); at != c.At {
					return fmt.Errorf("writer %d: its signature is at %d, want %d", w, at, c.At)
				}
				return nil
			}
			if !errors.Is(err, store.ErrIndex) {
				return err
			}
			if set, err = f.s.Get(f.Context(), image()); err != nil {
				return err
			}
			c.At = len(set.Signatures) + 1
		}
	})
	f.same("how many signatures there are", writers, len(f.get(image()).Signatures))
	f.same("how many records there are", writers, len(f.records()))
}

func testGetAfterDo(f *fixture) {
	var version [4]atomic.Uint64 // known to be durable
	var writing atomic.Int64
	writing.Store(int64(len(version)))
	f.together(3*len(version), func(n int) error {
		at := n % len(version)
		i := images()[at]
		if n < len(version) {
			defer writing.Add(-1)
			for s := range many(150) {
				set, err := f.s.Do(f.Context(), adding(i, s, s))
				if err != nil {
					return err
				}
				version[at].Store(set.Version)
			}
			return nil
		}
		var seen uint64
		for last := false; !last; {
			last = writing.Load() == 0
			known := max(seen, version[at].Load())
			set, err := f.s.Get(f.Context(), i)
			if err != nil {
				return err
			}
			if set.Version < known || uint64(len(set.Signatures)) != set.Version {
				return fmt.Errorf("%s: Get has version %d and %d signatures, and version %d was there before", i, set.Version, len(set.Signatures), known)
			}
			seen = set.Version
		}
		return nil
	})
}

// testVisibleWhole replaces one signature by another again and again, and queues a task and keeps a record.
func testVisibleWhole(f *fixture) {
	f.do(adding(image(), 0, 0))
	var done atomic.Bool
	f.together(4, func(n int) error {
		if n > 0 {
			for !done.Load() {
				if err := f.seeWhole(); err != nil {
					return err
				}
			}
			return f.seeWhole()
		}
		defer done.Store(true)
		for s := range many(400) {
			c := adding(image(), s+1, s+1)
			c.Drop = []string{signature(image(), s).Name}
			c.Then = []store.Task{task(fmt.Sprintf("%05d", s+1), epoch())}
			if _, err := f.s.Do(f.Context(), c); err != nil {
				return err
			}
		}
		return nil
	})
}

// seeWhole counts what every change brings one of, there and back: what is counted later is not less.
func (f *fixture) seeWhole() error {
	var counts [5]int
	var errs [5]error
	for n, count := range []func() (int, error){f.version, f.count, f.countTasks, f.count, f.version} {
		counts[n], errs[n] = count()
	}
	counts[2]++ // the first change queued none
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if !slices.IsSorted(counts[:]) {
		return fmt.Errorf("changes seen by version, records, tasks, records, version, in this order: %d, want none less than before", counts)
	}
	return nil
}

// version holds the image to having one signature, whatever it is.
func (f *fixture) version() (int, error) {
	set, err := f.s.Get(f.Context(), image())
	if err == nil && len(set.Signatures) != 1 {
		err = fmt.Errorf("version %d has %d signatures, want 1: each change replaces it", set.Version, len(set.Signatures))
	}
	return int(set.Version), err
}

func (f *fixture) countTasks() (n int, err error) {
	for after, first := store.Cursor(""), true; first || after != ""; first = false {
		var page []store.Entry
		if page, after, err = f.s.List(f.Context(), store.Filter{Kind: store.Tasks}, after, 1000); err != nil {
			return n, err
		}
		n += len(page)
	}
	return n, nil
}

// count goes to the end of the trail.
func (f *fixture) count() (n int, err error) {
	for after := store.Cursor(""); ; {
		page, next, err := f.s.Records(f.Context(), after, 1000)
		if err != nil || len(page) == 0 {
			return n, err
		}
		n, after = n+len(page), next
	}
}

// testCommitOrder notes when each change began and had ended: one that began after another had
// ended comes after it in the trail, whatever their images.
func testCommitOrder(f *fixture) {
	each := many(100)
	var now atomic.Int64
	began, ended := make([]int64, writers*each), make([]int64, writers*each)
	f.together(writers, func(w int) error {
		for n := range each {
			id := w*each + n
			i := images()[w%5]
			began[id] = now.Add(1)
			_, err := f.s.Do(f.Context(), store.Change{Image: i, Add: []store.Signature{signature(i, id)}, Record: store.Record{Action: store.Admitted, Reason: fmt.Sprint(id)}})
			if err != nil {
				return err
			}
			ended[id] = now.Add(1)
		}
		return nil
	})
	place := make(map[string]int) // of a signature, by its record's
	latest, before := int64(0), -1
	for n, r := range f.records() {
		var id int
		if _, err := fmt.Sscan(r.Reason, &id); err != nil || id >= len(began) || len(r.Names) != 1 {
			f.Fatalf("record %d: %+v, want one of the test's", n, r)
		}
		if ended[id] < latest {
			f.Errorf("record %d: change %d had ended before change %d began, and is behind it in the trail", n, id, before)
		}
		if began[id] > latest {
			latest, before = began[id], id
		}
		place[r.Names[0]] = n
	}
	f.same("how many records there are", len(began), len(place))
	for _, i := range images()[:5] {
		set := f.get(i)
		if !slices.IsSortedFunc(set.Signatures, func(a, b store.Signature) int { return place[a.Name] - place[b.Name] }) {
			f.Errorf("%s: the trail has its signatures in another order than they came", i)
		}
	}
}

// testBehindNoCursor follows the trail while it is written.
func testBehindNoCursor(f *fixture) {
	each := many(100)
	var writing atomic.Int64
	writing.Store(writers)
	var seen [3][]string
	f.together(writers+len(seen), func(n int) error {
		if n >= writers {
			var err error
			seen[n-writers], err = f.follow(n-writers+1, func() bool { return writing.Load() == 0 })
			return err
		}
		defer writing.Add(-1)
		for m := range each {
			c := store.Change{Image: images()[n%7], Record: store.Record{Action: store.Refused, Reason: fmt.Sprintf("%d.%d", n, m)}}
			if m%2 == 0 {
				c.Add = []store.Signature{signature(c.Image, 1000*n+m)}
			}
			if _, err := f.s.Do(f.Context(), c); err != nil {
				return err
			}
		}
		return nil
	})
	var want []string
	for _, r := range f.records() {
		want = append(want, r.Reason)
	}
	f.same("how many records there are", writers*each, len(want))
	for _, got := range seen {
		f.same("the trail as somebody saw it who followed it", want, got)
	}
}

// follow reads on until the trail ends and nobody had been writing before.
func (f *fixture) follow(limit int, over func() bool) (seen []string, err error) {
	var cursor store.Cursor
	for {
		last := over()
		page, next, err := f.s.Records(f.Context(), cursor, limit)
		if err != nil {
			return seen, err
		}
		for _, r := range page {
			seen = append(seen, r.Reason)
		}
		if cursor = next; last && len(page) == 0 {
			return seen, nil
		}
	}
}

// testContextEnds lets contexts end while the store is at it, and does each change again, until it
// is known to have happened.
func testContextEnds(f *fixture) {
	each := many(60)
	f.together(writers, func(w int) error {
		for n := range each {
			c := adding(image(), 1000*w+n, 1000*w+n)
			ctx, cancel := context.WithCancel(f.Context())
			if n%3 == 0 {
				cancel() // before it begins
			} else {
				go cancel()
			}
			if _, err := f.s.Do(ctx, c); err != nil && !errors.Is(err, store.ErrUnavailable) {
				return fmt.Errorf("Do, when its context ended: %w, want %w", err, store.ErrUnavailable)
			}
			if _, err := f.s.Do(f.Context(), c); err != nil {
				return err
			}
		}
		return nil
	})
	f.same("how many signatures there are", writers*each, len(f.get(image()).Signatures))
	f.same("the version", uint64(writers*each), f.get(image()).Version)
	f.same("how many records there are", writers*each, len(f.records()))
}
