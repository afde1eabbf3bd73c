package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
	"github.com/countersign-dev/countersign/store/transfer"
)

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := disk.Open(t.TempDir(), disk.Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func do(t *testing.T, s store.Store, c store.Change) {
	t.Helper()
	if _, err := s.Do(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func image(n int) api.Image {
	return api.Image{Host: "registry.example", Repository: fmt.Sprint("app", n%3), Digest: digest.FromString(fmt.Sprint(n))}
}

func signature(i api.Image, n int) store.Signature {
	content := fmt.Appendf(nil, "signature %d of %s", n, i)
	return store.Signature{
		Name: api.Name(i.Digest, content), Content: content, Identity: fmt.Sprint(n), Fingerprint: "F", UserID: "zoe", Reference: "r",
		Own: n%2 == 0, Origin: "upload", Uploader: "ci", Signed: time.Unix(int64(n), 0), Added: time.Unix(1, 0),
	}
}

// fill gives a store some of everything.
func fill(t *testing.T, s store.Store, images int) {
	t.Helper()
	for n := range images {
		i := image(n)
		do(t, s, store.Change{Image: i, Add: []store.Signature{signature(i, 1), signature(i, 2), signature(i, 3)},
			Record: store.Record{Action: store.Admitted, Subject: "ci", Address: "192.0.2.1"}})
		if n%2 == 0 {
			do(t, s, store.Change{Image: i, Withdraw: []store.Withdrawal{
				{ID: fmt.Sprint("a", n), Scope: store.ScopeSignature, Name: signature(i, 1).Name, Reason: "x", Subject: "zoe", Time: time.Unix(2, 0)},
				{ID: fmt.Sprint("b", n), Scope: store.ScopeKey, Key: "G", Reason: "y", Subject: "zoe", Time: time.Unix(3, 0)},
			}, Record: store.Record{Action: store.Withdrawn, Subject: "zoe"}})
		}
	}
	gone := image(images)
	do(t, s, store.Change{Image: gone, Withdraw: []store.Withdrawal{{ID: "c", Scope: store.ScopeImage, Reason: "z", Subject: "zoe"}}, Record: store.Record{Action: store.Withdrawn, Subject: "zoe"}})
	do(t, s, store.Change{Record: store.Record{Action: store.Refused, Subject: "mallory", Reason: "7 more in a minute"}})
	for n, key := range []string{"sign a", "sign b"} {
		do(t, s, store.Change{Image: image(0), Then: []store.Task{{Key: key, Kind: "sign", Image: image(0), Detail: []byte(`{}`), Due: time.Unix(int64(n), 0)}}})
	}
	do(t, s, store.Change{Image: image(0), Ends: &store.Task{Key: "sign b", State: store.Dead, Problem: "no key"}})
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	from, to, back := open(t), open(t), open(t)
	fill(t, from, 5)
	want := transfer.Sum{Images: 6, Signatures: 12, Withdrawals: 7, Tasks: 2, Records: 10}
	for _, way := range []transfer.Transfer{{From: from, To: to}, {From: to, To: back}, {From: from, To: back}} { // the last has nothing left to do
		if got, err := way.Run(t.Context()); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	}
	tasks, _, err := back.List(t.Context(), store.Filter{Kind: store.Tasks}, "", 10)
	if err != nil || len(tasks) != 2 || tasks[0].Task.State != store.Queued || tasks[1].Task.State != store.Dead || tasks[1].Task.Problem != "no key" || !tasks[1].Task.Due.Equal(time.Unix(1, 0)) {
		t.Errorf("the tasks are %+v, %v", tasks, err)
	}
	set, err := back.Get(t.Context(), image(0))
	if err != nil || len(set.Withdrawn) != 2 || set.Withdrawn[0].Identity != "1" {
		t.Errorf("the withdrawals are %+v, %v; one lacks the identity", set.Withdrawn, err)
	}
}

// failing fails at its nth change.
type failing struct {
	store.Store
	left int
}

func (f *failing) Do(ctx context.Context, c store.Change) (store.Set, error) {
	if f.left--; f.left < 0 {
		return store.Set{}, store.ErrUnavailable
	}
	return f.Store.Do(ctx, c)
}

// One that ends after each of its changes in turn is ended by the next.
func TestTransferGoesOn(t *testing.T) {
	t.Parallel()
	from := open(t)
	fill(t, from, 2)
	for n := range 100 {
		to := open(t)
		_, err := (&transfer.Transfer{From: from, To: &failing{to, n}}).Run(t.Context())
		if err == nil {
			if n < 10 {
				t.Fatalf("it was done with %d changes", n)
			}
			return
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("it ended with %v behind change %d", err, n)
		}
		if got, err := (&transfer.Transfer{From: from, To: to}).Run(t.Context()); err != nil || got.Images != 3 {
			t.Fatalf("behind change %d: %+v, %v", n, got, err)
		}
	}
	t.Fatal("it never comes to its end")
}

func TestTransferRefuses(t *testing.T) {
	t.Parallel()
	from := open(t)
	fill(t, from, 2)
	for name, change := range map[string]store.Change{
		"an image":     {Image: image(7), Add: []store.Signature{signature(image(7), 1)}},
		"a signature":  {Image: image(0), Add: []store.Signature{signature(image(0), 9)}},
		"a withdrawal": {Image: image(9), Withdraw: []store.Withdrawal{{ID: "own", Scope: store.ScopeImage}}},
		"a record":     {Image: image(0), Record: store.Record{Action: store.Refused, Subject: "somebody"}},
	} {
		to := open(t)
		do(t, to, change)
		if got, err := (&transfer.Transfer{From: from, To: to}).Run(t.Context()); !errors.Is(err, transfer.ErrOther) {
			t.Errorf("%s: got %+v, %v, want ErrOther", name, got, err)
		}
	}
}

// A forgetful fails when its trail is read for the nth time.
type forgetful struct {
	store.Store
	left int
}

func (f *forgetful) Records(ctx context.Context, after store.Cursor, limit int) ([]store.Record, store.Cursor, error) {
	if f.left--; f.left < 0 {
		return nil, after, store.ErrHeld
	}
	return f.Store.Records(ctx, after, limit)
}

// A trail that cannot be read to its end, in either, is not taken for one that ends: nothing is appended that may be there
// already, and nothing called the same.
func TestTransferReadsTrails(t *testing.T) {
	t.Parallel()
	from, to := open(t), open(t)
	fill(t, from, 2)
	for n := 5; n >= 0; n-- {
		for what, way := range map[string]transfer.Transfer{
			"to":   {From: from, To: &forgetful{to, n}},
			"from": {From: &forgetful{from, n}, To: to},
		} {
			if got, err := way.Run(t.Context()); err != nil && !errors.Is(err, store.ErrHeld) || err == nil && n == 0 || errors.Is(err, transfer.ErrOther) {
				t.Fatalf("%s fails at reading its trail for the time %d: %+v, %v; want ErrHeld", what, n+1, got, err)
			}
		}
	}
	if got, err := (&transfer.Transfer{From: from, To: to}).Run(t.Context()); err != nil || got.Records != 5 {
		t.Errorf("in the end: %+v, %v; want 5 records, each once", got, err)
	}
}
