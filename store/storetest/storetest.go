// Package storetest holds a store to the contract of store.Store: every store passes the same test.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Test runs a subtest for each sentence of the contract. Each opens its own store, which is empty
// and is closed by a Cleanup that open registers; the clock stands still until the subtest moves it.
// Counts are a tenth of what COUNTERSIGN_SOAK=1 makes them. Not seen through the interface, and left
// to the store's own tests: what survives a crash, and an entry that no longer reads.
func Test(t *testing.T, open func(t *testing.T, limits store.Limits, clock func() time.Time) store.Store) {
	tests := []subtest{}
	for _, group := range [][]subtest{changes(), withdrawals(), limits(), records(), tasks(), taskEnds(), listings(), together(), starts()} {
		tests = append(tests, group...)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &clock{t: epoch()}
			reopen := func() store.Store { return open(t, test.limits, c.now) }
			test.run(&fixture{T: t, s: reopen(), clock: c, another: reopen})
		})
	}
}

type subtest struct {
	name   string
	limits store.Limits
	run    func(*fixture)
}

// A fixture is one store under test. Its methods fail the test, so they are for the test's own
// goroutine.
type fixture struct {
	*testing.T
	s       store.Store
	clock   *clock
	another func() store.Store // an empty one with the same limits and clock
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// epoch is when clocks start. Whole seconds: not every store keeps nanoseconds.
func epoch() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// many is n, or a tenth of it in a short run.
func many(n int) int {
	if os.Getenv("COUNTERSIGN_SOAK") == "1" {
		return n
	}
	return max(1, n/10)
}

// images are in the order of a listing. Joined to one string, or by a collation, they are in another.
func images() []api.Image {
	var all []api.Image
	for _, host := range []string{"Z.example", "registry.example", "registry.example-2", "registry.example:5000"} {
		for _, repository := range []string{"app", "app-2", "app/two"} {
			for _, content := range []string{"b", "a"} { // sha256:3e… and sha256:ca…
				all = append(all, api.Image{Host: host, Repository: repository, Digest: digest.FromString(content)})
			}
		}
	}
	return all
}

func image() api.Image { return images()[8] }

func fingerprint(n int) string { return fmt.Sprintf("%040X", 0xA0+n) }

// signature n of an image is by one of three keys, in turn.
func signature(i api.Image, n int) store.Signature {
	return withContent(i, n, fmt.Appendf(nil, "signature %d of %s", n, i))
}

func withContent(i api.Image, n int, content []byte) store.Signature {
	return store.Signature{
		Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprintf("identity %d", n),
		Fingerprint: fingerprint(n % 3), UserID: "Zoë 'Z' <zoe@example>", Reference: fmt.Sprintf("registry.example/app:v%d", n),
		Origin: "upload", Uploader: "ci", Signed: epoch().Add(-time.Hour), Added: epoch(),
	}
}

// own is what the server made, for a tag of its own.
func own(i api.Image, n int) store.Signature {
	s := withContent(i, n, fmt.Appendf(nil, "own %d of %s", n, i))
	s.Identity, s.Own, s.Fingerprint, s.Origin, s.Uploader = fmt.Sprintf("own %d", n), true, fingerprint(9), "push", ""
	return s
}

func signatures(i api.Image, from, to int) (all []store.Signature) {
	for n := from; n <= to; n++ {
		all = append(all, signature(i, n))
	}
	return all
}

func admitted() store.Record {
	return store.Record{Action: store.Admitted, Subject: "ci", Address: "192.0.2.1"}
}

// adding is the change that admits signatures from to to of an image.
func adding(i api.Image, from, to int) store.Change {
	return store.Change{Image: i, Add: signatures(i, from, to), Record: admitted()}
}

func withdrawal(id, scope string) store.Withdrawal {
	return store.Withdrawal{ID: id, Scope: scope, Reason: "lost \"key\"", Subject: "zoe", Time: epoch()}
}

func task(key string, due time.Time) store.Task {
	return store.Task{Key: key, Kind: "sign", Image: image(), Detail: []byte(`{"tag":"v1"}`), Due: due}
}

func (f *fixture) do(c store.Change) store.Set {
	f.Helper()
	set, err := f.s.Do(f.Context(), c)
	if err != nil {
		f.Fatalf("Do(%s): %v, want it done", describe(c), err)
	}
	if have := f.get(c.Image); cmp.Diff(set, have, equal()) != "" {
		f.Fatalf("Do(%s) returned another set than Get (-Do +Get):\n%s", describe(c), cmp.Diff(set, have, equal()))
	}
	return set
}

// refused also holds the store to leaving everything as it was.
func (f *fixture) refused(c store.Change, want error) {
	f.Helper()
	before := f.state()
	if _, err := f.s.Do(f.Context(), c); !errors.Is(err, want) {
		f.Fatalf("Do(%s): %v, want %v", describe(c), err, want)
	}
	f.same("what is there after "+describe(c)+" was refused", before, f.state())
}

func (f *fixture) get(i api.Image) store.Set {
	f.Helper()
	set, err := f.s.Get(f.Context(), i)
	if err != nil {
		f.Fatalf("Get(%s): %v", i, err)
	}
	return set
}

// has holds an image to having these signatures, in this order.
func (f *fixture) has(i api.Image, want ...store.Signature) {
	f.Helper()
	f.same("what "+i.String()+" has", want, f.get(i).Signatures)
}

// list pages through everything; it gives up on a listing without end.
func (f *fixture) list(filter store.Filter, limit int) (all []store.Entry) {
	f.Helper()
	var after store.Cursor
	for range 5000 {
		page, next, err := f.s.List(f.Context(), filter, after, limit)
		if err != nil {
			f.Fatalf("List(%+v, %q, %d): %v", filter, after, limit, err)
		}
		if len(page) > max(1, limit) {
			f.Fatalf("List(%+v, limit %d): %d entries", filter, limit, len(page))
		}
		all = append(all, page...)
		if after = next; next == "" {
			return all
		}
	}
	f.Fatalf("List(%+v, limit %d): no end after 5000 pages and %d entries", filter, limit, len(all))
	return nil
}

func (f *fixture) trail(after store.Cursor, limit int) ([]store.Record, store.Cursor) {
	f.Helper()
	page, next, err := f.s.Records(f.Context(), after, limit)
	if err != nil {
		f.Fatalf("Records(%q, %d): %v", after, limit, err)
	}
	return page, next
}

// records reads the whole trail.
func (f *fixture) records() (all []store.Record) {
	f.Helper()
	page, cursor := f.trail("", 100)
	for ; len(page) > 0; page, cursor = f.trail(cursor, 100) {
		if all = append(all, page...); len(all) > 100_000 {
			f.Fatalf("Records: no end after %d", len(all))
		}
	}
	return all
}

func (f *fixture) take(lease time.Duration) store.Task {
	f.Helper()
	t, err := f.s.Take(f.Context(), lease)
	if err != nil {
		f.Fatalf("Take at %s: %v, want a task", f.clock.now(), err)
	}
	return t
}

func (f *fixture) takesNone() {
	f.Helper()
	if t, err := f.s.Take(f.Context(), time.Minute); !errors.Is(err, store.ErrNone) {
		f.Fatalf("Take at %s: %+v, %v, want %v", f.clock.now(), t, err, store.ErrNone)
	}
}

// A state is everything that can be seen of a store.
type state struct {
	Sets                           map[string]store.Set
	Signatures, Withdrawals, Tasks []store.Entry
	Records                        []store.Record
}

func (f *fixture) state() state {
	f.Helper()
	s := state{
		Sets:        make(map[string]store.Set),
		Signatures:  f.list(store.Filter{Kind: store.Signatures}, 1000),
		Withdrawals: f.list(store.Filter{Kind: store.Withdrawals}, 1000),
		Tasks:       f.list(store.Filter{Kind: store.Tasks}, 1000),
		Records:     f.records(),
	}
	for _, i := range images() {
		s.Sets[i.String()] = f.get(i)
	}
	return s
}

func equal() cmp.Option {
	some := func(x, y []byte) bool { return len(x)+len(y) > 0 }
	return cmp.Options{cmpopts.EquateEmpty(), cmp.FilterValues(some, cmp.Comparer(bytes.Equal))}
}

func (f *fixture) same(what string, want, got any) {
	f.Helper()
	if diff := cmp.Diff(want, got, equal()); diff != "" {
		f.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// together starts n at once and waits; what they return fails the test.
func (f *fixture) together(n int, run func(n int) error) {
	f.Helper()
	var ready, over sync.WaitGroup
	ready.Add(n)
	errs := make([]error, n)
	for i := range n {
		over.Go(func() {
			ready.Done()
			ready.Wait()
			errs[i] = run(i)
		})
	}
	over.Wait()
	if err := errors.Join(errs...); err != nil {
		f.Fatal(err)
	}
}

// describe says what a change asks for, in a line.
func describe(c store.Change) string {
	parts := []string{c.Image.String()}
	add := func(what string, n int) {
		if n != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", what, n))
		}
	}
	add("if", int(c.If))
	add("add", len(c.Add))
	add("at", c.At)
	add("drop", len(c.Drop))
	add("withdraw", len(c.Withdraw))
	add("lift", len(c.Lift))
	add("then", len(c.Then))
	if c.Ends != nil {
		parts = append(parts, fmt.Sprintf("end %s as %q by lease %q", c.Ends.Key, c.Ends.State, c.Ends.Lease))
	}
	return strings.Join(parts, ", ")
}
