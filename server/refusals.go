package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Bounds of what refusals may write into the audit trail: records a minute for each subject, and
// subjects that are told apart. The others are one.
const (
	refusalsRecorded = 10
	maxRefused       = 1000
	others           = "others"
)

// refusalTime is how long a record of a refusal may take, whether who was refused waits or not.
const refusalTime = 10 * time.Second

// refusalQuota counts refusals by subject, a minute at a time, so that nobody fills the disk with
// records of what they were refused.
type refusalQuota struct {
	mu     sync.Mutex
	minute time.Time
	counts map[string]int // in this minute
	left   map[string]int // not recorded in those before
}

// take says whether a refusal of the subject is to be recorded.
func (q *refusalQuota) take(subject string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn(now)
	return count(q.counts, subject, 1) <= refusalsRecorded
}

// turn begins a minute, if the last one is over.
func (q *refusalQuota) turn(now time.Time) {
	minute := now.Truncate(time.Minute)
	if minute.Equal(q.minute) {
		return
	}
	if q.left == nil {
		q.left = map[string]int{}
	}
	for subject, n := range q.counts {
		if n > refusalsRecorded {
			count(q.left, subject, n-refusalsRecorded)
		}
	}
	q.minute, q.counts = minute, map[string]int{}
}

// count adds to a subject's number, and returns it.
func count(counts map[string]int, subject string, n int) int {
	if _, known := counts[subject]; !known && len(counts) >= maxRefused {
		subject = others
	}
	counts[subject] += n
	return counts[subject]
}

// unrecorded takes out how many refusals were not recorded in minutes that are over, by subject.
func (q *refusalQuota) unrecorded(now time.Time) map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turn(now)
	left := q.left
	q.left = map[string]int{}
	return left
}

// putBack is for a count that could not be recorded yet.
func (q *refusalQuota) putBack(subject string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	count(q.left, subject, n)
}

// recordRefusal writes down what somebody was refused, also if they did not wait for the answer. A
// record that cannot be written changes nothing for them: they are refused either way.
func (s *Server) recordRefusal(r *http.Request, image api.Image, reason string) {
	from, now := caller(r), s.c.Clock()
	if !s.refused.take(from.Subject, now) {
		return
	}
	err := s.writeRefusal(r.Context(), store.Record{
		Time: now, Action: store.Refused, Subject: from.Subject, Address: from.Address, Image: image,
		Fingerprint: eventOf(r).signer, Reason: reason,
	})
	if err != nil {
		s.c.Log.Warn("a refusal could not be recorded", "error", err)
	}
}

func (s *Server) writeRefusal(ctx context.Context, record store.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalTime)
	defer cancel()
	_, err := s.c.Store.Do(ctx, store.Change{Image: record.Image, Record: record})
	return err
}

// CountRefusals records when a minute is over how many refusals of it were not recorded one by one,
// until ctx ends.
func (s *Server) CountRefusals(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		s.countRefusals(ctx, s.c.Clock())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// LastRefusals does the same for the minute that is not over, when nobody can be refused any more.
func (s *Server) LastRefusals(ctx context.Context) {
	s.countRefusals(ctx, s.c.Clock().Add(time.Minute))
}

func (s *Server) countRefusals(ctx context.Context, now time.Time) {
	var failed error
	for subject, n := range s.refused.unrecorded(now) {
		if failed == nil {
			failed = s.writeRefusal(ctx, store.Record{
				Time: s.c.Clock(), Action: store.Refused, Subject: subject, Reason: fmt.Sprintf("%d more in a minute", n),
			})
		}
		if failed != nil {
			s.refused.putBack(subject, n)
		}
	}
	if failed != nil {
		s.c.Log.Warn("refusals could not be counted in the audit trail; later they will", "error", failed)
	}
}
