package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

var _ store.Store = (*Store)(nil)

// A writer wants a change. Its image is its own until it is answered.
type writer struct {
	change store.Change
	until  time.Time              // after that nothing is begun for it: nobody waits any more
	answer func(store.Set, error) // once, and waits for nobody
}

// Do implements store.Store.
func (s *Store) Do(ctx context.Context, c store.Change) (store.Set, error) {
	return store.Await(ctx, s.Start, c)
}

// Start implements store.Store. Changes of different images that come together share a transaction: one is made at a
// time, so that those who come meanwhile share the next. A lone one waits for nobody, and the first after several
// a moment for others. That there is no answer is answered, too, and does not end the change: to break off a commit
// would leave it neither here nor there.
func (s *Store) Start(ctx context.Context, c store.Change, done func(store.Set, error)) {
	c, err := clean(c)
	if err == nil {
		err = unavailable(ctx.Err())
	}
	if err != nil {
		done(store.Set{}, err)
		return
	}
	var once sync.Once
	say := func(set store.Set, err error) { once.Do(func() { done(set, err) }) }
	w := &writer{change: c, until: time.Now().Add(3 * s.o.Timeout)}
	late := time.AfterFunc(3*s.o.Timeout, func() {
		s.writing.abandon(w)
		say(store.Set{}, unavailable(s.noAnswer()))
	})
	stop := context.AfterFunc(ctx, func() {
		if s.writing.abandon(w) {
			late.Stop()
			say(store.Set{}, unavailable(ctx.Err()))
		}
	})
	w.answer = func(set store.Set, err error) {
		late.Stop()
		stop()
		say(set, err)
		if next := s.writing.leave(c.Image); next != nil {
			s.writes.join(next)
		}
	}
	if s.writing.enter(w) {
		s.writes.join(w)
	}
}

func (s *Store) noAnswer() error { return fmt.Errorf("no answer within %v", 3*s.o.Timeout) }

// write makes changes of images that are all different, together where that may be. Who is to be alone
// keeps nobody.
func (s *Store) write(all []*writer) ([]struct{}, error) {
	together, alone := strangers(s.inTime(all))
	if len(together) > 0 {
		alone = append(alone, s.share(false, together...)...)
	}
	for _, w := range alone {
		go s.writeAlone(w)
	}
	return make([]struct{}, len(all)), nil
}

// inTime leaves out those for whom nobody waits any more, as after a database was away.
func (s *Store) inTime(all []*writer) (rest []*writer) {
	now := time.Now()
	for _, w := range all {
		if now.Before(w.until) {
			rest = append(rest, w)
			continue
		}
		w.answer(store.Set{}, unavailable(s.noAnswer()))
	}
	return rest
}

// writeAlone leaves a connection to those who wait for no image.
func (s *Store) writeAlone(w *writer) {
	late := time.NewTimer(time.Until(w.until))
	defer late.Stop()
	select {
	case s.alone <- struct{}{}:
		defer func() { <-s.alone }()
		s.share(true, w)
	case <-late.C:
		w.answer(store.Set{}, unavailable(s.noAnswer()))
	}
}

// strangers parts those who have a task with one of the others from the rest, who have none.
func strangers(all []*writer) (together, others []*writer) {
	taken := map[string]bool{}
next:
	for _, w := range all {
		keys := keysOf(w.change)
		for _, key := range keys {
			if taken[key] {
				others = append(others, w)
				continue next
			}
		}
		for _, key := range keys {
			taken[key] = true
		}
		together = append(together, w)
	}
	return together, others
}

// share makes changes in one transaction, answers, and returns who is to try again, alone: whose image or task
// another process has at this moment, which is not waited for, or everybody where the database refuses what one of
// them writes.
func (s *Store) share(waits bool, all ...*writer) (alone []*writer) {
	latest := slices.MaxFunc(all, func(a, b *writer) int { return a.until.Compare(b.until) })
	ctx, cancel := context.WithDeadline(context.Background(), latest.until)
	defer cancel()
	var t *transaction
	err := s.slowly(ctx, func(_ context.Context, conn *pgxpool.Conn) error {
		t = s.begin(conn.Conn(), waits)
		for _, w := range all {
			t.parts = append(t.parts, &part{change: w.change})
		}
		return t.run(context.WithoutCancel(ctx)) // each of its round trips has a time of its own
	})
	if !waits {
		s.writes.wrote(len(all))
	}
	if len(all) > 1 && ofOne(err) {
		return all
	}
	for n, w := range all {
		switch {
		case t != nil && t.parts[n].err != nil: // whatever became of the rest
			w.answer(t.parts[n].outcome())
		case err != nil:
			w.answer(store.Set{}, err)
		case t.parts[n].elsewhere:
			alone = append(alone, w)
		default:
			w.answer(t.parts[n].outcome())
		}
	}
	return alone
}

// Mend drops the signatures of an image that Options.Damaged is told of, durably, and returns their
// names. Get leaves them out already: nothing that is served changes. The record is kept if there was
// one.
func (s *Store) Mend(ctx context.Context, image api.Image, record store.Record) (dropped []string, err error) {
	c, err := clean(store.Change{Image: image, Record: record})
	if err != nil {
		return nil, err
	}
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		p := &part{change: c}
		t := s.begin(conn.Conn(), true, p)
		if err := t.lock(ctx); err != nil {
			return err
		}
		if dropped = p.before.damages; len(dropped) == 0 {
			return t.rollback(ctx)
		}
		after := p.before.set()
		after.Version++
		c.Record.Image, c.Record.Names = image, dropped
		p.row, p.records = p.before.replaced(after, rand.Text()), []store.Record{c.Record}
		return t.commit(ctx)
	})
	return dropped, err
}
