package server

import (
	"fmt"
	"testing"
	"time"
)

// Who makes up subjects fills neither the trail nor memory: those beyond the bound are one.
func TestRefusalsOfManySubjects(t *testing.T) {
	t.Parallel()
	q, now := &refusalQuota{}, time.Unix(0, 0)
	recorded := 0
	for n := range 3 * maxRefused {
		if q.take(fmt.Sprint("subject ", n), now) {
			recorded++
		}
	}
	if want := maxRefused + refusalsRecorded; recorded != want || len(q.counts) != maxRefused+1 {
		t.Errorf("%d refusals of as many subjects: %d are recorded, and %d subjects kept in mind, want %d and %d",
			3*maxRefused, recorded, len(q.counts), want, maxRefused+1)
	}
	if got, want := fmt.Sprint(q.unrecorded(now.Add(time.Minute))), fmt.Sprintf("map[%s:%d]", others, 2*maxRefused-refusalsRecorded); got != want {
		t.Errorf("unrecorded are %s, want %s", got, want)
	}
}
