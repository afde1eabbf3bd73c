package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func tasks() []subtest {
	return []subtest{
		{name: "task_kept", run: testTaskKept},
		{name: "take_order", run: testTakeOrder},
		{name: "lease", run: testLease},
		{name: "lease_one_taker", run: testOneTaker},
		{name: "then", run: testThen},
	}
}

// queue does a change that queues tasks and nothing else.
func (f *fixture) queue(tasks ...store.Task) {
	f.Helper()
	f.do(store.Change{Image: image(), Then: tasks})
}

func (f *fixture) tasks(state string) (all []store.Task) {
	f.Helper()
	for _, e := range f.list(store.Filter{Kind: store.Tasks, State: state}, 10) {
		if e.Task == nil || e.Image != e.Task.Image {
			f.Fatalf("an entry of the listing of tasks: %+v, want a task and its image", e)
		}
		all = append(all, *e.Task)
	}
	return all
}

func testTaskKept(f *fixture) {
	given := store.Task{
		Key: "sign 'Zoë' %", Kind: "deliver", Image: images()[3], Detail: []byte(`{"a":["Zoë",null]}`),
		Due: epoch().Add(time.Hour), Problem: "none yet", Queued: epoch().Add(-time.Minute),
	}
	said := task("b", time.Time{})
	said.State, said.Attempts, said.Lease = store.Dead, 7, "mine"
	f.queue(given, said)
	given.State = store.Queued
	said.State, said.Attempts, said.Lease, said.Due, said.Queued = store.Queued, 0, "", epoch(), epoch()
	f.same("tasks queued", []store.Task{said, given}, f.tasks(""))
	f.same("the set of an image that only queued tasks", store.Set{}, f.get(image()))

	taken := f.take(time.Minute)
	if taken.Lease == "" || taken.Lease == "mine" {
		f.Errorf("lease of a taken task: %q, want one that was drawn", taken.Lease)
	}
	said.Attempts, said.Due, said.Lease = 1, epoch().Add(time.Minute), taken.Lease
	f.same("the task taken", said, taken)
	f.same("tasks when one is taken", []store.Task{said, given}, f.tasks(store.Queued))
}

func testTakeOrder(f *fixture) {
	at := func(minutes int) time.Time { return epoch().Add(time.Duration(minutes) * time.Minute) }
	f.queue(task("a", at(3)), task("b", at(1)), task("c", at(2)), task("e", at(-10)))
	f.do(store.Change{Image: images()[0], Then: []store.Task{task("d", at(-20)), task("f", time.Time{})}})
	takes := func(want ...string) {
		f.Helper()
		for _, key := range want {
			f.same("the task due the longest", key, f.take(24*time.Hour).Key)
		}
		f.takesNone()
	}
	takes("d", "e", "f")
	f.clock.advance(time.Minute - time.Second)
	f.takesNone()
	f.clock.advance(time.Second)
	takes("b")
	f.clock.advance(2 * time.Minute)
	takes("c", "a")
}

func testLease(f *fixture) {
	f.queue(task("a", epoch()), task("b", epoch().Add(10*time.Minute)))
	first := f.take(15 * time.Minute)
	f.clock.advance(15*time.Minute - time.Second)
	f.same("the task due when another is leased", "b", f.take(time.Hour).Key)
	f.takesNone()
	f.clock.advance(time.Second)
	again := f.take(time.Minute)
	if again.Key != "a" || again.Attempts != 2 || again.Lease == first.Lease || again.Lease == "" {
		f.Errorf("the task taken when its lease %q had run out: %+v, want a, for the 2nd time and with another lease", first.Lease, again)
	}
	f.takesNone()
	f.clock.advance(time.Minute)
	f.same("attempts", 3, f.take(time.Minute).Attempts)
}

func testOneTaker(f *fixture) {
	tasks := many(400)
	var all []store.Task
	for n := range tasks {
		all = append(all, task(fmt.Sprint(n), epoch()))
	}
	f.queue(all...)
	var mu sync.Mutex
	by := make(map[string]int)
	f.together(20, func(n int) error {
		for {
			t, err := f.s.Take(f.Context(), time.Hour)
			if errors.Is(err, store.ErrNone) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			other, twice := by[t.Key]
			by[t.Key] = n
			mu.Unlock()
			if twice {
				return fmt.Errorf("task %s: taken by %d, and by %d while it was leased", t.Key, other, n)
			}
		}
	})
	f.same("how many tasks were taken", tasks, len(by))
}

func testThen(f *fixture) {
	first, second := task("a", epoch()), task("a", epoch().Add(-time.Hour))
	second.Detail = []byte(`{"tag":"second"}`)
	f.queue(first, second)
	want := first
	want.State, want.Queued = store.Queued, epoch()
	f.same("two tasks of a key in one change", []store.Task{want}, f.tasks(""))
	f.clock.advance(time.Minute)
	f.queue(second)
	f.same("a second task of a key that is queued", []store.Task{want}, f.tasks(""))
	taken := f.take(time.Minute)
	f.queue(second)
	f.same("a second task of a key that is leased", []store.Task{taken}, f.tasks(""))

	taken.State = store.Dead
	f.do(store.Change{Image: image(), Ends: &taken})
	f.queue(second)
	want = second
	want.State, want.Queued = store.Queued, f.clock.now()
	f.same("a task of a key whose task was dead", []store.Task{want}, f.tasks(""))
	f.same("the task taken then", 1, f.take(time.Minute).Attempts)
	f.takesNone()
}
