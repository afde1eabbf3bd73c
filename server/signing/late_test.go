package signing_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A late registry tells of tags what they were, while it is told so.
type late struct {
	*registry.Embedded
	mu  sync.Mutex
	was map[string]registry.Manifest // by tag; without a digest: it was not there
}

func (l *late) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	l.mu.Lock()
	m, told := l.was[reference]
	l.mu.Unlock()
	switch {
	case told && m.Digest == "":
		return m, registry.ErrUnknown
	case told:
		return m, nil
	}
	return l.Embedded.Manifest(ctx, repository, reference)
}

func (l *late) tell(tag string, m registry.Manifest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.was[tag] = m
}

func (l *late) current() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.was)
}

// What a push queues it queues before its tag is written, and the queue may be faster: that the tag is
// not there yet, or is still what it was, ends nothing.
func TestQueueThatIsFasterThanTheTag(t *testing.T) {
	t.Parallel()
	signer := newSlow()
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": signer}, everything(signing.OnPush))
	r := &late{Embedded: w.registry, was: map[string]registry.Manifest{}}
	w.config.Registry = r
	before := registry.Manifest{}
	for _, text := range []string{"first", "second"} {
		m := w.manifest(t, "ns/app", text)
		signer.now.Store(true)
		r.tell("v1", before)
		synctest.Test(t, func(t *testing.T) {
			w.restart(t, everything(signing.OnPush)...) // its channels belong to this clock
			w.whileWorking(t, func() {
				w.mustPush(t, "ns/app", "v1", m)
				signer.now.Store(false)
				<-time.After(5 * time.Second)
				r.current()
				<-time.After(time.Minute)
			})
		})
		w.want(t, imageOf("ns/app", m), v1)
		before = registry.Manifest{Digest: imageOf("ns/app", m).Digest, MediaType: imageType, Content: []byte(m)}
	}
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
}

// A push that came to nothing leaves a task that nothing will ever be done about: it ends by itself.
func TestQueuedByAPushThatFailed(t *testing.T) {
	t.Parallel()
	absent := &switched{Signer: server()}
	absent.broken.Store(true)
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": absent}, everything(signing.OnPush))
	m := w.manifest(t, "ns/app", "x")
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, everything(signing.OnPush)...)
		if status := w.push(t, "ns/app", "v1", m); status < 500 {
			t.Fatalf("the push is answered %d, want 5xx", status)
		}
		w.working(t, 5*time.Minute)
	})
	w.want(t, imageOf("ns/app", m))
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
}

// A worker has found the gate shut when an upload opens it, and ends the task, before the upload signs or
// behind it. The upload does not rely on a task that it has not queued itself.
func TestUploadWhoseTaskIsTaken(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"ended before the upload signs": true, "ended behind it": false} {
		w := ruled(t, gated(t))
		image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
		w.mustUpload(t, "alice", image, v1)
		w.queueOnly(t, "bob", image, v1)
		w.due(t)
		taken, err := w.store.Take(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		bobs := store.Withdrawal{Scope: store.ScopeKey, Key: signers()["bob"].Key().Keys()[0].Fingerprint}
		w.withdraw(t, image, bobs)
		bobs.ID = "1"
		if _, err := w.store.Do(t.Context(), store.Change{Image: image, Lift: []store.Withdrawal{bobs}}); err != nil {
			t.Fatal(err)
		}
		upload := w.queueOnly(t, "bob", image, v1)
		end := func() {
			ends := &store.Task{Key: taken.Key, Lease: taken.Lease, State: store.Done}
			if _, err := w.store.Do(t.Context(), store.Change{Image: image, Ends: ends}); err != nil {
				t.Errorf("%s: the worker ends %s: %v", name, taken.Key, err)
			}
		}
		if early {
			end()
		}
		if err := w.signing.Uploaded(t.Context(), upload); err != nil {
			t.Errorf("%s: the upload: %v", name, err)
		}
		if !early {
			end()
		}
		if got := w.own(t, image); !slices.Equal(got, []string{v1}) {
			t.Errorf("%s: it is signed as %q, want %q", name, got, v1)
		}
		w.idle(t)
		if left := w.tasks(t); len(left) > 0 {
			t.Errorf("%s: left are %+v", name, left)
		}
	}
}

// A task that begins with a delay of weeks is not given up at its first failure; one that should have
// been done at once is, after a week.
func TestTasksThatBeginLate(t *testing.T) {
	t.Parallel()
	w := ruled(t, everything(signing.OnPush)...)
	var attempts atomic.Int32
	w.config.Others = map[string]func(context.Context, store.Task, *store.Task) error{
		"drop": func(ctx context.Context, task store.Task, ends *store.Task) error {
			if attempts.Add(1) == 1 {
				return errors.New("something is in the way")
			}
			_, err := w.store.Do(ctx, store.Change{Image: task.Image, Ends: ends})
			return err
		},
	}
	image, long := imageOf("ns/app", "deleted"), time.Now().Add(-30*24*time.Hour)
	then := []store.Task{
		{Key: "drop", Kind: "drop", Image: image, Queued: long},
		{Key: "old", Kind: signing.KindSign, Image: image, Queued: long, Detail: []byte(`{}`)},
	}
	if _, err := w.store.Do(t.Context(), store.Change{Image: image, Then: then}); err != nil {
		t.Fatal(err)
	}
	w.restart(t, everything(signing.OnPush)...)
	w.idle(t)
	for _, task := range w.tasks(t) {
		if want := map[string]string{"drop": store.Queued, "old": store.Dead}[task.Key]; task.State != want {
			t.Errorf("%s is %s, want %s", task.Key, task.State, want)
		}
	}
	w.due(t)
	w.idle(t)
	if left := w.tasks(t); len(left) != 1 || left[0].Key != "old" {
		t.Fatalf("left are %+v, want the old task alone", left)
	}
	// A person who retries it begins anew.
	if err := w.signing.Retry(t.Context(), signing.TaskID(store.Task{Key: "old"})); err != nil {
		t.Fatal(err)
	}
	w.idle(t)
	if left := w.tasks(t); len(left) != 1 || left[0].State != store.Queued || left[0].Problem == "" {
		t.Errorf("retried, left are %+v, want the old task, tried and queued again", left)
	}
}
