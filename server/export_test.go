package server

import "context"

// Route is what a test sees of a route.
type Route struct {
	Name, Path string
	Needs      []Need
}

// Need is what a test sees of what a route asks of access.
type Need struct {
	Methods  []string
	In, Over string
}

// Routes are those of the main listener.
func (s *Server) Routes() (all []Route) {
	for _, route := range s.routes() {
		seen := Route{Name: route.name, Path: route.path}
		for _, n := range route.needs {
			seen.Needs = append(seen.Needs, Need{Methods: n.methods, In: string(n.in), Over: string(n.over)})
		}
		all = append(all, seen)
	}
	return all
}

// Anybody is what a need says where nobody is asked.
const Anybody = string(anybody)

// Advise is the line of advice on a verdict.
var Advise = advise

// Unrecorded are refusals that wait to be counted in the audit trail, by subject.
func (s *Server) Unrecorded() map[string]int { return s.refused.unrecorded(s.c.Clock()) }

// Background returns what has things done in the background, on so many threads.
func Background(threads int) func(ctx context.Context, f func()) error {
	return ObservedBackground(threads, alone)
}

// ObservedBackground is Background, and says when threads begin and end.
func ObservedBackground(threads int, thread func() (end func())) func(ctx context.Context, f func()) error {
	return done(newBackground(threads, thread))
}

// Paced is Background on so many threads, and what those who leave it wait in.
func Paced(threads int) (do func(ctx context.Context, f func()) error, leave func()) {
	b := newBackground(threads, alone)
	return done(b), b.leave
}

// done waits for what is done in the background.
func done(b *background) func(ctx context.Context, f func()) error {
	return func(ctx context.Context, f func()) error {
		through := make(chan error, 1)
		if err := b.start(ctx, f, func(panicked error) { through <- panicked }); err != nil {
			return err
		}
		return <-through
	}
}

// IdleThread is how long a thread waits for more.
const IdleThread = idleThread

// MaxWaiting is how many wait for a thread.
const MaxWaiting = maxWaiting

// Together is how many leave at a time.
const Together = together

// LongTurn is how long a thread's turn is that gives way.
const LongTurn = longTurn

// Niceness is the calling thread's.
var Niceness = niceness
