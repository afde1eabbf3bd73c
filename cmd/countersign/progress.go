package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
)

// refreshed is how often a terminal is shown where long work is.
const refreshed = 200 * time.Millisecond

// A progress shows where long work is, in one line of a terminal that is written over and over;
// where that is none, it shows nothing.
type progress struct {
	mu    sync.Mutex
	to    *os.File // nil: nobody looks
	shown time.Time
	width int
}

func newProgress(to *os.File) *progress {
	if !isTerminal(to) {
		to = nil
	}
	return &progress{to: to}
}

// show writes the line, if the last one has been there for long enough.
func (p *progress) show(line func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.to != nil && now.Sub(p.shown) >= refreshed {
		p.shown = now
		p.write(line())
	}
}

// clear makes room for other lines.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to != nil && p.width > 0 {
		p.write("")
		fmt.Fprint(p.to, "\r")
	}
}

func (p *progress) write(line string) {
	fmt.Fprintf(p.to, "\r%-*s", p.width, line) // a terminal that is gone is nobody to tell
	p.width = len(line)
}

// printable replaces what could move a terminal's cursor or hide text: names of files and user ids
// are whatever somebody chose.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// count writes 1234567 as 1,234,567.
func count(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
