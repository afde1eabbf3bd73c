package disk_test

import (
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
	"github.com/countersign-dev/countersign/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Test(t, func(t *testing.T, limits store.Limits, clock func() time.Time) store.Store {
		s, err := disk.Open(t.TempDir(), disk.Options{Limits: limits, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return s
	})
}
