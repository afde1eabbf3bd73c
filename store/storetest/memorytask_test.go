package storetest_test

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/countersign-dev/countersign/store"
)

func (m *memory) end(ends *store.Task) (*store.Task, error) {
	if ends == nil {
		return nil, nil
	}
	have, ok := m.tasks[ends.Key]
	if !ok {
		if m.is("what is gone ends well") {
			return nil, nil
		}
		if m.is("what is gone is held") {
			return nil, store.ErrLease
		}
		return nil, store.ErrGone
	}
	e := *ends
	switch {
	case m.is("any lease ends a task") && e.Lease != "":
		e.Lease = have.Lease
	case m.is("no lease ends a task") && e.Lease == "":
		e.Lease = have.Lease
	case m.is("a lease that ran out ends nothing") && !have.Due.After(m.clock()) && e.Lease != "":
		return nil, fmt.Errorf("%w: it ran out", store.ErrLease)
	case m.is("a task ends somehow") && e.State != store.Queued && e.State != store.Dead:
		e.State = store.Done
	}
	ended, err := have.End(e, m.clock())
	if err != nil && m.is("what is held is gone") {
		err = store.ErrGone
	}
	switch m.wrong {
	case "a delay is forgotten":
		if ended.State == store.Queued {
			ended.Due = m.clock()
		}
	case "a problem is forgotten":
		ended.Problem = ""
	case "a lease outlives its task's end":
		ended.Lease = have.Lease
	case "a delay forgets attempts":
		ended.Attempts = 0
	case "what is dead is done":
		if ended.State == store.Dead {
			ended.State = store.Done
		}
	}
	return &ended, err
}

func (m *memory) keepTask(t store.Task) {
	if t.State == store.Done && !m.is("what is done stays queued") {
		delete(m.tasks, t.Key)
		return
	}
	if !m.is("do keeps what it was given") {
		t.Detail = bytes.Clone(t.Detail)
	}
	m.tasks[t.Key] = t
}

func (m *memory) then(tasks []store.Task, ended *store.Task) {
	if ended != nil && !m.is("then comes before ends") {
		m.keepTask(*ended)
	}
	for _, t := range tasks {
		have, ok := m.tasks[t.Key]
		switch {
		case !ok, have.State == store.Dead && !m.is("what is dead is not replaced"):
		case m.is("a second task replaces the first"):
		case m.is("what is leased is queued again") && have.Lease != "":
		default:
			continue
		}
		if !m.is("then believes the state") {
			t.State = store.Queued
		}
		if !m.is("then believes attempts and lease") {
			t.Attempts, t.Lease = 0, ""
		}
		if t.Queued.IsZero() {
			t.Queued = m.clock()
		}
		if t.Due.IsZero() && !m.is("a task without a time is never due") {
			t.Due = m.clock()
		}
		m.keepTask(t)
	}
	if ended != nil && m.is("then comes before ends") {
		m.keepTask(*ended)
	}
}

func (m *memory) Take(_ context.Context, lease time.Duration) (store.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock()
	var best store.Task
	for _, t := range m.tasks {
		due := !t.Due.After(now)
		switch m.wrong {
		case "a lease keeps nobody out":
			due = due || t.Lease != ""
		case "a lease never runs out":
			due = due && t.Lease == ""
		case "a lease is an hour":
			due = due && (t.Lease == "" || t.Due.Add(time.Hour).Before(now))
		case "a task is due before its time":
			due = due || t.Lease == "" && !t.Due.After(now.Add(time.Second))
		case "a task is due behind its time":
			due = t.Due.Before(now.Add(-time.Nanosecond)) || t.Due.Equal(now) && t.Attempts > 0
		case "a task without a time is never due":
			due = due && !t.Due.IsZero()
		}
		if t.State == store.Dead && !m.is("the dead are taken") || !due {
			continue
		}
		if best.Key == "" || m.sooner(t, best) {
			best = t
		}
	}
	if best.Key == "" {
		return store.Task{}, store.ErrNone
	}
	if m.is("two take one task") {
		m.pause()
	}
	m.leases++
	best.Lease, best.Due, best.Attempts = fmt.Sprint("lease ", m.leases), now.Add(lease), best.Attempts+1
	switch m.wrong {
	case "a lease is always the same":
		best.Lease = "lease"
	case "attempts are not counted":
		best.Attempts = 0
	}
	m.tasks[best.Key] = best
	best.Detail = bytes.Clone(best.Detail)
	return best, nil
}

func (m *memory) sooner(t, best store.Task) bool {
	switch m.wrong {
	case "tasks are taken by key":
		return t.Key < best.Key
	case "the newest task is taken first":
		return t.Due.After(best.Due)
	}
	return t.Due.Before(best.Due)
}
