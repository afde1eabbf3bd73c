package main

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
//
// Meanwhile the server's threads take short turns, too: who has been asked for something need not wait for
// the end of another's, which is some milliseconds away. At other times that would cost more than it gains,
// where all that has to do with a request shares a processor.
type roomier struct {
	mu      sync.Mutex
	threads int
}

// thread is called as such a thread begins, and what it returns as that ends.
func (r *roomier) thread() (end func()) {
	r.count(1)
	return func() { r.count(-1) }
}

func (r *roomier) count(change int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.threads
	r.threads += change
	set := os.Getenv("GOMAXPROCS") != ""
	switch {
	case before == 0:
		takeTurns(shortTurn)
		if !set {
			runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
		}
	case r.threads == 0:
		takeTurns(0)
		if !set {
			runtime.SetDefaultGOMAXPROCS()
		}
	}
}

// shortTurn is a turn after which another may have the processor. Linux's own is 1.4 ms on two processors, and
// 2.8 ms on eight and more.
const shortTurn = 300 * time.Microsecond

// takeTurns has this program's threads take turns of this length, and those that they will start; 0: as
// long as the kernel thinks right. That is a wish: Linux heeds it since 6.12, and a filter of system calls may
// refuse it. A thread that somebody has given another policy is left alone.
func takeTurns(length time.Duration) {
	seen := map[string]bool{}
	for more := true; more; { // one may begin meanwhile, with the turns of one that was not seen
		more = false
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, thread := range threads {
			if id, err := strconv.Atoi(thread.Name()); err == nil && !seen[thread.Name()] {
				seen[thread.Name()], more = true, true
				setTurn(id, length)
			}
		}
	}
}

func setTurn(thread int, length time.Duration) {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return // it has ended, or is not for us to say
	}
	attr.Runtime = uint64(length)
	_ = unix.SchedSetAttr(thread, attr, 0) // as it was will do
}
