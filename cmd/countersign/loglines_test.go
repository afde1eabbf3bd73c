package main

import (
	"bytes"
	"errors"
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
		log := slog.New(logHandler{slog.NewJSONHandler(l, nil), l}).With("server", "a").WithGroup("g")
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
	log := slog.New(logHandler{slog.NewJSONHandler(l, nil), l})
	log.Warn("lost")
	w.away = false
	log.Warn("kept")
	if got := w.out.String(); !strings.Contains(got, "kept") || strings.Contains(got, "lost") {
		t.Errorf("after an error the log has %q, want the line behind it", got)
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
