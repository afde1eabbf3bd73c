package signing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// How the queue is worked off.
const (
	workers = 4                // tasks at a time, in this process; most of them wait for the store
	lease   = 30 * time.Second // how long nobody else gets what we took; after a crash it is taken again then
	attempt = 25 * time.Second // a lease ends after its attempt
	idle    = time.Second      // between looks at an empty queue: others may have queued something

	backOff   = time.Second     // before the second attempt; doubled for each further one
	farthest  = 5 * time.Minute // between attempts
	waiting   = time.Minute     // the same, where nothing failed: instances may come at any time
	attempts  = 15              // of what fails by itself, within three quarters of an hour; then it is dead
	untagged  = 6               // of what was pushed, within a minute: its tag may be written yet
	forgotten = 7 * 24 * time.Hour
)

// Run finishes what is queued until ctx ends, and what it has begun then.
func (s *Signing) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { s.work(ctx) })
	}
	all.Wait()
}

func (s *Signing) work(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		t, err := s.c.Store.Take(ctx, lease)
		if ctx.Err() == nil {
			s.note(began, err)
		}
		if err == nil {
			s.nudge() // there may be more
			s.attempt(ctx, t)
			continue
		}
		again := time.NewTimer(idle)
		select {
		case <-again.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// An outage is when the queue cannot be read, for the log.
type outage struct {
	mu    sync.Mutex
	on    bool
	since time.Time // or since when it is over
}

// note says once that the queue cannot be read, whoever of us tries, and once that it can be again. Who began
// to try before that has nothing to say of it.
func (s *Signing) note(began time.Time, err error) {
	unread := err != nil && !errors.Is(err, store.ErrNone)
	o := &s.unread
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.on == unread || !began.After(o.since) {
		return
	}
	o.on, o.since = unread, time.Now()
	if unread {
		s.c.Log.Warn("the queue cannot be read; we go on trying", "error", err)
	} else {
		s.c.Log.Info("the queue can be read again")
	}
}

// attempt works on a task that was taken, also while the server shuts down.
func (s *Signing) attempt(ctx context.Context, t store.Task) {
	whole := context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(whole, attempt)
	defer cancel()
	ends := &store.Task{Key: t.Key, Lease: t.Lease, State: store.Done}
	var err error
	switch t.Kind {
	case KindSign:
		err = s.signTask(ctx, t, ends)
	case KindSupersede:
		err = s.supersedeTask(ctx, t, ends)
	case KindRestore:
		err = s.restoreTask(ctx, t, ends)
	case KindResign:
		err = s.resignTask(ctx, t, ends)
	default:
		if do, ok := s.c.Others[t.Kind]; ok {
			err = do(ctx, t, ends)
		} else {
			err = fmt.Errorf("%w %q", errKind, t.Kind)
		}
	}
	if err == nil {
		s.metrics.attempts.WithLabelValues("done").Inc()
		return
	}
	s.after(whole, t, ends, err)
}

var errKind = errors.New("this version of the server does not know tasks of kind")

func (s *Signing) signTask(ctx context.Context, t store.Task, ends *store.Task) error {
	j, err := s.jobOf(t)
	if err != nil {
		return err
	}
	_, err = s.perform(ctx, j, resolved{}, ends)
	return err
}

// jobOf reads a task, and looks whether there still is its rule.
func (s *Signing) jobOf(t store.Task) (job, error) {
	j, d, err := readTask(t)
	if err != nil {
		return j, err
	}
	ref, err := j.reference()
	if err != nil {
		return j, fmt.Errorf("the task does not read: %w", err)
	}
	rule, ok := s.rules.find(ref, d.Key, d.Trigger)
	if !ok {
		return j, fmt.Errorf("%w says any more that %s is signed with key %s on %s", ErrNoRule, ref, d.Key, d.Trigger)
	}
	j.rule = rule
	return j, nil
}

// readTask reads all of a job but its rule.
func readTask(t store.Task) (job, Detail, error) {
	var d Detail
	if err := json.Unmarshal(t.Detail, &d); err != nil {
		return job{}, d, fmt.Errorf("the task does not read: %w", err)
	}
	return job{
		trigger: d.Trigger, image: t.Image, name: d.Name, pushed: d.Pushed,
		by: admission.Caller{Subject: d.Subject, Address: d.Address}, instances: d.Instances,
	}, d, nil
}

// after decides what becomes of a task that was not done.
func (s *Signing) after(ctx context.Context, t store.Task, ends *store.Task, cause error) {
	ctx, cancel := context.WithTimeout(ctx, lease-attempt)
	defer cancel()
	c := store.Change{Image: t.Image, Ends: ends}
	ends.Problem = cause.Error()
	outcome, now := "retried", s.c.Clock()
	old := growsOld(t) && now.Sub(t.Queued) > forgotten
	switch {
	case errors.Is(cause, errLeft) && t.Attempts <= untagged && ofPush(t):
		ends.State, ends.Due, outcome = store.Queued, now.Add(delay(t.Attempts, waiting)), "waiting"
	case errors.Is(cause, errLeft), errors.Is(cause, ErrShut), errors.Is(cause, store.ErrWithdrawn):
		// It is not to be signed. What would change that looks again by itself.
		outcome = "refused"
		c.Record = store.Record{Time: now, Action: store.Refused, Subject: subject, Image: t.Image, Reason: "not signed: " + cause.Error()}
	case errors.Is(cause, ErrNoRule) && t.Kind == KindSupersede:
		outcome = "refused"
	case errors.Is(cause, ErrNoRule), errors.Is(cause, registry.ErrInvalid), errors.Is(cause, store.ErrFull), old:
		ends.State, outcome = store.Dead, "dead"
	case errors.Is(cause, errWaiting), errors.Is(cause, errKind):
		ends.State, ends.Due, outcome = store.Queued, now.Add(delay(t.Attempts, waiting)), "waiting"
	case errors.Is(cause, store.ErrUnavailable), errors.Is(cause, registry.ErrUnavailable), errors.Is(cause, signature.ErrSigner), t.Attempts < attempts:
		// An outage buries nothing: it ends, and then there is all of this to do.
		ends.State, ends.Due = store.Queued, now.Add(delay(t.Attempts, farthest))
	default:
		ends.State, outcome = store.Dead, "dead"
	}
	s.metrics.attempts.WithLabelValues(outcome).Inc()
	s.c.Log.Warn("a task was not done", "task", t.Key, "attempts", t.Attempts, "outcome", outcome, "due", ends.Due, "cause", cause)
	if _, err := s.c.Store.Do(ctx, c); err != nil && !errors.Is(err, store.ErrLease) {
		s.c.Log.Warn("the task is left until its lease ends", "task", t.Key, "error", err)
	}
}

// growsOld reports whether a task should have been done when it was queued: others begin with a delay.
func growsOld(t store.Task) bool { return t.Kind == KindSign || t.Kind == KindResign }

// ofPush reports whether a push has queued a task: it does so before its tag is written.
func ofPush(t store.Task) bool {
	j, _, err := readTask(t)
	return err == nil && t.Kind == KindSign && j.pushed
}

// delay doubles with each attempt.
func delay(attempts int, most time.Duration) time.Duration {
	d := backOff
	for n := 1; n < attempts && d < most; n++ {
		d *= 2
	}
	return min(d, most)
}
