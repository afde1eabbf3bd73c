package server

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// idleThread is how long a thread of a background waits for more to do.
const idleThread = 10 * time.Second

// maxWaiting is how many jobs wait for a thread, which goes on with the next one and does not stop to be woken for it.
const maxWaiting = 64

// A background does what takes the processor for long, a few at a time, on threads of its own that give
// way to all others. Go's scheduler would let a read wait until a verification is over, or for 10 ms;
// the kernel does not.
type background struct {
	room   chan struct{} // one for each job that is being done, or waits
	most   int           // threads
	thread func() (end func())
	took   atomic.Int64 // the last job, in nanoseconds
	began  time.Time    // this
	wake   chan struct{}

	mu      sync.Mutex
	jobs    []func() // that wait
	threads int
	idle    int       // of the threads; who takes one of them away wakes it
	next    time.Time // when the next may leave
}

// newBackground returns one of so many threads at most. thread is called as one begins, and what it returns
// as that ends.
func newBackground(threads int, thread func() (end func())) *background {
	return &background{
		room: make(chan struct{}, threads+maxWaiting), most: threads, thread: thread, began: time.Now(), wake: make(chan struct{}, threads),
	}
}

// alone is a thread that nobody is told of.
func alone() (end func()) { return func() {} }

// start has f done, or returns an error where ctx ends before there is room. When f is through, then is told, and of
// its panic as an error.
func (b *background) start(ctx context.Context, f func(), then func(panicked error)) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs = append(b.jobs, func() {
		began := time.Now()
		err := caught(f)
		b.took.Store(int64(time.Since(began)))
		<-b.room
		then(err)
	})
	switch {
	case b.idle > 0:
		b.idle--
		b.wake <- struct{}{}
	case b.threads < b.most:
		b.threads++
		go b.work()
	}
	return nil
}

// leave waits until it is somebody's turn to be answered: twice as often as jobs are done, a few at a time,
// since to wait costs, too. Those who have shared a transaction have all been waiting for the same moment.
// Answered at once they would come again at once, and who reads would be behind all of them.
func (b *background) leave() {
	pace := min(time.Duration(b.took.Load()), maxPace) / time.Duration(2*b.most)
	b.mu.Lock()
	now := time.Now()
	turn := b.next
	if turn.Before(now) {
		turn = now
	}
	b.next = turn.Add(pace)
	b.mu.Unlock()
	wait := turn.Sub(now)
	if few := together * pace; few > 0 {
		wait -= turn.Sub(b.began) % few
	}
	time.Sleep(wait)
}

const (
	// maxPace bounds what a job that took long, on a machine that did something else, means for others.
	maxPace = time.Millisecond
	// together is how many leave at a time.
	together = 4
)

// enter waits for room. Where there is some, it does not matter whether ctx has ended: what was refused
// is recorded for who hung up, too.
func (b *background) enter(ctx context.Context) error {
	select {
	case b.room <- struct{}{}:
		return nil
	default:
	}
	select {
	case b.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work keeps a thread until nothing has come for a while. The thread ends with it: nothing else is to
// run with so little right to the processor.
func (b *background) work() {
	defer b.thread()()
	runtime.LockOSThread()
	giveWay()
	for job := b.job(); job != nil; job = b.job() {
		job()
	}
}

// job waits for the next one; nil: nothing has come for a while, and the thread is none any more.
func (b *background) job() func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.jobs) == 0 {
		b.idle++
		b.mu.Unlock()
		woken := b.rest()
		b.mu.Lock()
		if woken {
			continue
		}
		if b.idle == 0 { // somebody takes it for the one that they wake
			<-b.wake
			continue
		}
		b.idle--
		b.threads--
		return nil
	}
	job := b.jobs[0]
	b.jobs = slices.Delete(b.jobs, 0, 1)
	return job
}

// rest waits to be woken, and not for long.
func (b *background) rest() (woken bool) {
	idle := time.NewTimer(idleThread)
	defer idle.Stop()
	select {
	case <-b.wake:
		return true
	case <-idle.C:
		return false
	}
}

// caught makes an error of a panic: nobody else would catch it here, and one upload ended the process.
func caught(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	f()
	return nil
}

// giveWay makes the calling thread's share of a busy processor a tenth of what others have, and its turns
// the longest that there are: Linux, since 6.12, ends a long turn for who asks for a shorter one. Where it
// may not, it stays as it is.
func giveWay() {
	nice, err := niceness()
	if err != nil {
		return
	}
	nice = min(nice+10, 19)
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil && attr.Policy == unix.SCHED_NORMAL {
		attr.Nice, attr.Runtime = int32(nice), uint64(longTurn)
		if unix.SchedSetAttr(0, attr, 0) == nil {
			return
		}
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice) // a filter of system calls may know this one only
}

const longTurn = 100 * time.Millisecond

// niceness is the calling thread's, -20 to 19.
func niceness() (int, error) {
	kernels, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	return 20 - kernels, err // it is never negative there
}
