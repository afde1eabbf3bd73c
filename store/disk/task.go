package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// dueKey orders queued tasks by time; times before 1970 are all due.
func dueKey(t store.Task) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(0, t.Due.UnixNano()))), t.Key...)
}

// getTask finds a task; one that does not read is as good as none.
func getTask(tx *bbolt.Tx, key string) (t store.Task, ok bool) {
	value := tx.Bucket(bucketTasks).Get([]byte(key))
	return t, value != nil && json.Unmarshal(value, &t) == nil
}

// putTask writes a task, and moves its entry among those that are due.
func putTask(tx *bbolt.Tx, t store.Task) error {
	if err := removeTask(tx, t.Key); err != nil {
		return err
	}
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := tx.Bucket(bucketTasks).Put([]byte(t.Key), value); err != nil || t.State != store.Queued {
		return err
	}
	return tx.Bucket(bucketDue).Put(dueKey(t), nil)
}

func removeTask(tx *bbolt.Tx, key string) error {
	old, ok := getTask(tx, key)
	if !ok {
		return nil
	}
	return errors.Join(tx.Bucket(bucketTasks).Delete([]byte(key)), tx.Bucket(bucketDue).Delete(dueKey(old)))
}

// endTask decides what becomes of the task that a change ends; nil: there is none.
func endTask(tx *bbolt.Tx, ends *store.Task, now time.Time) (*store.Task, error) {
	if ends == nil {
		return nil, nil
	}
	have, ok := getTask(tx, ends.Key)
	if !ok {
		return nil, fmt.Errorf("%w: there is no task %s", store.ErrLease, ends.Key)
	}
	ended, err := have.End(*ends, now)
	return &ended, err
}

func putEnded(tx *bbolt.Tx, ended *store.Task) error {
	switch {
	case ended == nil:
		return nil
	case ended.State == store.Done:
		return removeTask(tx, ended.Key)
	}
	return putTask(tx, *ended)
}

func queueTasks(tx *bbolt.Tx, tasks []store.Task, now time.Time) error {
	for _, t := range tasks {
		if have, ok := getTask(tx, t.Key); ok && have.State == store.Queued {
			continue
		}
		t.State, t.Lease, t.Attempts = store.Queued, "", 0
		if t.Queued.IsZero() {
			t.Queued = now
		}
		if t.Due.IsZero() {
			t.Due = now
		}
		if err := putTask(tx, t); err != nil {
			return err
		}
	}
	return nil
}

// Take implements store.Store.
func (s *Store) Take(ctx context.Context, lease time.Duration) (store.Task, error) {
	var taken store.Task
	var found bool
	err := s.batch(ctx, func(tx *bbolt.Tx) (err error) {
		taken, found, err = s.take(tx, lease)
		return err
	})
	if err != nil {
		return store.Task{}, err
	}
	if !found {
		return store.Task{}, store.ErrNone
	}
	return taken, nil
}

func (s *Store) take(tx *bbolt.Tx, lease time.Duration) (store.Task, bool, error) {
	now := s.o.Clock()
	for {
		key, _ := tx.Bucket(bucketDue).Cursor().First()
		if key == nil || binary.BigEndian.Uint64(key) > uint64(now.UnixNano()) {
			return store.Task{}, false, nil
		}
		t, ok := getTask(tx, string(key[8:]))
		if !ok || !bytes.Equal(dueKey(t), key) {
			// Its task does not read: nobody can do it.
			if err := tx.Bucket(bucketDue).Delete(key); err != nil {
				return t, false, err
			}
			continue
		}
		// putTask finds the entry that is due by what is stored, so the old task is removed first.
		if err := removeTask(tx, t.Key); err != nil {
			return t, false, err
		}
		t.Due, t.Lease = now.Add(lease), rand.Text()
		t.Attempts++
		return t, true, putTask(tx, t)
	}
}
