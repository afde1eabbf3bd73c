package server

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Bounds of what refusals may write into the audit trail: records a minute for each subject, and
// subjects a minute that are told apart.
const (
	refusalsRecorded = 10
	maxRefused       = 1000
)

// refusalQuota counts refusals by subject, a minute at a time, so that nobody fills the disk with
// records of what they were refused.
type refusalQuota struct {
	mu     sync.Mutex
	minute time.Time
	counts map[string]int
}

// take says whether a refusal of the subject is to be recorded, and when a minute is over how many
// were not, by subject.
func (q *refusalQuota) take(subject string, now time.Time) (record bool, left map[string]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if minute := now.Truncate(time.Minute); !minute.Equal(q.minute) {
		for subject, n := range q.counts {
			if n > refusalsRecorded {
				if left == nil {
					left = map[string]int{}
				}
				left[subject] = n - refusalsRecorded
			}
		}
		q.minute, q.counts = minute, map[string]int{}
	}
	if _, known := q.counts[subject]; !known && len(q.counts) >= maxRefused {
		subject = "others"
	}
	q.counts[subject]++
	return q.counts[subject] <= refusalsRecorded, left
}

// recordRefusal writes down what somebody was refused. A record that cannot be written changes
// nothing for them: they are refused either way.
func (s *Server) recordRefusal(r *http.Request, image api.Image, reason string) {
	from, now := caller(r), s.c.Clock()
	record, left := s.refused.take(from.Subject, now)
	var records []store.Record
	for subject, n := range left {
		records = append(records, store.Record{Time: now, Action: store.Refused, Subject: subject, Reason: fmt.Sprintf("%d more in a minute", n)})
	}
	if record {
		records = append(records, store.Record{
			Time: now, Action: store.Refused, Subject: from.Subject, Address: from.Address, Image: image,
			Fingerprint: eventOf(r).signer, Reason: reason,
		})
	}
	for _, record := range records {
		if _, err := s.c.Store.Do(r.Context(), store.Change{Image: record.Image, Record: record}); err != nil {
			s.c.Log.Warn("a refusal could not be recorded", "error", err)
		}
	}
}
