package disk_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
	"github.com/countersign-dev/countersign/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Test(t, func(t *testing.T, limits store.Limits, clock func() time.Time) store.Store {
		return open(t, t.TempDir(), disk.Options{Limits: limits, Clock: clock})
	})
}

// What is not through with when the store is closed says so, and nothing hangs.
func TestClosed(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	do(t, s, adding(image("app"), 1))
	var writers sync.WaitGroup
	for n := range 20 {
		writers.Go(func() {
			if _, err := s.Do(t.Context(), adding(image("app"), 2+n)); err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Do while the store is closed: %v, want none or %v", err, store.ErrUnavailable)
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	writers.Wait()
	_, get := s.Get(t.Context(), image("app"))
	_, do := s.Do(t.Context(), adding(image("app"), 1))
	started := make(chan error, 1)
	s.Start(t.Context(), adding(image("app"), 1), func(_ store.Set, err error) { started <- err })
	_, _, list := s.List(t.Context(), store.Filter{Kind: store.Tasks}, "", 1)
	_, _, records := s.Records(t.Context(), "", 1)
	_, take := s.Take(t.Context(), time.Minute)
	for what, err := range map[string]error{"Get": get, "Do": do, "Start": <-started, "List": list, "Records": records, "Take": take} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want %v", what, err, store.ErrUnavailable)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

// A Take whose context ends may lease a task all the same, and nobody has it: it is due again when
// the lease is over.
func TestTakeThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		within, cancel := context.WithCancel(t.Context())
		var looks atomic.Int64
		looks.Store(-100)
		returned := make(chan struct{})
		s := open(t, t.TempDir(), disk.Options{Limits: options(t).Limits, Clock: func() time.Time {
			if looks.Add(1) == 2 { // the first is whether anything is due, and this is in the transaction
				cancel()
				<-returned
			}
			return time.Now()
		}})
		do(t, s, store.Change{Image: image("app"), Then: []store.Task{{Key: "task", Kind: "sign", Image: image("app")}}})
		looks.Store(0)
		if task, err := s.Take(within, time.Minute); !errors.Is(err, store.ErrUnavailable) || task.Key != "" {
			t.Errorf("Take whose context ends: %+v, %v, want nothing, %v", task, err, store.ErrUnavailable)
		}
		close(returned)
		<-time.After(time.Second)
		if _, err := s.Take(t.Context(), time.Minute); !errors.Is(err, store.ErrNone) {
			t.Errorf("Take while the task is leased: %v, want %v", err, store.ErrNone)
		}
		<-time.After(time.Minute)
		if task, err := s.Take(t.Context(), time.Minute); err != nil || task.Attempts != 2 {
			t.Errorf("Take when its lease is over: %+v, %v, want the second attempt", task, err)
		}
	})
}

// What could never be read again is refused before it is stored.
func TestMistakes(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	other := signature(image("app"), 1)
	other.Content = []byte("something else")
	elsewhere := image("app")
	elsewhere.Digest = "sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff"
	for name, c := range map[string]store.Change{
		"another content":   {Image: image("app"), Add: []store.Signature{other}},
		"of another digest": {Image: elsewhere, Add: []store.Signature{signature(image("app"), 1)}},
		"task without key":  {Image: image("app"), Then: []store.Task{{Kind: "sign"}}},
		"long key":          {Image: image("app"), Then: []store.Task{{Key: string(make([]byte, 40_000))}}},
	} {
		c.Record = store.Record{Action: store.Admitted}
		if _, err := s.Do(t.Context(), c); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want an error that is not %v: doing it again is no use", name, err, store.ErrUnavailable)
		}
	}
	if got := records(t, s); len(got) != 0 {
		t.Errorf("records of refused changes: %v", got)
	}
}

// A trail may be as long as the one before it, or longer, before somebody asks it where that was left.
func TestCursorOfAnotherTrail(t *testing.T) {
	t.Parallel()
	write := func(name string, n int) (s *disk.Store) {
		s = open(t, t.TempDir(), options(t))
		for m := range n {
			do(t, s, adding(image(fmt.Sprint(name, m)), 1))
		}
		return s
	}
	before, after := write("before", 5), write("after", 6)
	_, cursor, err := before.Records(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	if page, _, err := after.Records(t.Context(), cursor, 10); !errors.Is(err, store.ErrCursor) {
		t.Errorf("a cursor of another trail: %d records, %v, want %v", len(page), err, store.ErrCursor)
	}
	do(t, before, adding(image("next"), 1))
	old := store.Cursor(base64.RawURLEncoding.EncodeToString([]byte("r\x00\x00\x00\x00\x00\x00\x00\x05")))
	for what, c := range map[string]store.Cursor{"one of this": cursor, "one without a sum, of earlier versions": old} {
		page, next, err := before.Records(t.Context(), c, 10)
		if err != nil || len(page) != 1 || page[0].Image != image("next") {
			t.Errorf("after %s: %v, %v, want the record that came since", what, page, err)
		}
		if _, _, err := after.Records(t.Context(), next, 10); !errors.Is(err, store.ErrCursor) {
			t.Errorf("the cursor that follows %s: %v of another trail, want %v", what, err, store.ErrCursor)
		}
	}
}

func options(t *testing.T) disk.Options {
	return disk.Options{
		Clock:   func() time.Time { return epoch() },
		Damaged: func(i api.Image, name string, err error) { t.Errorf("damaged: %s %s: %v", i, name, err) },
	}
}

func epoch() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// open opens a store that is closed with the test, if it is not before.
func open(t *testing.T, directory string, o disk.Options) *disk.Store {
	t.Helper()
	s, err := disk.Open(directory, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t *testing.T, s *disk.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func image(repository string) api.Image {
	return api.Image{Host: "registry.example", Repository: repository, Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
}

func signature(i api.Image, n int) store.Signature {
	content := fmt.Appendf(nil, "signature %d of %s", n, i)
	return store.Signature{
		Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprint("identity ", n),
		Fingerprint: fmt.Sprintf("%040X", n%3), Reference: i.Host + "/" + i.Repository + ":v1", Origin: "upload",
		Signed: epoch(), Added: epoch(),
	}
}

func adding(i api.Image, ns ...int) store.Change {
	c := store.Change{Image: i, Record: store.Record{Action: store.Admitted, Subject: "ci"}}
	for _, n := range ns {
		c.Add = append(c.Add, signature(i, n))
	}
	return c
}

func do(t *testing.T, s *disk.Store, c store.Change) store.Set {
	t.Helper()
	set, err := s.Do(t.Context(), c)
	if err != nil {
		t.Fatalf("Do: %v", err)
	}
	return set
}

func get(t *testing.T, s *disk.Store, i api.Image) store.Set {
	t.Helper()
	set, err := s.Get(t.Context(), i)
	if err != nil {
		t.Fatalf("Get %s: %v", i, err)
	}
	return set
}

// list goes through a listing, so many at once, and returns how many pages that took.
func list(t *testing.T, s *disk.Store, f store.Filter, limit int) (all []store.Entry, pages int) {
	t.Helper()
	for after, first := store.Cursor(""), true; first || after != ""; first = false {
		page, next, err := s.List(t.Context(), f, after, limit)
		if err != nil {
			t.Fatalf("List %+v after %q: %v", f, after, err)
		}
		if next == after && next != "" {
			t.Fatalf("List %+v: the cursor stands still, after %d entries", f, len(all))
		}
		all, after = append(all, page...), next
		pages++
	}
	return all, pages
}

func records(t *testing.T, s *disk.Store) (all []store.Record) {
	t.Helper()
	for after := store.Cursor(""); ; {
		page, next, err := s.Records(t.Context(), after, 1000)
		if err != nil {
			t.Fatalf("Records after %q: %v", after, err)
		}
		if len(page) == 0 {
			return all
		}
		all, after = append(all, page...), next
	}
}
