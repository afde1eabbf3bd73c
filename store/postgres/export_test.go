package postgres

import "context"

// For tests.

// MaxScanned is how much of a listing a page looks at.
const MaxScanned = maxScanned

// Flights are of numbers.
type Flights = flights[int, int]

// NewFlights has so many at a time, with room for so many each.
func NewFlights(most, room int, read func([]int) ([]int, error)) *Flights {
	return &Flights{read: read, most: most, room: room}
}

// Wait returns what is read of a number.
func (f *flights[K, V]) Wait(ctx context.Context, k K) (V, error) { return f.wait(ctx, k) }

// Late is how long a flight keeps others on the ground.
const Late = late
