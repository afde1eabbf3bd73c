package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
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
	return slog.New(logHandler{slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: level}), lines, true}), lines.flush
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keep(p)
}

// request writes a record that appendPlain can append. It needs no memory but the room that is there.
func (l *lines) request(r slog.Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, ok := appendPlain(l.buffer.AvailableBuffer(), r)
	if ok {
		_, _ = l.keep(line) // there is nobody else to tell
	}
	return ok
}

func (l *lines) keep(p []byte) (int, error) {
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
	bare  bool // records get nothing beside what they have
}

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	waits := r.Message == "request" && r.Level <= slog.LevelInfo
	if waits && h.bare && h.lines.request(r) {
		return nil
	}
	err := h.Handler.Handle(ctx, r)
	if !waits {
		h.lines.flush()
	}
	return err
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.lines, false}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.lines, false}
}

// appendPlain appends the line that slog's JSONHandler writes for a record of information. It is false
// for what that escapes, and for values that lines about requests do not have: there it does better.
func appendPlain(line []byte, r slog.Record) (_ []byte, ok bool) {
	if year := r.Time.Year(); r.Level != slog.LevelInfo || r.PC != 0 || year < 1 || year > 9999 || !plain(r.Message) {
		return line, false
	}
	line = append(line, `{"time":"`...)
	line = r.Time.AppendFormat(line, time.RFC3339Nano)
	line = append(line, `","level":"INFO","msg":"`...)
	line = append(append(line, r.Message...), '"')
	ok = true
	r.Attrs(func(a slog.Attr) bool {
		line = append(append(append(line, `,"`...), a.Key...), `":`...)
		ok = plain(a.Key)
		switch a.Value.Kind() {
		case slog.KindString:
			text := a.Value.String()
			line = append(append(append(line, '"'), text...), '"')
			ok = ok && plain(text)
		case slog.KindInt64:
			line = strconv.AppendInt(line, a.Value.Int64(), 10)
		case slog.KindDuration:
			line = strconv.AppendInt(line, int64(a.Value.Duration()), 10)
		default:
			ok = false
		}
		return ok
	})
	return append(line, "}\n"...), ok
}

// plain says whether a text is its own JSON, between quotes.
func plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
