package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, image api.Image) (set store.Set, err error) {
	key := imageKey(image)
	if set, ok := s.known.get(key); ok && ctx.Err() == nil {
		return set, nil
	}
	var damages []damage
	since := s.known.now()
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		f, err := readImage(tx, key)
		if err != nil {
			damages = append(damages, damage{image, "", err})
			return nil
		}
		set, damages = f.set(tx, image)
		return nil
	})
	s.tell(damages)
	if err == nil && len(damages) == 0 {
		s.known.put(key, set, since)
	}
	return set, err
}

// A damage is what Options.Damaged is told, after the transaction: it may take its time.
type damage struct {
	image api.Image
	name  string
	err   error
}

func (s *Store) tell(damages []damage) {
	for _, d := range damages {
		s.o.Damaged(d.image, d.name, d.err)
	}
}

// Do implements store.Store.
func (s *Store) Do(ctx context.Context, c store.Change) (store.Set, error) {
	return store.Await(ctx, s.Start, c)
}

// Start implements store.Store.
func (s *Store) Start(ctx context.Context, c store.Change, done func(store.Set, error)) {
	err := check(c)
	if err == nil {
		err = unavailable(ctx.Err())
	}
	if err != nil {
		done(store.Set{}, err)
		return
	}
	var after store.Set
	var refused error
	s.writes.join(&write{func(tx *bbolt.Tx) (err error) {
		after, refused, err = s.do(tx, c)
		return err
	}, func(failed error) {
		if failed != nil {
			done(store.Set{}, unavailable(failed))
			return
		}
		done(after, refused)
	}})
}

// check refuses what could be stored and never be read again.
func check(c store.Change) error {
	for _, a := range c.Add {
		if name := api.Name(c.Image.Digest, a.Content); a.Name != name {
			return fmt.Errorf("signature %q has the content of %q", a.Name, name)
		}
	}
	for _, t := range c.Then {
		if len(t.Key) == 0 || len(t.Key) > maxTaskKey {
			return fmt.Errorf("a task's key has %d bytes, want 1 to %d", len(t.Key), maxTaskKey)
		}
	}
	return nil
}

// do decides before it writes anything: a change that is refused leaves the shared transaction
// as it was. The second error is the file's.
func (s *Store) do(tx *bbolt.Tx, c store.Change) (after store.Set, refused, failed error) {
	now := s.o.Clock()
	file, err := readImage(tx, imageKey(c.Image))
	if err != nil { // what is withdrawn is not known: nothing may come or go
		return store.Set{}, unavailable(err), nil
	}
	before, _ := file.set(tx, c.Image)
	after, records, refused := before.Apply(c, s.o.Limits)
	if refused != nil {
		return store.Set{}, refused, nil
	}
	ended, refused := endTask(tx, c.Ends, now)
	if refused != nil {
		return store.Set{}, refused, nil
	}
	if after.Version != before.Version {
		if err := file.write(tx, s.known, c.Image, before, after); err != nil {
			return store.Set{}, nil, err
		}
	}
	if err := errors.Join(putRecords(tx, records, now), putEnded(tx, ended), queueTasks(tx, c.Then, now)); err != nil {
		return store.Set{}, nil, err
	}
	return after, nil, nil
}

func putRecords(tx *bbolt.Tx, records []store.Record, now time.Time) error {
	b := appended(tx, bucketRecords)
	for _, r := range records {
		if r.Time.IsZero() {
			r.Time = now
		}
		value, err := json.Marshal(r)
		if err != nil {
			return err
		}
		sequence, err := b.NextSequence()
		if err != nil {
			return err
		}
		if err := b.Put(recordKey(sequence), value); err != nil {
			return err
		}
	}
	return nil
}
