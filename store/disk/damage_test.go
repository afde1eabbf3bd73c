package disk_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// A spoiled store was written to behind its back. It notes what it was told of damage.
type spoiled struct {
	*disk.Store
	told []string // the image's repository and the signature's name
}

// spoil makes a store with these changes, spoils its file, and opens it again.
func spoil(t *testing.T, f func(tx *bbolt.Tx) error, changes ...store.Change) *spoiled {
	t.Helper()
	directory := t.TempDir()
	s := open(t, directory, options(t))
	for _, c := range changes {
		do(t, s, c)
	}
	closeStore(t, s)
	change(t, filepath.Join(directory, "signatures.db"), f)
	o, after := options(t), &spoiled{}
	o.Damaged = func(i api.Image, name string, err error) {
		if err == nil {
			t.Errorf("told of damage to %s %s without a reason", i, name)
		}
		after.told = append(after.told, i.Repository+" "+name)
	}
	after.Store = open(t, directory, o)
	return after
}

func (s *spoiled) wasTold(t *testing.T, what string, want ...string) {
	t.Helper()
	if !slices.Equal(s.told, want) {
		t.Errorf("damages told of by %s: %q, want %q", what, s.told, want)
	}
	s.told = nil
}

func imageKey(i api.Image) []byte {
	return []byte(i.Host + "\x00" + i.Repository + "\x00" + string(i.Digest))
}

// contentKey is of the n-th content that came.
func contentKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func names(set store.Set) (all []string) {
	for _, s := range set.Signatures {
		all = append(all, s.Name)
	}
	return all
}

func namesOf(i api.Image, ns ...int) (all []string) {
	for _, n := range ns {
		all = append(all, signature(i, n).Name)
	}
	return all
}

func TestContentDamaged(t *testing.T) {
	t.Parallel()
	app := image("app")
	s := spoil(t, func(tx *bbolt.Tx) error {
		contents := tx.Bucket([]byte("contents"))
		return errors.Join(contents.Delete(contentKey(1)), contents.Put(contentKey(3), []byte("forged")))
	}, adding(app, 1, 2, 3, 4))
	one, three := "app "+signature(app, 1).Name, "app "+signature(app, 3).Name

	set := get(t, s.Store, app)
	if got, want := names(set), namesOf(app, 2, 4); !slices.Equal(got, want) {
		t.Errorf("Get: %q, want %q", got, want)
	}
	s.wasTold(t, "Get", one, three)
	entries, _ := list(t, s.Store, store.Filter{Kind: store.Signatures}, 10)
	for n, e := range entries {
		if e.Index != n+1 || e.Signature.Name != set.Signatures[n].Name {
			t.Errorf("listed: %d, %s, want what Get has at %d", e.Index, e.Signature.Name, n+1)
		}
	}
	s.wasTold(t, "List", one, three)

	// It can be brought again, and is last then, in a listing by small pages, too.
	do(t, s.Store, adding(app, 3))
	s.told = nil
	if got, want := names(get(t, s.Store, app)), namesOf(app, 2, 4, 3); !slices.Equal(got, want) {
		t.Errorf("Get, after 3 was brought again: %q, want %q", got, want)
	}
	s.wasTold(t, "Get, after a change")
	entries, _ = list(t, s.Store, store.Filter{Kind: store.Signatures}, 1)
	var got []string
	for _, e := range entries {
		got = append(got, e.Signature.Name)
	}
	if want := namesOf(app, 2, 4, 3); !slices.Equal(got, want) {
		t.Errorf("listed one by one, after 3 was brought again: %q, want %q", got, want)
	}
}

// An image that points to what is another's is served nothing of it, and mended without it.
func TestContentOfAnother(t *testing.T) {
	t.Parallel()
	app, other := image("app"), image("other")
	s := spoil(t, func(tx *bbolt.Tx) error {
		images := tx.Bucket([]byte("images"))
		value := bytes.Replace(images.Get(imageKey(app)), []byte(`"at":1`), []byte(`"at":2`), 1)
		return images.Put(imageKey(app), value)
	}, adding(app, 1), adding(other, 1))
	if set := get(t, s.Store, app); len(set.Signatures) != 0 {
		t.Errorf("Get: %q, want nothing of another's", names(set))
	}
	s.wasTold(t, "Get", "app "+signature(app, 1).Name)
	dropped, err := s.Mend(t.Context(), app, store.Record{})
	if want := namesOf(app, 1); err != nil || !slices.Equal(dropped, want) {
		t.Errorf("Mend: %q, %v, want %q", dropped, err, want)
	}
	if got, want := names(get(t, s.Store, other)), namesOf(other, 1); !slices.Equal(got, want) {
		t.Errorf("the other has %q after that, want %q", got, want)
	}
}

// What is withdrawn is not known of an image that does not read, so nothing may come.
func TestImageDamaged(t *testing.T) {
	t.Parallel()
	app, other := image("app"), image("other")
	withdrawn := store.Change{Image: app, Withdraw: []store.Withdrawal{{ID: "w", Scope: store.ScopeImage}}}
	s := spoil(t, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("images")).Put(imageKey(app), []byte(`{"version":2,"with`))
	}, adding(app, 1), withdrawn, adding(other, 1))

	if set := get(t, s.Store, app); len(set.Signatures) != 0 {
		t.Errorf("Get of an image that does not read: %+v, want none", set)
	}
	s.wasTold(t, "Get", "app ")
	for _, kind := range []string{store.Signatures, store.Withdrawals} {
		list(t, s.Store, store.Filter{Kind: kind}, 10)
		s.wasTold(t, "List of "+kind, "app ")
	}
	if entries, _ := list(t, s.Store, store.Filter{Kind: store.Signatures}, 10); len(entries) != 1 || entries[0].Image != other {
		t.Errorf("listed beside an image that does not read: %+v, want the other's", entries)
	}
	for range 2 {
		if _, err := s.Do(t.Context(), adding(app, 2)); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Do to an image that does not read: %v, want %v", err, store.ErrUnavailable)
		}
	}
	do(t, s.Store, adding(other, 2))
}

func TestRecordAndTaskDamaged(t *testing.T) {
	t.Parallel()
	app := image("app")
	queueing := adding(app, 2)
	for _, key := range []string{"a", "b", "c"} {
		queueing.Then = append(queueing.Then, store.Task{Key: key, Image: app})
	}
	s := spoil(t, func(tx *bbolt.Tx) error {
		second := []byte{0, 0, 0, 0, 0, 0, 0, 2}
		return errors.Join(tx.Bucket([]byte("records")).Put(second, []byte("{")), tx.Bucket([]byte("tasks")).Put([]byte("a"), []byte("{")))
	}, adding(app, 1), queueing, adding(app, 3))
	for n, r := range records(t, s.Store) {
		if want := namesOf(app, []int{1, 3}[n]); !slices.Equal(r.Names, want) {
			t.Errorf("record %d: %q, want %q", n, r.Names, want)
		}
	}
	entries, _ := list(t, s.Store, store.Filter{Kind: store.Tasks}, 1)
	if len(entries) != 2 || entries[0].Task.Key != "b" || entries[1].Task.Key != "c" {
		t.Errorf("tasks listed: %+v, want b and c", entries)
	}
	if task, err := s.Take(t.Context(), time.Minute); err != nil || task.Key != "b" {
		t.Errorf("Take: %s, %v, want b", task.Key, err)
	}
	do(t, s.Store, store.Change{Image: app, Then: []store.Task{{Key: "a", Image: app}}})
	for _, want := range []string{"a", "c"} { // a is due as long, now that it was queued again
		if task, err := s.Take(t.Context(), time.Minute); err != nil || task.Key != want {
			t.Errorf("Take: %s, %v, want %s", task.Key, err, want)
		}
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	s.SetMaxSize(256 << 10)
	big := func(n int) store.Change {
		c := adding(image(fmt.Sprint("app", n)), n)
		content := make([]byte, 8<<10)
		content[0] = byte(n)
		c.Add[0].Content, c.Add[0].Name = content, api.Name(c.Image.Digest, content)
		return c
	}
	done := 0
	for ; done < 100; done++ {
		if _, err := s.Do(t.Context(), big(done)); errors.Is(err, store.ErrUnavailable) {
			break
		} else if err != nil {
			t.Fatalf("Do on a full disk: %v, want %v", err, store.ErrUnavailable)
		}
	}
	if done == 0 || done == 100 {
		t.Fatalf("%d changes were done, want the disk to be full between", done)
	}
	if got := len(records(t, s)); got != done {
		t.Errorf("records: %d, want %d, one of each change that was done", got, done)
	}
	if set := get(t, s, big(done).Image); len(set.Signatures) != 0 {
		t.Errorf("what the refused change left: %+v", set)
	}
	s.SetMaxSize(0)
	do(t, s, big(done))
	for n := range done + 1 {
		if got := len(get(t, s, big(n).Image).Signatures); got != 1 {
			t.Errorf("image %d of %d: %d signatures, want 1", n, done, got)
		}
	}
}

// What cannot be recorded does not happen, and takes nobody else's change with it.
func TestRecordFails(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	app := image("app")
	do(t, s, adding(app, 1))
	never := time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) // which JSON cannot say
	adds := adding(app, 2)
	adds.Then = []store.Task{{Key: "task", Image: app}}
	var all sync.WaitGroup
	for n, c := range []store.Change{
		adds,
		{Image: app, Drop: namesOf(app, 1)},
		{Image: app, Withdraw: []store.Withdrawal{{ID: "w", Scope: store.ScopeImage}}},
		{Image: app},
	} {
		c.Record = store.Record{Action: store.Admitted, Time: never}
		all.Go(func() {
			if _, err := s.Do(t.Context(), c); err == nil {
				t.Errorf("change %d, which cannot be recorded, is done", n)
			}
		})
		all.Go(func() {
			if _, err := s.Do(t.Context(), adding(image(fmt.Sprint("other", n)), n)); err != nil {
				t.Errorf("a change beside: %v", err)
			}
		})
	}
	all.Wait()
	if set := get(t, s, app); !slices.Equal(names(set), namesOf(app, 1)) || len(set.Withdrawn) > 0 || set.Version != 1 {
		t.Errorf("afterwards there is %+v, want what was there before", set)
	}
	if _, err := s.Take(t.Context(), time.Second); !errors.Is(err, store.ErrNone) {
		t.Errorf("Take: %v, want %v", err, store.ErrNone)
	}
	if got := len(records(t, s)); got != 1+4 {
		t.Errorf("%d records, want those of the changes that were done, 5", got)
	}
}

// A listing whose filter passes over very much gets to its end nevertheless.
func TestListLong(t *testing.T) {
	t.Parallel()
	const long = disk.MaxScanned + 10
	last := image("zzz")
	change := adding(last, 1)
	change.Withdraw = []store.Withdrawal{{ID: "w", Scope: store.ScopeKey, Key: "AB"}}
	change.Then = []store.Task{{Key: "zzz", Image: last}}
	s := spoil(t, func(tx *bbolt.Tx) error {
		for n := range long {
			i := image(fmt.Sprintf("app%06d", n))
			task, err := json.Marshal(store.Task{Image: i, State: store.Dead})
			if err != nil {
				return err
			}
			if err := tx.Bucket([]byte("tasks")).Put(fmt.Appendf(nil, "%06d", n), task); err != nil {
				return err
			}
			if err := tx.Bucket([]byte("images")).Put(imageKey(i), []byte(`{"version":1}`)); err != nil {
				return err
			}
		}
		return nil
	}, change)
	for _, f := range []store.Filter{
		{Kind: store.Signatures, Repository: "zzz"},
		{Kind: store.Signatures, Key: signature(last, 1).Fingerprint},
		{Kind: store.Withdrawals},
		{Kind: store.Withdrawals, Key: "AB"},
		{Kind: store.Tasks, State: store.Queued},
		{Kind: store.Tasks, Repository: "zzz"},
	} {
		entries, pages := list(t, s.Store, f, 1000)
		if len(entries) != 1 || entries[0].Image != last || pages != 2 {
			t.Errorf("listed by %+v: %d entries on %d pages, want the last one's, on the second", f, len(entries), pages)
		}
	}
	entries, pages := list(t, s.Store, store.Filter{Kind: store.Signatures, Host: last.Host, Repository: "zzz"}, 1000)
	if len(entries) != 1 || pages != 1 {
		t.Errorf("listed by host and repository: %d entries on %d pages, want 1 on 1", len(entries), pages)
	}
}

func TestDueFarAway(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), options(t))
	do(t, s, store.Change{Image: image("app"), Then: []store.Task{
		{Key: "never", Due: time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Key: "next nanosecond", Due: epoch().Add(1)},
		{Key: "now", Due: epoch()},
		{Key: "\xff\xfe", Due: epoch().Add(-1)},
		{Key: "ever", Due: time.Date(1800, 1, 1, 0, 0, 0, 0, time.UTC)},
	}})
	for _, want := range []string{"ever", "\xff\xfe", "now"} {
		task, err := s.Take(t.Context(), time.Minute)
		if err != nil || task.Key != want {
			t.Fatalf("Take: %q, %v, want %q", task.Key, err, want)
		}
		task.State = store.Done
		do(t, s, store.Change{Image: image("app"), Ends: &task})
	}
	if task, err := s.Take(t.Context(), time.Minute); !errors.Is(err, store.ErrNone) {
		t.Errorf("Take: %q, %v, want %v", task.Key, err, store.ErrNone)
	}
	if left, _ := list(t, s, store.Filter{Kind: store.Tasks}, 10); len(left) != 2 {
		t.Errorf("%d tasks are left, want 2", len(left))
	}
}
