package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// testApply does changes at random, to the store and to a model that is nothing but Apply.
func testApply(f *fixture) {
	limits := store.Limits{Uploaded: 6, Key: 3, All: 8, Bytes: 1500}
	random := rand.New(rand.NewPCG(1, 2))
	model := make(map[api.Image]store.Set)
	var trail []store.Record
	for n := range many(1000) {
		f.clock.advance(time.Second)
		i := images()[random.IntN(3)]
		c := randomChange(random, i, model[i], n)
		want, records, wantErr := model[i].Apply(c, limits)
		got, err := f.s.Do(f.Context(), c)
		for _, sentinel := range sentinels() {
			if errors.Is(err, sentinel) != errors.Is(wantErr, sentinel) {
				f.Fatalf("change %d, %s: %v, want %v", n, describe(c), err, wantErr)
			}
		}
		if (err == nil) != (wantErr == nil) {
			f.Fatalf("change %d, %s: %v, want %v", n, describe(c), err, wantErr)
		}
		if wantErr != nil {
			want = model[i]
			got = f.get(i)
		}
		f.same(fmt.Sprintf("change %d, %s", n, describe(c)), want, got)
		model[i] = want
		for _, r := range records {
			r.Time = f.clock.now()
			trail = append(trail, r)
		}
	}
	for i, want := range model {
		f.same("what "+i.String()+" has in the end", want, f.get(i))
	}
	f.same("the trail", trail, f.records())
}

func randomChange(random *rand.Rand, i api.Image, have store.Set, n int) store.Change {
	some := func(percent int) bool { return random.IntN(100) < percent }
	anyOf := func() store.Signature {
		switch s := random.IntN(20); {
		case s < 10:
			return signature(i, s)
		case s < 13:
			return withContent(i, s%5, []byte{byte(s)}) // other bytes of the same
		}
		return own(i, random.IntN(6))
	}
	c := store.Change{Image: i}
	for some(60) {
		c.Add = append(c.Add, anyOf())
	}
	if some(15) {
		c.Drop = []string{anyOf().Name}
	}
	if some(15) {
		w := withdrawal(fmt.Sprintf("w%d", n), []string{store.ScopeSignature, store.ScopeKey, store.ScopeImage}[max(0, random.IntN(8)-5)])
		w.Name, w.Key = anyOf().Name, anyOf().Fingerprint
		c.Withdraw = []store.Withdrawal{w}
	}
	if len(have.Withdrawn) > 0 && some(40) {
		c.Lift = []store.Withdrawal{have.Withdrawn[random.IntN(len(have.Withdrawn))]}
	}
	if some(10) {
		c.If = have.Version + uint64(random.IntN(2))
	}
	if some(10) {
		c.At = random.IntN(6)
	}
	if some(80) {
		c.Record = admitted()
	}
	return c
}
