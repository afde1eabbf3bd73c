package storetest

import (
	"github.com/countersign-dev/countersign/store"
)

func limits() []subtest {
	return []subtest{
		{name: "limit_uploaded", limits: store.Limits{Uploaded: 2}, run: testLimitUploaded},
		{name: "limit_key", limits: store.Limits{Key: 1}, run: testLimitKey},
		{name: "limit_bytes", limits: store.Limits{Bytes: 2000}, run: testLimitBytes},
		{name: "limit_all", limits: store.Limits{All: 3}, run: testLimitAll},
		{name: "limit_none", run: testLimitNone},
	}
}

func testLimitUploaded(f *fixture) {
	i := image()
	f.refused(adding(i, 1, 3), store.ErrFull)
	f.do(store.Change{Image: i, Add: []store.Signature{own(i, 1), own(i, 2), own(i, 3)}})
	f.do(adding(i, 1, 2))
	f.refused(adding(i, 3, 3), store.ErrFull)
	f.do(adding(i, 2, 2)) // has it
	f.do(adding(images()[0], 1, 2))
	f.do(store.Change{Image: i, Drop: []string{signature(i, 1).Name}, Add: signatures(i, 3, 3)})
	f.has(i, own(i, 1), own(i, 2), own(i, 3), signature(i, 2), signature(i, 3))
}

func testLimitKey(f *fixture) {
	i := image()
	f.do(adding(i, 1, 3))
	f.refused(adding(i, 4, 4), store.ErrFull)
	f.do(store.Change{Image: i, Drop: []string{signature(i, 1).Name}})
	f.do(adding(i, 4, 4))
	f.do(store.Change{Image: i, Add: []store.Signature{own(i, 1), own(i, 2)}})
	f.has(i, signature(i, 2), signature(i, 3), signature(i, 4), own(i, 1), own(i, 2))
}

func testLimitBytes(f *fixture) {
	i := image()
	big := func(n int) store.Signature {
		content := make([]byte, 1000) // 1,336 in base64
		content[0] = byte(n)
		return withContent(i, n, content)
	}
	f.do(store.Change{Image: i, Add: []store.Signature{big(1)}})
	f.refused(store.Change{Image: i, Add: []store.Signature{big(2)}}, store.ErrFull)
	mine := big(3)
	mine.Own = true
	f.do(store.Change{Image: i, Add: []store.Signature{mine}})
	f.has(i, big(1), mine)
}

func testLimitAll(f *fixture) {
	i := image()
	f.do(store.Change{Image: i, Add: []store.Signature{own(i, 1), signature(i, 1), own(i, 2)}})
	f.do(store.Change{Image: i, Add: signatures(i, 2, 2), Record: admitted()})
	f.has(i, signature(i, 1), own(i, 2), signature(i, 2))
	f.do(store.Change{Image: i, Add: []store.Signature{own(i, 3)}, Record: admitted()})
	f.has(i, signature(i, 1), signature(i, 2), own(i, 3))
	f.do(store.Change{Image: i, Add: signatures(i, 3, 4)})
	f.has(i, signatures(i, 1, 4)...) // uploaded ones make no room
	var want []store.Record
	for _, line := range []struct{ added, dropped string }{
		{signature(i, 2).Name, own(i, 1).Name}, {own(i, 3).Name, own(i, 2).Name}, {"", own(i, 3).Name},
	} {
		in, out := admitted(), store.Record{Action: store.Dropped, Names: []string{line.dropped}}
		in.Names = []string{line.added}
		if line.added != "" {
			out.Subject, out.Address = in.Subject, in.Address
			want = append(want, in)
		}
		want = append(want, out)
	}
	for n := range want {
		want[n].Image, want[n].Time = i, epoch()
	}
	got := f.records()
	for n := range got {
		got[n].Reason = "" // of a drop: the store package's words
	}
	f.same("the trail", want, got)
}

func testLimitNone(f *fixture) {
	c := adding(image(), 1, 300)
	f.do(c)
	f.has(image(), c.Add...)
}
