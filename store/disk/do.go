package disk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, image api.Image) (set store.Set, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		f, err := readImage(tx, imageKey(image))
		if errors.Is(err, errDamaged) {
			s.o.Damaged(image, "", err)
			return nil
		}
		set = f.set(tx, image, s.o.Damaged)
		return err
	})
	return set, err
}

// Do implements store.Store.
func (s *Store) Do(ctx context.Context, c store.Change) (store.Set, error) {
	var after store.Set
	var refused error
	err := s.batch(ctx, func(tx *bbolt.Tx) (err error) {
		after, refused, err = s.do(tx, c)
		return err
	})
	if err != nil {
		return store.Set{}, err
	}
	return after, refused
}

// do decides before it writes anything: a change that is refused leaves the shared transaction
// as it was. The second error is the file's.
func (s *Store) do(tx *bbolt.Tx, c store.Change) (after store.Set, refused, failed error) {
	now := s.o.Clock()
	file, refused := readImage(tx, imageKey(c.Image))
	if refused != nil {
		return store.Set{}, refused, nil
	}
	before := file.set(tx, c.Image, s.o.Damaged)
	after, records, refused := before.Apply(c, s.o.Limits)
	if refused != nil {
		return store.Set{}, refused, nil
	}
	ended, refused := endTask(tx, c.Ends, now)
	if refused != nil {
		return store.Set{}, refused, nil
	}
	if after.Version != before.Version {
		if err := file.write(tx, c.Image, after); err != nil {
			return store.Set{}, nil, err
		}
	}
	if err := errors.Join(putRecords(tx, records, now), putEnded(tx, ended), queueTasks(tx, c.Then, now)); err != nil {
		return store.Set{}, nil, err
	}
	return after, nil, nil
}

func putRecords(tx *bbolt.Tx, records []store.Record, now time.Time) error {
	b := tx.Bucket(bucketRecords)
	for _, r := range records {
		if r.Time.IsZero() {
			r.Time = now
		}
		sequence, err := b.NextSequence()
		if err != nil {
			return err
		}
		value, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, sequence), value); err != nil {
			return err
		}
	}
	return nil
}
