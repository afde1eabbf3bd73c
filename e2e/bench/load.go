package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

//go:embed wrk.lua
var wrkScript []byte

// A load is what wrk saw.
type load struct {
	Requests, Duration, Bytes float64
	Refused                   float64 // answers of 400 and more
	Broken                    float64 // no answers
	P50, P99                  float64 // microseconds
	CPU                       float64 // seconds that who answered used
}

func (l load) rate() float64 { return l.Requests / (l.Duration / 1e6) }

// wrk asks an address for lines of a file, over so many connections, from one core, and says what
// that cost the processes that answer. misses is the share of answers that must not be 200.
func (b *bench) wrk(ctx context.Context, core int, address, file string, connections int, misses float64, pids ...int) (l load, err error) {
	script := filepath.Join(b.dir, "wrk.lua")
	if err := os.WriteFile(script, wrkScript, 0o644); err != nil {
		return l, err
	}
	args := []string{
		"-t", "1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(max(1, int(b.For.Seconds()))) + "s", "--timeout", "10s",
		"-H", "Accept: " + manifestType, // distribution has no OCI manifest for who does not ask for one
		"-s", script, "http://" + address, "--", file, strconv.Itoa(int(time.Now().UnixNano() % 1e9)),
	}
	var text []byte
	l.CPU, err = spent(pids, func() (err error) {
		text, err = output(ctx, core, "wrk", args...)
		return err
	})
	if err != nil {
		return l, err
	}
	found := regexp.MustCompile(`(?m)^bench (\{.*\})$`).FindSubmatch(text)
	if found == nil {
		return l, fmt.Errorf("wrk said: %s", text)
	}
	used := l.CPU
	if err := json.Unmarshal(found[1], &l); err != nil {
		return l, err
	}
	l.CPU = used
	if share := l.Refused / l.Requests; l.Broken > 0 || l.Requests == 0 || share < misses-.1 || share > misses+.1 {
		return l, fmt.Errorf("%s answered %.0f requests, %.0f of them with an error and %.0f not at all; a share of %.1f was expected to be errors",
			address, l.Requests, l.Refused, l.Broken, misses)
	}
	return l, nil
}

// output runs a program to its end, on a core, and returns what it says.
func output(ctx context.Context, core int, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	c := pinned(ctx, core, program, args...)
	// One that is told to end and does so in good order has done what was wanted.
	c.Cancel = func() error {
		_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
		return os.ErrProcessDone
	}
	c.WaitDelay = 10 * time.Second
	text, err := c.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, text[max(0, len(text)-2000):])
	}
	return text, nil
}

// A tally is what a performance says that it did.
type tally struct {
	Count   int
	CPU     float64   // seconds that it used itself
	Seconds []float64 // of each
}

// as runs this program again, in a role, on a core.
func (b *bench) as(ctx context.Context, core int, role string, args ...string) (t tally, err error) {
	text, err := output(ctx, core, b.programs.self, append([]string{"as", role}, args...)...)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return t, fmt.Errorf("%s said: %s", role, text)
	}
	return t, nil
}
