package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// paceConnections is how many reads there may be at a time.
const paceConnections = 64

// performPace reads lines of a file, far from each other, at a steady rate, whatever the answers take, and says for
// each how long after its time it was answered. It waits for no answer before it asks again, as
// nodes do not wait for each other. When it is told to end it tells what it has.
//
// One thread asks and reads what is answered, and comes before whatever else its core has to do: who asks is elsewhere,
// and that it has to wait is not the server's. net/http's client on Go's timers was late by more than the server was.
func performPace(ctx context.Context, args []string) (tally, error) {
	paths, err := readLines(args[1])
	if err != nil {
		return tally{}, err
	}
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return tally{}, err
	}
	lasts, err := time.ParseDuration(args[3])
	if err != nil {
		return tally{}, err
	}
	p := pacer{address: args[0], paths: paths, every: time.Second / time.Duration(rate), lasts: lasts}
	defer p.close()
	if err := p.connect(); err != nil {
		return tally{}, err
	}
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // for as long as this lasts there is room
	if err := comeFirst(); err != nil {
		return tally{}, err
	}
	err = p.run(ctx)
	return tally{Count: len(p.took), Seconds: p.took}, err
}

// comeFirst has the calling thread come before others, for turns of the shortest there are (Linux 6.12). It is no real-time thread:
// such a one that waits for another thread of Go's keeps that from its core.
func comeFirst() error {
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -20, Runtime: uint64(100 * time.Microsecond), Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	err := unix.SchedSetAttr(0, attr, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // it is 50 µs
	}
	if err != nil {
		return fmt.Errorf("to come before all others, which wants CAP_SYS_NICE: %w", err)
	}
	return nil
}

type pacer struct {
	address string
	paths   []string
	every   time.Duration
	lasts   time.Duration

	lines []line
	polls []unix.PollFd // of lines
	free  []int         // of lines
	began time.Time
	took  []float64
}

// A line is a connection that is asked for one thing at a time.
type line struct {
	asked bool
	due   time.Duration // when it was to ask, since began
	got   []byte        // has room for an answer
}

// connect makes connections, and asks each for something: the first request on one costs the server more than those that follow,
// and one that asks for nothing is closed.
func (p *pacer) connect() error {
	to, err := net.ResolveTCPAddr("tcp4", p.address)
	if err != nil {
		return err
	}
	at := &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	for n := range paceConnections {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		p.lines = append(p.lines, line{got: make([]byte, 0, 64<<10)})
		p.polls = append(p.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		p.free = append(p.free, n)
		if err := unix.Connect(fd, at); err != nil {
			return err
		}
	}
	p.began = time.Now()
	for n := range p.lines {
		if err := p.ask(p.paths[n%len(p.paths)], 0); err != nil {
			return err
		}
	}
	for len(p.free) < len(p.lines) {
		if err := p.answers(time.Second); err != nil {
			return err
		}
	}
	p.took = p.took[:0]
	return nil
}

func (p *pacer) close() {
	for _, f := range p.polls {
		_ = unix.Close(int(f.Fd)) // nothing is sent any more
	}
}

func (p *pacer) run(ctx context.Context) error {
	p.began = time.Now()
	for n := 0; ; {
		due, now := time.Duration(n)*p.every, time.Since(p.began)
		if ctx.Err() != nil {
			p.lasts = min(p.lasts, now) // what was due by then is asked for
		}
		over := due >= p.lasts
		if over && len(p.free) == len(p.lines) {
			return nil
		}
		if !over && due <= now && len(p.free) > 0 {
			if err := p.ask(p.paths[n*7919%len(p.paths)], due); err != nil {
				return err
			}
			n++
			continue
		}
		wait := 100 * time.Millisecond // and then see whether it is over
		if !over && due > now {
			wait = due - now
		}
		if err := p.answers(wait); err != nil {
			return err
		}
	}
}

func (p *pacer) ask(path string, due time.Duration) error {
	n := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.lines[n].asked, p.lines[n].due = true, due
	request := "GET " + path + " HTTP/1.1\r\nHost: " + p.address + "\r\n\r\n"
	sent, err := unix.Write(int(p.polls[n].Fd), []byte(request))
	if err == nil && sent < len(request) {
		err = fmt.Errorf("%d bytes of %d were sent", sent, len(request))
	}
	return err
}

// answers waits until something comes, and reads it.
func (p *pacer) answers(wait time.Duration) error {
	patience := unix.NsecToTimespec(int64(wait))
	_, err := unix.Ppoll(p.polls, &patience, nil)
	if errors.Is(err, unix.EINTR) {
		return nil // polls has what it had: nothing came
	}
	if err != nil {
		return err
	}
	now := time.Since(p.began)
	for n, f := range p.polls {
		l := &p.lines[n]
		if f.Revents != 0 {
			err = p.read(n)
		} else if l.asked && now-l.due > time.Minute {
			err = errors.New("no answer within a minute")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pacer) read(n int) error {
	l := &p.lines[n]
	had := len(l.got)
	got, err := unix.Read(int(p.polls[n].Fd), l.got[had:cap(l.got)])
	if err == nil && got == 0 {
		err = fmt.Errorf("a connection ended after %q", l.got)
	}
	if err != nil {
		return err
	}
	l.got = l.got[:had+got]
	whole, err := answered(l.got)
	if err != nil || !whole {
		return err
	}
	p.took = append(p.took, (time.Since(p.began) - l.due).Seconds())
	l.asked, l.got = false, l.got[:0]
	p.free = append(p.free, n)
	return nil
}

// answered says whether an answer is there to its end. It must be a good one, of known length.
func answered(b []byte) (whole bool, err error) {
	head, body, ended := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ended {
		return false, nil
	}
	_, length, known := bytes.Cut(head, []byte("\r\nContent-Length: "))
	length, _, _ = bytes.Cut(length, []byte("\r\n"))
	size, err := strconv.Atoi(string(length))
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || !known || err != nil {
		return false, fmt.Errorf("an answer of %q", head)
	}
	if len(body) > size {
		return false, fmt.Errorf("an answer of %d bytes, %d were said", len(body), size)
	}
	return len(body) == size, nil
}
