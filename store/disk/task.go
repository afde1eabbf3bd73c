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

// timeSize is that of the time in front of a key in bucketDue.
const timeSize = 12

const maxTaskKey = bbolt.MaxKeySize - timeSize

// instant orders as times do; what is before 1970 counts as then.
func instant(t time.Time) []byte {
	if t.Unix() < 0 {
		t = time.Unix(0, 0)
	}
	key := binary.BigEndian.AppendUint64(nil, uint64(t.Unix()))
	return binary.BigEndian.AppendUint32(key, uint32(t.Nanosecond()))
}

func dueKey(t store.Task) []byte { return append(instant(t.Due), t.Key...) }

// getTask finds a task; one that does not read is as good as none.
func getTask(tx *bbolt.Tx, key string) (t store.Task, ok bool) {
	return parseTask([]byte(key), tx.Bucket(bucketTasks).Get([]byte(key)))
}

// parseTask takes the key from where it is, not from the JSON, which holds no bytes that are not UTF-8.
func parseTask(key, value []byte) (t store.Task, ok bool) {
	ok = value != nil && json.Unmarshal(value, &t) == nil
	t.Key = string(key)
	return t, ok
}

// putTask writes a task, and moves its entry among those that are due.
func putTask(tx *bbolt.Tx, t store.Task) error {
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := removeTask(tx, t.Key); err != nil {
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
		return nil, fmt.Errorf("%w: %s", store.ErrGone, ends.Key)
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

// Take implements store.Store. To find that nothing is due it writes nothing.
func (s *Store) Take(ctx context.Context, lease time.Duration) (store.Task, error) {
	var taken store.Task // not a named result: after ctx has ended batch may still set it
	found := false
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		found = firstDue(tx, s.o.Clock()) != nil
		return nil
	})
	if err == nil && found {
		err = s.batch(ctx, func(tx *bbolt.Tx) (err error) {
			taken, found, err = s.take(tx, lease)
			return err
		})
	}
	if err != nil {
		return store.Task{}, err
	}
	if !found {
		return store.Task{}, store.ErrNone
	}
	return taken, nil
}

// firstDue returns the key in bucketDue of the task that is due the longest; nil: none is.
func firstDue(tx *bbolt.Tx, now time.Time) []byte {
	key, _ := tx.Bucket(bucketDue).Cursor().First()
	if len(key) < timeSize || bytes.Compare(key[:timeSize], instant(now)) > 0 {
		return nil
	}
	return key
}

func (s *Store) take(tx *bbolt.Tx, lease time.Duration) (store.Task, bool, error) {
	now := s.o.Clock()
	for key := firstDue(tx, now); key != nil; key = firstDue(tx, now) {
		t, ok := getTask(tx, string(key[timeSize:]))
		if !ok || !bytes.Equal(dueKey(t), key) {
			// Its task does not read: nobody can do it.
			if err := tx.Bucket(bucketDue).Delete(key); err != nil {
				return store.Task{}, false, err
			}
			continue
		}
		t.Due, t.Lease = now.Add(lease), rand.Text()
		t.Attempts++
		return t, true, putTask(tx, t)
	}
	return store.Task{}, false, nil
}
