package signing_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/store"
)

// An absent store's queue cannot be read while it is away.
type absent struct {
	store.Store
	away  atomic.Bool
	asked atomic.Int64
}

func (a *absent) Take(ctx context.Context, lease time.Duration) (store.Task, error) {
	if a.away.Load() {
		a.asked.Add(1)
		return store.Task{}, fmt.Errorf("%w: for a test", store.ErrUnavailable)
	}
	return a.Store.Take(ctx, lease)
}

// However long the store is away, and however often it is asked meanwhile: the log has a line when
// that begins and a line when it is over.
func TestQueueAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnUpload)
	away := &absent{Store: w.store}
	var log bytes.Buffer // slog writes one line at a time
	w.config.Store, w.config.Log = away, slog.New(slog.NewTextHandler(&log, nil))
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, everything(signing.OnUpload)...) // its channels belong to this clock
		w.whileWorking(t, func() {
			for range 2 {
				for _, is := range []bool{true, false} {
					away.away.Store(is)
					<-time.After(time.Minute)
				}
			}
		})
	})
	if n := away.asked.Load(); n < 100 {
		t.Errorf("the store was asked %d times while it was away, want every worker to go on asking", n)
	}
	for line, want := range map[string]int{"the queue cannot be read": 2, "the queue can be read again": 2, "level=": 4} {
		if got := strings.Count(log.String(), line); got != want {
			t.Errorf("%q is logged %d times for two outages, want %d:\n%s", line, got, want, &log)
		}
	}
}
