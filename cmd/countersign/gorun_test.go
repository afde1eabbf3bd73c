package main

import (
	"runtime"
	"testing"
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
