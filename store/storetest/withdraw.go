package storetest

import (
	"fmt"
	"slices"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

func withdrawals() []subtest {
	return []subtest{
		{name: "withdraw_signature", run: testWithdrawSignature},
		{name: "withdraw_key", run: testWithdrawKey},
		{name: "withdraw_image", run: testWithdrawImage},
		{name: "withdraw_under_reader", run: testWithdrawUnderReader},
	}
}

func testWithdrawSignature(f *fixture) {
	i := image()
	f.do(adding(i, 1, 3))
	w := withdrawal("w", store.ScopeSignature)
	w.Name = signature(i, 2).Name
	set := f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{w}})
	f.has(i, signature(i, 1), signature(i, 3))
	w.Identity = signature(i, 2).Identity
	f.same("what is withdrawn", []store.Withdrawal{w}, set.Withdrawn)
	f.refused(adding(i, 2, 2), store.ErrWithdrawn)
	otherBytes := withContent(i, 2, []byte("the same signature in other bytes"))
	f.refused(store.Change{Image: i, Add: []store.Signature{otherBytes}}, store.ErrWithdrawn)
	f.do(adding(images()[0], 2, 2)) // another image's
	set = f.do(store.Change{Image: i, Lift: []store.Withdrawal{{ID: "w"}}})
	f.same("what is withdrawn after the lift", []store.Withdrawal(nil), set.Withdrawn)
	f.has(i, signature(i, 1), signature(i, 3)) // a lift brings nothing back
	f.do(adding(i, 2, 2))
	f.has(i, signature(i, 1), signature(i, 3), signature(i, 2))
}

func testWithdrawKey(f *fixture) {
	i, other := image(), images()[0]
	f.do(adding(i, 1, 5))
	f.do(adding(other, 1, 2))
	w := withdrawal("w", store.ScopeKey)
	w.Key = fingerprint(1) // of 1, 4, 7
	f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{w}})
	f.has(i, signature(i, 2), signature(i, 3), signature(i, 5))
	f.has(other, signatures(other, 1, 2)...)
	f.refused(adding(i, 7, 7), store.ErrWithdrawn)
	f.refused(adding(i, 6, 7), store.ErrWithdrawn)
	f.do(adding(other, 7, 7))
	f.do(adding(i, 6, 6))
	f.do(store.Change{Image: i, Lift: []store.Withdrawal{w}, Add: signatures(i, 7, 7)}) // the lift is first
	f.has(i, signature(i, 2), signature(i, 3), signature(i, 5), signature(i, 6), signature(i, 7))
}

func testWithdrawImage(f *fixture) {
	i := image()
	w := withdrawal("w", store.ScopeImage)
	f.refused(store.Change{Image: i, Withdraw: []store.Withdrawal{w}, Add: signatures(i, 1, 1)}, store.ErrWithdrawn)
	if set := f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{w}}); set.Version == 0 {
		f.Error("version of an image that was withdrawn before it had anything: 0, want more")
	}
	f.refused(adding(i, 1, 1), store.ErrWithdrawn)
	f.refused(store.Change{Image: i, Add: []store.Signature{own(i, 1)}}, store.ErrWithdrawn)
	second := withdrawal("w2", store.ScopeImage)
	f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{second}, Lift: []store.Withdrawal{w}})
	f.refused(adding(i, 1, 1), store.ErrWithdrawn)
	f.do(store.Change{Image: i, Lift: []store.Withdrawal{second}})
	f.do(adding(i, 1, 2))
	f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{w}})
	f.has(i)
}

// testWithdrawUnderReader has a reader that asks for index after index, as clients of a lookaside do,
// and withdraws one signature when it has read some. As the places behind it move up, that reader
// passes over the next one when the withdrawn place is behind it: without a gap nothing can spare it
// that, since fewer places are left than it has yet to see. It misses no more, and nothing at all when
// the place is still ahead of it.
func testWithdrawUnderReader(f *fixture) {
	const all = 5
	for read := range all + 1 {
		for gone := 1; gone <= all; gone++ {
			i := api.Image{Host: "registry.example", Repository: fmt.Sprintf("r%d/g%d", read, gone), Digest: image().Digest}
			f.do(adding(i, 1, all))
			withdraw := func() {
				w := withdrawal("w", store.ScopeSignature)
				w.Name = signature(i, gone).Name
				f.do(store.Change{Image: i, Withdraw: []store.Withdrawal{w}})
			}
			seen := f.walk(i, read, withdraw)
			var missed []int
			for n := 1; n <= all; n++ {
				if n != gone && !slices.Contains(seen, signature(i, n).Name) {
					missed = append(missed, n)
				}
			}
			if gone > read && len(missed) > 0 || len(missed) > 1 {
				f.Errorf("signature %d of %d was withdrawn when %d were read: the reader missed %v", gone, all, read, missed)
			}
			if again := f.walk(i, 0, func() {}); len(again) != all-1 || slices.Contains(again, signature(i, gone).Name) {
				f.Errorf("signature %d of %d was withdrawn: the next reader saw %q", gone, all, again)
			}
		}
	}
}

// walk returns the names it read, one Get an index, until there is none; between runs after so many.
func (f *fixture) walk(i api.Image, after int, between func()) (seen []string) {
	f.Helper()
	for index := 1; ; index++ {
		if len(seen) == after {
			between()
		}
		set := f.get(i)
		if index > len(set.Signatures) {
			return seen
		}
		s := set.Signatures[index-1]
		if s.Name != api.Name(i.Digest, s.Content) {
			f.Fatalf("signature %d of %s: content %q is not that of %s", index, i, s.Content, s.Name)
		}
		seen = append(seen, s.Name)
	}
}
