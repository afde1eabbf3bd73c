package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// logDelay is how long a line about a request may wait for others: one write takes them all.
const logDelay = 100 * time.Millisecond

// lines collects what is written for a moment. Writers wait for who takes it only when there is no more room.
type lines struct {
	to      io.Writer
	mu      sync.Mutex
	buffer  *bufio.Writer
	waiting bool
}

func newLines(to io.Writer) *lines { return &lines{to: to, buffer: bufio.NewWriterSize(to, 64<<10)} }

// requestLogger is logger for a server. A line about a request may wait a moment; flush is for the end.
func requestLogger(stderr *os.File, level slog.Leveler) (log *slog.Logger, flush func()) {
	if isTerminal(stderr) {
		return logger(stderr, level), func() {}
	}
	lines := newLines(stderr)
	return slog.New(logHandler{slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: level}), lines}), lines.flush
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.waiting {
		l.waiting = true
		time.AfterFunc(logDelay, l.flush)
	}
	n, err := l.buffer.Write(p)
	if err != nil {
		l.buffer.Reset(l.to) // or it would take no line again
	}
	return n, err
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	if err := l.buffer.Flush(); err != nil { // there is nobody else to tell
		l.buffer.Reset(l.to)
	}
}

// A logHandler lets lines about requests wait, and nothing else, nor what is worse than information.
type logHandler struct {
	slog.Handler
	lines *lines
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Message != "request" || r.Level > slog.LevelInfo {
		h.lines.flush()
	}
	return err
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.lines}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.lines}
}
