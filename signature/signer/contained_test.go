package signer_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/signature/signer"
)

// A switched signer hangs while it is told so, and counts who is with it.
type switched struct {
	signature.Signer
	hangs          atomic.Bool
	now, most, all atomic.Int32
}

func (s *switched) Sign(ctx context.Context, c signature.Claim) ([]byte, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	s.all.Add(1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Signer.Sign(ctx, c)
}

// Of a hundred who ask a signer that hangs nobody waits in a row: those who came before it was known
// wait once, and from then on one at a time does. It is used again as soon as it answers.
func TestHangingSigner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const patience = 5 * time.Second
		hanging := &switched{Signer: held(t, "plain")}
		hanging.hangs.Store(true)
		var mu sync.Mutex
		outcomes := map[signer.Outcome]int{}
		s := signer.Contain(hanging, signer.Bounds{Patience: patience, Room: make(chan struct{}, 16)}, clock, func(o signer.Outcome, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			outcomes[o]++
		})
		crowd := func() (waited int) {
			var all sync.WaitGroup
			var slow atomic.Int32
			for range 100 {
				all.Go(func() {
					began := time.Now()
					if _, err := s.Sign(t.Context(), claim); !errors.Is(err, signature.ErrSigner) || !strings.Contains(err.Error(), "did not answer") {
						t.Errorf("%v, want ErrSigner that says that it did not answer", err)
					}
					if took := time.Since(began); took > patience {
						t.Errorf("an answer after %v", took)
					} else if took > 0 {
						slow.Add(1)
					}
				})
			}
			all.Wait()
			return int(slow.Load())
		}
		if waited := crowd(); waited != 100 {
			t.Errorf("%d of a hundred waited for a signer that is not known to hang", waited)
		}
		asked := hanging.all.Load()
		if waited := crowd(); waited != 1 {
			t.Errorf("%d of a hundred waited for a signer that is known to hang, want one", waited)
		}
		if asked != 16 || hanging.all.Load() != 17 {
			t.Errorf("it was asked %d times before that was known, and %d times since; want 16 and once", asked, hanging.all.Load()-asked)
		}
		hanging.hangs.Store(false)
		for range 2 {
			if _, err := s.Sign(t.Context(), claim); err != nil {
				t.Errorf("when it answers again: %v", err)
			}
		}
		if outcomes[signer.Late] != 200 || outcomes[signer.Signed] != 2 {
			t.Errorf("outcomes %v, want 200 late and 2 signed", outcomes)
		}
	})
}

// No more ask at a time than there is room for, and who leaves waits for none.
func TestRoom(t *testing.T) {
	t.Parallel()
	room := make(chan struct{}, 2)
	counting := &switched{Signer: held(t, "plain")}
	a := signer.Contain(counting, signer.Bounds{Patience: long, Room: room}, clock, func(signer.Outcome, time.Duration) {})
	b := signer.Contain(counting, signer.Bounds{Patience: long, Room: room}, clock, func(signer.Outcome, time.Duration) {})
	var all sync.WaitGroup
	for range 20 {
		for _, s := range []*signer.Contained{a, b} {
			all.Go(func() {
				if _, err := s.Sign(t.Context(), claim); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if most := counting.most.Load(); most > 2 || counting.all.Load() != 40 {
		t.Errorf("%d signatures, %d at a time, want 40, and two", counting.all.Load(), most)
	}
	room <- struct{}{}
	room <- struct{}{}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := a.Sign(ctx, claim); !errors.Is(err, context.Canceled) || errors.Is(err, signature.ErrSigner) {
		t.Errorf("without room: %v, want context.Canceled and not ErrSigner", err)
	}
}
