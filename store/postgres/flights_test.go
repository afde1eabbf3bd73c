package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// An airport notes who flies, and lets land who is told to.
type airport struct {
	*postgres.Flights
	passengers sync.WaitGroup
	mu         sync.Mutex
	flown      [][]int
	land       []chan error
}

func newAirport(most, room int) *airport {
	a := &airport{}
	a.Flights = postgres.NewFlights(most, room, func(keys []int) ([]int, error) {
		a.mu.Lock()
		may := make(chan error)
		a.flown, a.land = append(a.flown, slices.Sorted(slices.Values(keys))), append(a.land, may)
		a.mu.Unlock()
		tens := make([]int, len(keys))
		for n, k := range keys {
			tens[n] = 10 * k
		}
		return tens, <-may
	})
	return a
}

// come has several wait, and returns when nothing moves any more.
func (a *airport) come(t *testing.T, failure error, keys ...int) {
	for _, k := range keys {
		a.passengers.Go(func() {
			if v, err := a.Wait(context.Background(), k); !errors.Is(err, failure) || err == nil && v != 10*k {
				t.Errorf("%d is answered %d, %v", k, v, err)
			}
		})
	}
	synctest.Wait()
}

func (a *airport) lands(n int, err error) {
	a.mu.Lock()
	land := a.land[n]
	a.mu.Unlock()
	land <- err
	synctest.Wait()
}

func (a *airport) want(t *testing.T, when string, flights ...[]int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if got := fmt.Sprint(a.flown); got != fmt.Sprint(flights) {
		t.Errorf("%s: flights are %v, want %v", when, got, flights)
	}
}

// One flight is in the air at a time, and all who come meanwhile take the next, but beside one that is
// late, or where there is no more room.
func TestFlights(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAirport(3, 4)
		a.come(t, nil, 1)
		a.want(t, "when one came", []int{1})
		a.come(t, nil, 2, 3, 2)
		a.want(t, "when others came meanwhile", []int{1})
		a.lands(0, nil)
		a.want(t, "when the first has landed", []int{1}, []int{2, 3})
		a.come(t, nil, 2)
		a.want(t, "when somebody asks what is being asked", []int{1}, []int{2, 3})
		time.Sleep(postgres.Late)
		synctest.Wait()
		a.want(t, "when one is late", []int{1}, []int{2, 3}, []int{2})
		failure := errors.New("for a test")
		a.come(t, failure, 4)
		a.want(t, "when the one beside it is in time", []int{1}, []int{2, 3}, []int{2})
		a.come(t, failure, 5, 6, 7)
		four := [][]int{{1}, {2, 3}, {2}, {4, 5, 6, 7}}
		a.want(t, "when one is full", four...)
		a.come(t, nil, 4, 5, 6, 8)
		a.want(t, "when there are as many as may be", four...)
		a.lands(3, failure)
		a.want(t, "when one of them has landed", append(four, []int{4, 5, 6, 8})...)
		for _, n := range []int{1, 2, 4} {
			a.lands(n, nil)
		}
		a.passengers.Wait()
		a.want(t, "when all have landed", append(four, []int{4, 5, 6, 8})...)
	})
}

// A lone writer waits for nobody. Where the last had company the next waits for those who come soon.
func TestFlightsGather(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAirport(1, 4)
		a.come(t, nil, 1)
		a.want(t, "when a lone one came", []int{1})
		a.Wrote(1)
		a.lands(0, nil)
		a.come(t, nil, 2)
		a.want(t, "when another lone one came", []int{1}, []int{2})
		a.Wrote(2)
		a.lands(1, nil)
		a.come(t, nil, 3)
		a.come(t, nil, 4)
		a.want(t, "when the last had company", []int{1}, []int{2})
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		a.want(t, "when nobody has come for a moment", []int{1}, []int{2}, []int{3, 4})
		a.lands(2, nil)
		a.come(t, nil, 5, 6, 7, 8)
		time.Sleep(3 * time.Millisecond) // it has looked once before all were there, or not at all
		synctest.Wait()
		a.want(t, "when there is no more room", []int{1}, []int{2}, []int{3, 4}, []int{5, 6, 7, 8})
		a.lands(3, nil)
		a.passengers.Wait()
	})
}

// Of an image one is let through at a time, in the order in which they came, without those who have gone; of others
// nobody waits, and nothing is kept of an image that nobody has.
func TestQueues(t *testing.T) {
	t.Parallel()
	q := postgres.NewQueues()
	enter := func(repository string, free bool) *postgres.Writer {
		t.Helper()
		w := postgres.NewWriter(store.Change{Image: image(repository)})
		if got := q.Enter(w); got != free {
			t.Errorf("%s was free: %t, want %t", repository, got, free)
		}
		return w
	}
	leave := func(step, repository string, want *postgres.Writer) {
		t.Helper()
		if got := q.Leave(image(repository)); got != want {
			t.Errorf("%s: the image is %p's, want %p's", step, got, want)
		}
	}
	first := enter("a", true)
	second, third, fourth := enter("a", false), enter("a", false), enter("a", false)
	enter("b", true)
	leave("when the first has left", "a", second)
	fifth := enter("a", false)
	for w, waited := range map[*postgres.Writer]bool{first: false, second: false, third: true} {
		if got := q.Abandon(w); got != waited {
			t.Errorf("%p waited: %t, want %t", w, got, waited)
		}
	}
	if q.Abandon(third) {
		t.Error("who has gone waited")
	}
	leave("when the third has gone", "a", fourth)
	leave("when the fourth has left", "a", fifth)
	leave("at the end", "a", nil)
	leave("at the other's end", "b", nil)
	if n := q.Len(); n != 0 {
		t.Errorf("%d images are kept, want none", n)
	}
	enter("a", true)
}
