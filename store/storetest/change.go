package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

func changes() []subtest {
	return []subtest{
		{name: "nothing_yet", run: testNothingYet},
		{name: "images_apart", run: testImagesApart},
		{name: "kept_byte_for_byte", run: testKept},
		{name: "content_immutable", run: testImmutable},
		{name: "dense", run: testDense},
		{name: "idempotent", limits: store.Limits{All: 4}, run: testIdempotent},
		{name: "there_already", run: testThereAlready},
		{name: "if", run: testIf},
		{name: "at", run: testAt},
		{name: "whole_or_not_at_all", limits: store.Limits{Uploaded: 4}, run: testWhole},
		{name: "refusal_only", run: testRefusal},
		{name: "context_ended", run: testContextEnded},
		{name: "as_apply_says", limits: store.Limits{Uploaded: 6, Key: 3, All: 8, Bytes: 1500}, run: testApply},
	}
}

func testNothingYet(f *fixture) {
	f.same("the set of an image that nothing happened to", store.Set{}, f.get(image()))
	empty := state{Sets: map[string]store.Set{}}
	for _, i := range images() {
		empty.Sets[i.String()] = store.Set{}
	}
	f.same("an empty store", empty, f.state())
	f.takesNone()
}

func testImagesApart(f *fixture) {
	for n, i := range images() {
		f.do(adding(i, n, n))
	}
	for n, i := range images() {
		f.has(i, signature(i, n))
		f.same("version of "+i.String(), uint64(1), f.get(i).Version)
	}
}

func testKept(f *fixture) {
	all := make([]byte, 64<<10)
	for i := range all {
		all[i] = byte(i + i>>8) // every byte, and no page like another
	}
	contents := [][]byte{all, {0}, {0, 0, '\n', ' '}, []byte("\xff\xfe not UTF-8 \xc3"), []byte(`{"a":"\u0000"}`), []byte(" \r\n")}
	c := store.Change{Image: image(), Record: admitted()}
	for n, content := range contents {
		s := withContent(image(), n, content)
		s.Own, s.UserID, s.Uploader = n%2 == 1, "'; \\ % \u2028 Zoë", "<&>"
		c.Add = append(c.Add, s)
	}
	f.do(c)
	have := f.get(image()).Signatures
	for n, want := range contents {
		if n >= len(have) || !bytes.Equal(have[n].Content, want) {
			f.Fatalf("content %d of %d, which is %.20q and has %d bytes, does not come back as it was", n, len(have), want, len(want))
		}
	}
	f.same("what the image has", c.Add, have)
}

// testImmutable scribbles on everything the store gave out but for contents, which are nobody's to
// write to, and on what it was given.
func testImmutable(f *fixture) {
	c := adding(image(), 1, 3)
	c.Withdraw = []store.Withdrawal{withdrawal("w", store.ScopeSignature)}
	c.Then = []store.Task{task("t", epoch())}
	c.Record.Names = []string{"one", "two"}
	set := f.do(c)
	want := unshared(f.state())
	scribble := func(s store.Set) {
		clear(s.Signatures)
		clear(s.Withdrawn)
	}
	for _, given := range []struct {
		what string
		on   func()
	}{
		{"what Get returned", func() { scribble(f.get(image())) }},
		{"what Do returned", func() { scribble(set) }},
		{"what Do was given", func() {
			for _, a := range c.Add {
				clear(a.Content)
			}
			scribble(store.Set{Signatures: c.Add, Withdrawn: c.Withdraw})
			clear(c.Then[0].Detail)
			clear(c.Record.Names)
		}},
		{"what List returned", func() {
			for _, e := range f.list(store.Filter{Kind: store.Signatures}, 10) {
				*e.Signature = store.Signature{}
			}
			for _, e := range f.list(store.Filter{Kind: store.Tasks}, 10) {
				clear(e.Task.Detail)
				*e.Task = store.Task{}
			}
		}},
		{"what Records returned", func() { clear(f.records()[0].Names) }},
	} {
		given.on()
		f.same("the store after "+given.what+" was written to", want, f.state())
	}
}

// unshared copies what a store may have given out without a copy.
func unshared(s state) state {
	for i, set := range s.Sets {
		set.Signatures, set.Withdrawn = slices.Clone(set.Signatures), slices.Clone(set.Withdrawn)
		for n := range set.Signatures {
			set.Signatures[n].Content = bytes.Clone(set.Signatures[n].Content)
		}
		s.Sets[i] = set
	}
	for _, entries := range [][]store.Entry{s.Signatures, s.Withdrawals, s.Tasks} {
		for n, e := range entries {
			switch {
			case e.Signature != nil:
				entries[n].Signature = new(*e.Signature)
			case e.Withdrawal != nil:
				entries[n].Withdrawal = new(*e.Withdrawal)
			default:
				entries[n].Task = new(*e.Task)
				entries[n].Task.Detail = bytes.Clone(e.Task.Detail)
			}
		}
	}
	for n := range s.Records {
		s.Records[n].Names = slices.Clone(s.Records[n].Names)
	}
	return s
}

func testDense(f *fixture) {
	f.do(adding(image(), 1, 5))
	f.do(store.Change{Image: image(), Drop: []string{signature(image(), 1).Name, signature(image(), 4).Name}})
	w := withdrawal("w", store.ScopeSignature)
	w.Name = signature(image(), 3).Name
	f.do(store.Change{Image: image(), Withdraw: []store.Withdrawal{w}, Add: signatures(image(), 6, 6)})
	f.has(image(), signature(image(), 2), signature(image(), 5), signature(image(), 6))
	f.listedAsRead(image())
	f.do(store.Change{Image: image(), Drop: []string{signature(image(), 2).Name}, Add: signatures(image(), 2, 2)})
	f.has(image(), signature(image(), 5), signature(image(), 6), signature(image(), 2))
	f.listedAsRead(image())
	f.do(store.Change{Image: image(), Withdraw: []store.Withdrawal{withdrawal("v", store.ScopeSignature)}})
	f.do(store.Change{Image: image(), Lift: []store.Withdrawal{w}, Withdraw: []store.Withdrawal{w}})
	f.listedAsRead(image())
}

// listedAsRead holds listings of an image, an entry a page, to the order of what Get returns.
func (f *fixture) listedAsRead(i api.Image) {
	f.Helper()
	var want, have []store.Entry
	set := f.get(i)
	for n := range set.Signatures {
		set.Signatures[n].Content = nil
		want = append(want, store.Entry{Image: i, Index: n + 1, Signature: &set.Signatures[n]})
	}
	for n := range set.Withdrawn {
		want = append(want, store.Entry{Image: i, Withdrawal: &set.Withdrawn[n]})
	}
	for _, kind := range []string{store.Signatures, store.Withdrawals} {
		have = append(have, f.list(store.Filter{Kind: kind, Host: i.Host, Repository: i.Repository, Digest: string(i.Digest)}, 1)...)
	}
	f.same("the listing of "+i.String(), want, have)
}

func testIdempotent(f *fixture) {
	i := image()
	byName, byKey, all := withdrawal("name", store.ScopeSignature), withdrawal("key", store.ScopeKey), withdrawal("image", store.ScopeImage)
	byName.Name, byKey.Key = signature(i, 2).Name, fingerprint(0)
	record := store.Record{Action: store.Withdrawn, Subject: "zoe"}
	queueing := adding(i, 1, 2)
	queueing.At, queueing.Then = 1, []store.Task{task("t", time.Time{})}
	otherBytes := withContent(i, 1, []byte("the same signature in other bytes"))
	for n, c := range []store.Change{
		queueing,
		{Image: i, Drop: []string{signature(i, 1).Name}, Add: signatures(i, 3, 4), Record: admitted()},
		{Image: i, Withdraw: []store.Withdrawal{byName}, Record: record},
		{Image: i, Withdraw: []store.Withdrawal{byKey}, Record: record},
		{Image: i, Lift: []store.Withdrawal{byName, byKey}, Record: record},
		{Image: i, Add: []store.Signature{own(i, 1), own(i, 2), own(i, 3)}, Record: admitted()},
		{Image: i, Add: []store.Signature{own(i, 4)}, Record: admitted()}, // and own 1 has to go
		{Image: i, Add: []store.Signature{otherBytes, signature(i, 1)}, Record: admitted()},
		{Image: i, Withdraw: []store.Withdrawal{all}, Record: record},
	} {
		once := f.do(c)
		want := f.state()
		f.clock.advance(time.Second)
		f.same(fmt.Sprintf("change %d, done twice", n), once, f.do(c))
		f.same(fmt.Sprintf("the store after change %d, done twice", n), want, f.state())
	}
}

// testThereAlready adds what stands for something that is there, in other bytes or made anew.
func testThereAlready(f *fixture) {
	i := image()
	before := f.do(store.Change{Image: i, Add: []store.Signature{signature(i, 1), own(i, 1)}})
	otherBytes := withContent(i, 1, []byte("the same signature in other bytes"))
	anew := withContent(i, 2, []byte("made again, later"))
	anew.Own, anew.Fingerprint, anew.Reference = true, own(i, 1).Fingerprint, own(i, 1).Reference
	f.same("the set", before, f.do(store.Change{Image: i, Add: []store.Signature{otherBytes, anew}, Record: admitted()}))
	f.same("the records", []store.Record(nil), f.records())
	f.do(store.Change{Image: i, Add: []store.Signature{otherBytes, signature(i, 2), signature(i, 2), anew}})
	f.has(i, signature(i, 1), own(i, 1), signature(i, 2))
}

func testIf(f *fixture) {
	first := adding(image(), 1, 1)
	first.If = 1
	f.refused(first, store.ErrChanged)
	version := f.do(adding(image(), 1, 1)).Version
	c := adding(image(), 2, 2)
	for _, wrong := range []uint64{version + 1, version + 1<<40} {
		c.If = wrong
		f.refused(c, store.ErrChanged)
	}
	f.refused(store.Change{Image: image(), If: version + 1, Record: store.Record{Action: store.Refused}}, store.ErrChanged)
	c.If = version
	if after := f.do(c); after.Version <= version {
		f.Errorf("version after a change: %d, want more than %d", after.Version, version)
	}
	f.refused(c, store.ErrChanged) // was done
	f.has(image(), signature(image(), 1), signature(image(), 2))
}

func testAt(f *fixture) {
	at := func(place, from, to int) store.Change {
		c := adding(image(), from, to)
		c.At = place
		return c
	}
	f.refused(at(2, 1, 1), store.ErrIndex)
	f.do(at(1, 1, 1))
	f.do(at(1, 1, 1)) // has it
	f.refused(at(1, 2, 2), store.ErrIndex)
	f.refused(at(3, 2, 2), store.ErrIndex)
	f.refused(at(2, 1, 1), store.ErrIndex)
	f.do(at(2, 2, 3)) // only the first of them is asked about
	f.has(image(), signatures(image(), 1, 3)...)
	f.do(store.Change{Image: image(), Drop: []string{signature(image(), 1).Name}})
	f.refused(at(1, 4, 4), store.ErrIndex)
	f.do(at(1, 2, 2)) // moved up
}

// testWhole has changes that would do something of every kind, and are refused for one reason each.
func testWhole(f *fixture) {
	i := image()
	w, key := withdrawal("gone", store.ScopeSignature), withdrawal("new", store.ScopeKey)
	w.Name, key.Key = signature(i, 9).Name, fingerprint(7)
	start := adding(i, 1, 3)
	start.Withdraw, start.Then = []store.Withdrawal{w}, []store.Task{task("held", epoch())}
	version := f.do(start).Version
	held := f.take(time.Hour)
	held.State = store.Done
	c := store.Change{
		Image: i, Add: []store.Signature{own(i, 1), signature(i, 4)}, Drop: []string{signature(i, 1).Name},
		Withdraw: []store.Withdrawal{key}, Lift: []store.Withdrawal{withdrawal("none", store.ScopeImage)},
		Then: []store.Task{task("next", epoch())}, Ends: &held, Record: admitted(),
	}
	for _, refusal := range []struct {
		want error
		make func(c *store.Change)
	}{
		{store.ErrWithdrawn, func(c *store.Change) { c.Add = append(slices.Clone(c.Add), signature(i, 9)) }},
		{store.ErrFull, func(c *store.Change) { c.Add = append(slices.Clone(c.Add), signatures(i, 5, 6)...) }},
		{store.ErrIndex, func(c *store.Change) { c.At = 1 }},
		{store.ErrChanged, func(c *store.Change) { c.If = version + 1 }},
		{store.ErrLease, func(c *store.Change) { c.Ends = &store.Task{Key: "held", State: store.Done, Lease: "another"} }},
		{store.ErrLease, func(c *store.Change) { c.Ends = &store.Task{Key: "none", State: store.Done} }},
	} {
		bad := c
		refusal.make(&bad)
		f.refused(bad, refusal.want)
	}
	scope, ends := c, c
	scope.Withdraw = []store.Withdrawal{withdrawal("new", "everything")}
	ends.Ends = &store.Task{Key: "held", State: "finished", Lease: held.Lease}
	f.mistaken(scope)
	f.mistaken(ends)
	f.do(c) // nothing of it was left behind, nor is the lease gone
	f.has(i, signature(i, 2), signature(i, 3), own(i, 1), signature(i, 4))
}

// mistaken is a change that no error of the contract is for; nothing may be done.
func (f *fixture) mistaken(c store.Change) {
	f.Helper()
	before := f.state()
	_, err := f.s.Do(f.Context(), c)
	if err == nil {
		f.Fatalf("Do(%s): no error, want one for a caller's mistake", describe(c))
	}
	for _, other := range sentinels() {
		if errors.Is(err, other) {
			f.Errorf("Do(%s): %v, want no error of the contract for a caller's mistake", describe(c), err)
		}
	}
	f.same("what is there after "+describe(c)+" was refused", before, f.state())
}

func sentinels() []error {
	return []error{store.ErrWithdrawn, store.ErrFull, store.ErrIndex, store.ErrChanged, store.ErrLease, store.ErrUnavailable, store.ErrNone, store.ErrCursor}
}

func testRefusal(f *fixture) {
	refusal := store.Record{Action: store.Refused, Subject: "ci", Reason: "the key is not trusted", Names: []string{"a name"}}
	f.do(store.Change{Image: image(), Record: refusal})
	want := refusal
	want.Image, want.Time = image(), epoch()
	f.same("the record of a refusal", []store.Record{want}, f.records())
	f.same("the set of an image that only had a refusal", store.Set{}, f.get(image()))
	for _, kind := range []string{store.Signatures, store.Withdrawals, store.Tasks} {
		f.same("the listing of "+kind+" after a refusal", []store.Entry(nil), f.list(store.Filter{Kind: kind}, 10))
	}
	before := f.do(adding(image(), 1, 1))
	f.same("the set after a refusal", before, f.do(store.Change{Image: image(), Record: refusal}))
	f.same("how many records there are", 3, len(f.records()))
}

func testContextEnded(f *fixture) {
	f.do(store.Change{Image: image(), Then: []store.Task{task("t", epoch())}, Record: admitted()})
	ended, cancel := context.WithCancel(f.Context())
	cancel()
	c := adding(image(), 1, 1)
	if _, err := f.s.Do(ended, c); !errors.Is(err, store.ErrUnavailable) {
		f.Errorf("Do after its context ended: %v, want %v", err, store.ErrUnavailable)
	}
	_, get := f.s.Get(ended, image())
	_, _, list := f.s.List(ended, store.Filter{Kind: store.Tasks}, "", 1)
	_, _, records := f.s.Records(ended, "", 1)
	_, take := f.s.Take(ended, time.Minute)
	for what, err := range map[string]error{"Get": get, "List": list, "Records": records, "Take": take} {
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			f.Errorf("%s after its context ended: %v, want %v", what, err, store.ErrUnavailable)
		}
	}
	f.do(c) // again, as ErrUnavailable says
	f.has(image(), signature(image(), 1))
	f.same("how many records there are", 2, len(f.records()))
}
