package main

import (
	"os"
	"runtime"
	"sync"
)

// collectSeldom returns memory that counts and is never touched, so takes none: the heap is collected when it
// has grown by as much once more. What a read leaves behind is garbage at once, and little else is on the heap:
// that would be some milliseconds' worth of reads. A larger one would not fit the processor's caches.
func collectSeldom() []byte {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, 32<<20)
}

// A roomier Go runs one goroutine more at a time than there are processors, while there is a thread that
// gives way to all others: that is not to take a place from them. At other times the one more would look
// for work in vain, on a processor that others use. What the environment says is left alone.
type roomier struct {
	mu      sync.Mutex
	threads int
}

// thread is called as such a thread begins, and what it returns as that ends.
func (r *roomier) thread() (end func()) {
	if os.Getenv("GOMAXPROCS") != "" {
		return func() {}
	}
	r.count(1)
	return func() { r.count(-1) }
}

func (r *roomier) count(change int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.threads
	r.threads += change
	switch {
	case before == 0:
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	case r.threads == 0:
		runtime.SetDefaultGOMAXPROCS()
	}
}
