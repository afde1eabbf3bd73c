package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Lines about requests wait for each other, and for nothing that matters more.
func TestLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLines(&out)
		log := slog.New(logHandler{slog.NewJSONHandler(l, nil), l, true}).With("server", "a").WithGroup("g")
		has := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			if got := strings.Count(out.String(), "\n"); got != want {
				t.Errorf("%s %d lines are out, want %d:\n%s", when, got, want, &out)
			}
		}
		log.Info("request", "n", 1)
		log.Info("request", "n", 2)
		has("at once", 0)
		time.Sleep(logDelay)
		has("after the delay", 2)
		log.Info("request", "n", 3)
		log.Info("listening")
		has("with another line", 4)
		log.Error("request", "n", 4)
		has("with a failure", 5)
		log.Info("request", "n", 5)
		l.flush()
		has("at the end", 6)
		if got := out.String(); strings.Index(got, `"n":3`) > strings.Index(got, "listening") || !strings.Contains(got, `"server":"a","g":{"n":5}`) {
			t.Errorf("lines out of order, or without what they were given:\n%s", got)
		}
	})
}

// A log that cannot be written for a while is written again after it.
func TestLinesSurvive(t *testing.T) {
	t.Parallel()
	w := &away{away: true}
	l := newLines(w)
	log := slog.New(logHandler{slog.NewJSONHandler(l, nil), l, true})
	log.Warn("lost")
	w.away = false
	log.Warn("kept")
	if got := w.out.String(); !strings.Contains(got, "kept") || strings.Contains(got, "lost") {
		t.Errorf("after an error the log has %q, want the line behind it", got)
	}
}

// A line that is made by hand is the one that slog makes.
func FuzzLine(f *testing.F) {
	zone := time.FixedZone("", 5*60*60+30*60)
	f.Add("request", "path", "/sigstore/a/b@sha256=0/signature-1", 404, int64(123), 0, int64(1764093600123456789), false)
	f.Add("request", "error", `a "quoted" \ one <&>`, -1, int64(0), 0, int64(0), true)
	f.Add("request", "subject", "user:\u00e4\u2028\xff\x7f\x00", 1, int64(-1), 4, int64(-1), true)
	f.Add("", "", "", 0, int64(0), -4, int64(9e18), false)
	f.Fuzz(func(t *testing.T, message, key, text string, n int, duration int64, level int, at int64, far bool) {
		when := time.Unix(at/1e9, at%1e9).In(map[bool]*time.Location{false: time.UTC, true: zone}[far])
		r := slog.NewRecord(when, slog.Level(level), message, 0)
		r.AddAttrs(slog.String("route", text), slog.Int("status", n), slog.Duration("duration", time.Duration(duration)), slog.String(key, text))
		var out bytes.Buffer
		if err := slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.Level(level)}).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		line, ok := appendPlain([]byte("before"), r)
		if ok && string(line) != "before"+out.String() {
			t.Errorf("by hand:  %s\nby slog:  %s", line, &out)
		}
	})
}

// The lines about most requests are made by hand, and take no memory. It is counted in the whole
// process, so nothing runs beside it.
func TestPlainLine(t *testing.T) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "request", 0)
	r.AddAttrs(slog.String("path", "/sigstore/team/app@sha256=0/signature-2"), slog.Int("status", 404), slog.Duration("duration", time.Millisecond))
	h := logHandler{slog.NewJSONHandler(io.Discard, nil), newLines(io.Discard), true}
	if n := testing.AllocsPerRun(1000, func() { _ = h.Handle(t.Context(), r) }); n >= 1 {
		t.Errorf("a line about a request takes %v pieces of memory, want none", n)
	}
}

type away struct {
	away bool
	out  bytes.Buffer
}

func (w *away) Write(p []byte) (int, error) {
	if w.away {
		return 0, errors.New("no space left")
	}
	return w.out.Write(p)
}
