package storetest

import (
	"errors"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func taskEnds() []subtest {
	return []subtest{
		{name: "ends_done", run: testEndsDone},
		{name: "ends_delayed", run: testEndsDelayed},
		{name: "ends_dead", run: testEndsDead},
		{name: "ends_lease", run: testEndsLease},
		{name: "ends_before_then", run: testEndsBeforeThen},
	}
}

// ending is the change that says what became of a task.
func ending(t store.Task, state string) store.Change {
	t.State = state
	return store.Change{Image: t.Image, Ends: &t}
}

// taken queues a task and takes it.
func (f *fixture) taken(key string, lease time.Duration) store.Task {
	f.Helper()
	f.queue(task(key, epoch()))
	return f.take(lease)
}

func testEndsDone(f *fixture) {
	t := f.taken("a", time.Minute)
	c := ending(t, store.Done)
	c.Add, c.Record = signatures(t.Image, 1, 1), admitted()
	f.do(c)
	f.same("tasks when all are done", []store.Task(nil), f.tasks(""))
	f.has(t.Image, signature(t.Image, 1))
	f.same("how many records there are", 1, len(f.records()))
	f.refused(c, store.ErrLease) // was done
	f.clock.advance(time.Hour)
	f.takesNone()
	f.same("attempts of a new task of that key", 1, f.taken("a", time.Minute).Attempts)
}

func testEndsDelayed(f *fixture) {
	t := f.taken("a", time.Minute)
	later := t
	later.Due, later.Problem = epoch().Add(time.Hour), "the registry is away"
	c := ending(later, store.Queued)
	f.do(c)
	later.Lease = ""
	f.same("a task that was delayed", []store.Task{later}, f.tasks(store.Queued))
	f.refused(c, store.ErrLease) // was done
	f.clock.advance(time.Hour - time.Second)
	f.takesNone()
	f.clock.advance(time.Second)
	again := f.take(time.Minute)
	f.same("attempts", 2, again.Attempts)
	again.Due = time.Time{}
	f.do(ending(again, store.Queued))
	f.same("attempts of a task that was given back", 3, f.take(time.Minute).Attempts)
}

func testEndsDead(f *fixture) {
	t := f.taken("a", time.Minute)
	f.queue(task("b", epoch().Add(100*time.Hour)))
	t.Problem = "no such key"
	c := ending(t, store.Dead)
	c.Record = store.Record{Action: store.Refused}
	f.do(c)
	dead := f.tasks(store.Dead)
	if len(dead) != 1 || dead[0].Key != "a" || dead[0].State != store.Dead || dead[0].Problem != t.Problem || dead[0].Attempts != 1 || dead[0].Lease != "" {
		f.Fatalf("dead tasks: %+v, want a, with its problem, after one attempt", dead)
	}
	if queued := f.tasks(store.Queued); len(queued) != 1 || queued[0].Key != "b" {
		f.Errorf("queued tasks: %+v, want b", queued)
	}
	f.clock.advance(24 * time.Hour)
	f.takesNone()
	f.refused(c, store.ErrLease)                     // its lease is over
	f.do(ending(store.Task{Key: "a"}, store.Queued)) // a person retries
	f.same("the task retried", "a", f.take(time.Minute).Key)
	f.clock.advance(time.Hour)
	f.do(ending(store.Task{Key: "a"}, store.Dead)) // nobody holds it
	f.do(ending(store.Task{Key: "a"}, store.Done)) // a person drops it
	f.same("dead tasks", []store.Task(nil), f.tasks(store.Dead))
}

func testEndsLease(f *fixture) {
	t := f.taken("a", time.Minute)
	for _, state := range []string{store.Done, store.Queued, store.Dead} {
		wrong, none := t, t
		wrong.Lease, none.Lease = t.Lease+"x", ""
		f.held(ending(wrong, state))
		f.held(ending(none, state))
		f.refused(ending(store.Task{Key: "none", Lease: t.Lease}, state), store.ErrGone)
		f.refused(ending(store.Task{Key: "none"}, state), store.ErrGone)
	}
	f.mistaken(ending(t, ""))
	f.clock.advance(2 * time.Minute)
	again := f.take(time.Minute)
	f.refused(ending(t, store.Done), store.ErrLease) // it has run out, and somebody else has the task
	f.clock.advance(2 * time.Minute)
	f.refused(ending(t, store.Done), store.ErrLease)
	f.do(ending(again, store.Done)) // it has run out, and nobody took the task
	f.same("tasks when all are done", []store.Task(nil), f.tasks(""))
}

// held is a change that is refused because somebody else has its task.
func (f *fixture) held(c store.Change) {
	f.Helper()
	f.refused(c, store.ErrLease)
	if _, err := f.s.Do(f.Context(), c); errors.Is(err, store.ErrGone) {
		f.Errorf("Do(%s): %v, of a task that is there", describe(c), err)
	}
}

func testEndsBeforeThen(f *fixture) {
	t := f.taken("a", time.Minute)
	next := task("a", epoch().Add(time.Hour))
	next.Detail = []byte(`{"tag":"next"}`)
	c := ending(t, store.Done)
	c.Then = []store.Task{next}
	f.do(c)
	next.State, next.Queued = store.Queued, epoch()
	f.same("a task that queues its successor", []store.Task{next}, f.tasks(""))
	f.clock.advance(time.Hour)
	t = f.take(time.Minute)
	f.same("attempts of the successor", 1, t.Attempts)
	t.Due = epoch().Add(3 * time.Hour)
	c = ending(t, store.Queued)
	c.Then = []store.Task{task("a", epoch())}
	f.do(c)
	t.Lease = ""
	f.same("a task that is delayed and queued", []store.Task{t}, f.tasks(""))
}
