package signing

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/store"
)

// Kinds of the tasks that a Signing queues.
const (
	KindSign      = "sign"
	KindSupersede = "supersede"
	KindRestore   = "restore" // what supersede has dropped, if its tag has come back
	KindResign    = "resign"
)

// ErrNoTask is what Retry and Drop say of a task that is not queued, or not any more.
var ErrNoTask = errors.New("there is no such task")

// A Detail is what a task of ours says beside its image.
type Detail struct {
	Name    string  `json:"name"` // of the manifest in the registry: a tag, or a digest
	Key     string  `json:"key"`  // the rule's
	Scope   string  `json:"scope"`
	Trigger Trigger `json:"trigger"`
	Pushed  bool    `json:"pushed,omitempty"`  // by a push, and not by what came later
	Subject string  `json:"subject,omitempty"` // who asked for it
	Address string  `json:"address,omitempty"`
	From    string  `json:"from,omitempty"` // of resign: the fingerprint of the old key
	// Instances are, of supersede, those of the list that was pushed.
	Instances []digest.Digest `json:"instances,omitempty"`
}

// key is what tells one job from another. It has no secret and no time: the same is queued once.
func (j job) key() string {
	return fmt.Sprintf("%s %s %s %s", KindSign, j.image, j.name, j.rule.Key)
}

// task is the job, to be done after a time: who queues it tries first.
func (j job) task(due time.Time) store.Task {
	return taskOf(KindSign, j.key(), j, due)
}

func taskOf(kind, key string, j job, due time.Time) store.Task {
	return store.Task{Key: key, Kind: kind, Image: j.image, Detail: j.detail(), Due: due}
}

// queue leaves a job to the worker.
func (s *Signing) queue(ctx context.Context, j job) error {
	_, err := s.c.Store.Do(ctx, store.Change{Image: j.image, Then: []store.Task{j.task(s.c.Clock())}})
	if err == nil {
		s.nudge()
	}
	return err
}

// nudge wakes the worker: something is due.
func (s *Signing) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// TaskID is what a task is called in URLs.
func TaskID(t store.Task) string { return base64.RawURLEncoding.EncodeToString([]byte(t.Key)) }

// maxTaskID is more than any of ours has.
const maxTaskID = 2048

// task finds a task by its ID. The store lists them by their keys, and has few.
func (s *Signing) task(ctx context.Context, id string) (store.Task, error) {
	key, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(id) > maxTaskID {
		return store.Task{}, fmt.Errorf("%w: %.100q is no task's id", ErrNoTask, id)
	}
	for after := store.Cursor(""); ; {
		var entries []store.Entry
		if entries, after, err = s.c.Store.List(ctx, store.Filter{Kind: store.Tasks}, after, 1000); err != nil {
			return store.Task{}, err
		}
		for _, e := range entries {
			if e.Task.Key == string(key) {
				return *e.Task, nil
			}
		}
		if after == "" {
			return store.Task{}, fmt.Errorf("%w: it is finished, or was dropped. hint: countersign queue shows what there is", ErrNoTask)
		}
	}
}

// Retry makes a task due now, as if it had never been tried. Errors: ErrNoTask, and
// store.ErrLease while it is being worked on.
func (s *Signing) Retry(ctx context.Context, id string) error {
	t, err := s.task(ctx, id)
	if err != nil {
		return err
	}
	again := t
	again.Due, again.Problem = s.c.Clock(), ""
	if growsOld(t) {
		again.Queued = again.Due
	}
	_, err = s.c.Store.Do(ctx, store.Change{
		Image: t.Image, Ends: &store.Task{Key: t.Key, State: store.Done}, Then: []store.Task{again},
	})
	if err == nil {
		s.nudge()
	}
	return err
}

// Drop gives a task up for good; it is recorded who did. Errors as of Retry.
func (s *Signing) Drop(ctx context.Context, id string, by admission.Caller) error {
	t, err := s.task(ctx, id)
	if err != nil {
		return err
	}
	_, err = s.c.Store.Do(ctx, store.Change{
		Image: t.Image, Ends: &store.Task{Key: t.Key, State: store.Done},
		Record: store.Record{
			Time: s.c.Clock(), Action: store.Dropped, Subject: by.Subject, Address: by.Address, Image: t.Image,
			Reason: "task " + t.Key + " was dropped from the queue",
		},
	})
	return err
}
