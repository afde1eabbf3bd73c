package store

import "time"

// A transaction is worth five verifications and more. Where writers come together, it begins when none
// has come for a gap, or after so many gaps.
const (
	gap     = 2 * time.Millisecond
	maxGaps = 5
)

// Gather waits for writers who are on their way to a transaction that they share. come says how many
// wait for it, and whether more are wanted: a lone writer waits for nobody.
func Gather(come func() (n int, wanted bool)) {
	for range maxGaps {
		before, wanted := come()
		if !wanted {
			return
		}
		time.Sleep(gap)
		if after, _ := come(); after == before {
			return
		}
	}
}
