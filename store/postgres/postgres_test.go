package postgres_test

import (
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	need(t)
	storetest.Test(t, func(t *testing.T, limits store.Limits, clock func() time.Time) store.Store {
		_, url := database(t, template)
		o := options(url)
		o.Limits, o.Clock = limits, clock
		return open(t, o)
	})
}
