package main

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Go runs one goroutine more as long as there is a thread that gives way, however many there are, and as
// many as the processors again behind the last.
func TestRoomier(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	runtime.SetDefaultGOMAXPROCS()
	usual := runtime.GOMAXPROCS(0)
	wants := func(when string, want int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != want {
			t.Errorf("%s Go runs %d at a time, want %d", when, got, want)
		}
	}
	var r roomier
	first, second := r.thread(), r.thread()
	wants("with two threads", usual+1)
	first()
	wants("with one", usual+1)
	second()
	wants("behind the last", usual)
	r.thread()()
	wants("behind another", usual)

	t.Setenv("GOMAXPROCS", "7")
	end := r.thread()
	wants("as the environment says", usual)
	end()
}

// While there is a thread that gives way all threads take short turns, also those that begin meanwhile, and
// behind the last they have the kernel's again. One that gives way keeps its niceness.
func TestShortTurns(t *testing.T) {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil || own.Runtime == 0 {
		t.Skipf("SKIPPED: Linux tells of turns since 6.12: %+v, %v", own, err)
	}
	kernels := time.Duration(own.Runtime)
	wants := func(when string, want time.Duration) {
		t.Helper()
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unix.SchedGetAttr(id, 0); err == nil && time.Duration(got.Runtime) != want { // or it has ended
				t.Errorf("%s a turn of thread %d is %v, want %v", when, id, time.Duration(got.Runtime), want)
			}
		}
	}
	another := func() (niceness int32) {
		known := make(chan int32)
		go func() { // ends its thread
			runtime.LockOSThread()
			attr, err := unix.SchedGetAttr(0, 0)
			if err != nil {
				t.Error(err)
			}
			known <- attr.Nice
		}()
		return <-known
	}
	var r roomier
	end := r.thread()
	another()
	wants("with a thread that gives way", shortTurn)
	if n := another(); n != own.Nice {
		t.Errorf("a thread has niceness %d, want %d", n, own.Nice)
	}
	end()
	another()
	wants("behind it", kernels)
}
