package server_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/countersign-dev/countersign/server"
)

// What runs in the background has less right to the processor than who waits for it, and is on another
// thread.
func TestBackgroundGivesWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		do := server.Background(1)
		defer time.Sleep(time.Minute) // its threads end
		before, err := server.Niceness()
		if err != nil {
			t.Fatal(err)
		}
		var inside int
		var turns *unix.SchedAttr
		look := func() {
			inside, err = server.Niceness()
			turns, _ = unix.SchedGetAttr(0, 0) // what it cannot say is nil
		}
		if err := errors.Join(do(t.Context(), look), err); err != nil {
			t.Fatal(err)
		}
		if turns != nil && turns.Runtime != 0 && turns.Runtime != uint64(server.LongTurn) { // 0 before Linux 6.12
			t.Errorf("in the background a turn is %v, want %v", time.Duration(turns.Runtime), server.LongTurn)
		}
		if want := min(before+10, 19); inside != want {
			t.Errorf("in the background a thread has niceness %d, want %d", inside, want)
		}
		if after, err := server.Niceness(); after != before || err != nil {
			t.Errorf("who waited has niceness %d, %v; it was %d", after, err, before)
		}
	})
}

// Who has been served takes turns to leave, twice as often as others can be served and a few at a time, and
// waits for nobody where nobody was before. Jobs that took long mean no more than a millisecond.
func TestBackgroundPace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		threads    int
		took, pace time.Duration
	}{
		"one thread":   {1, 400 * time.Microsecond, 200 * time.Microsecond},
		"four threads": {4, 400 * time.Microsecond, 50 * time.Microsecond},
		"a long job":   {1, time.Minute, 500 * time.Microsecond},
		"none yet":     {1, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			do, leave := server.Paced(test.threads)
			defer time.Sleep(time.Minute) // its threads end
			if test.took > 0 {
				if err := do(t.Context(), func() { time.Sleep(test.took) }); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time after a while, as if nobody had been there
				began := time.Now()
				var all sync.WaitGroup
				var mu sync.Mutex
				var left []time.Duration
				const n = 5 * server.Together
				for range n {
					all.Go(func() {
						leave()
						mu.Lock()
						defer mu.Unlock()
						left = append(left, time.Since(began))
					})
				}
				all.Wait()
				at := map[time.Duration]int{}
				for k, after := range left {
					at[after]++
					if turn := time.Duration(k) * test.pace; after > turn || test.pace > 0 && after <= turn-server.Together*test.pace {
						t.Errorf("%s: number %d left after %v, want within the last %d turns until %v", name, k, after, server.Together, turn)
					}
				}
				if test.pace > 0 && (len(at) < n/server.Together || left[0] != 0) {
					t.Errorf("%s: they left at %v, want %d at a time", name, at, server.Together)
				}
				time.Sleep(time.Second)
			}
		})
	}
}

// As many run at a time as there may be threads, so many more wait, and what is ahead of somebody who hangs up does not
// keep them. Where there is room somebody who has hung up is served, too: what is refused is recorded.
func TestBackgroundRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do := server.Background(2)
		defer time.Sleep(time.Minute) // its threads end
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		if err := do(gone, func() {}); err != nil {
			t.Errorf("with room for it: %v", err)
		}
		var mu sync.Mutex
		running, most := 0, 0
		enough := make(chan struct{})
		var all sync.WaitGroup
		for range 2 + server.MaxWaiting {
			all.Go(func() {
				err := do(t.Context(), func() {
					mu.Lock()
					running++
					most = max(most, running)
					mu.Unlock()
					<-enough
					mu.Lock()
					running--
					mu.Unlock()
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := do(gone, func() { t.Error("it ran without room") }); !errors.Is(err, context.Canceled) {
			t.Errorf("without room: %v, want that it hung up", err)
		}
		close(enough)
		all.Wait()
		if most != 2 {
			t.Errorf("%d ran at a time, want 2", most)
		}
	})
}

// A panic is an error of who asked, and the next is served; a thread that nothing comes for ends.
func TestBackgroundPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do := server.Background(1)
		defer time.Sleep(time.Minute) // its threads end
		if err := do(t.Context(), func() { panic("hostile") }); err == nil || !strings.Contains(err.Error(), "panic: hostile") {
			t.Errorf("got %v, want the panic", err)
		}
		for range 2 {
			ran := false
			if err := do(t.Context(), func() { ran = true }); err != nil || !ran {
				t.Errorf("after it: ran %t, %v", ran, err)
			}
			time.Sleep(time.Minute) // the thread ends, and another begins
			synctest.Wait()
		}
	})
}

// Who is told of threads hears of each as it begins, once for all that it does, and when it has ended.
func TestBackgroundObserved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var began, ended atomic.Int32
		do := server.ObservedBackground(1, func() func() {
			began.Add(1)
			return func() { ended.Add(1) }
		})
		for _, want := range []int32{1, 1, 2} {
			if want == 2 {
				time.Sleep(time.Minute) // the thread ends
				synctest.Wait()
			}
			if err := do(t.Context(), func() {}); err != nil {
				t.Fatal(err)
			}
			if synctest.Wait(); began.Load() != want || ended.Load() != want-1 {
				t.Errorf("%d threads began and %d ended, want %d and %d", began.Load(), ended.Load(), want, want-1)
			}
		}
		time.Sleep(time.Minute)
		if synctest.Wait(); ended.Load() != 2 {
			t.Errorf("%d threads ended, want 2", ended.Load())
		}
	})
}

// Who comes first is served first, also by a thread that had nothing to do, or one that is about to end at that moment.
func TestBackgroundOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		do := server.Background(1)
		defer time.Sleep(time.Minute) // its threads end
		var order []int
		var all sync.WaitGroup
		enough := make(chan struct{})
		for n := range server.MaxWaiting {
			all.Go(func() {
				if err := do(t.Context(), func() { <-enough; order = append(order, n) }); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(enough)
		all.Wait()
		if len(order) != server.MaxWaiting || !slices.IsSorted(order) {
			t.Errorf("they were served in the order %v", order)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var began, ended atomic.Int32
		do := server.ObservedBackground(3, func() func() {
			began.Add(1)
			return func() { ended.Add(1) }
		})
		for round := range 1000 {
			var all sync.WaitGroup
			for range 1 + 4*(round%2) {
				all.Go(func() {
					if err := do(t.Context(), func() {}); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			time.Sleep(server.IdleThread)
		}
		time.Sleep(time.Minute)
		if began.Load() < 2 || began.Load() != ended.Load() {
			t.Errorf("%d threads began, and %d ended", began.Load(), ended.Load())
		}
	})
}
