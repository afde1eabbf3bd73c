package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// perform is what this program does in a process of its own, so that it can be pinned and measured.
func perform(ctx context.Context, args []string, stdout io.Writer) error {
	roles := map[string]struct {
		arguments int
		perform   func(ctx context.Context, args []string) (tally, error)
	}{
		"handler": {2, performHandler},
		"upload":  {4, performUpload},
		"append":  {5, performAppend},
		"grow":    {4, performGrow},
		"verify":  {2, performVerify},
		"pace":    {4, performPace},
		"fetch":   {3, performFetch},
		"push":    {4, performPush},
	}
	if len(args) == 0 || roles[args[0]].perform == nil || len(args)-1 != roles[args[0]].arguments {
		return fmt.Errorf("as %q: no such role, or not its arguments", args)
	}
	t, err := roles[args[0]].perform(ctx, args[1:])
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(t)
}

// performHandler serves the signatures that a lookaside serves out of a map, and writes a line of log
// for each request as the server does, into a buffer.
func performHandler(ctx context.Context, args []string) (tally, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return tally{}, err
	}
	contents := make(map[string][]byte, n)
	for i := range n {
		contents[lookasidePath(i, 1)] = contentOf(i, 0)
	}
	lines := &buffered{w: bufio.NewWriterSize(os.Stderr, 64<<10)}
	go lines.flush(ctx)
	log := slog.New(slog.NewJSONHandler(lines, nil))
	s := &http.Server{Addr: args[0], ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, status := time.Now(), http.StatusOK
		if content, ok := contents[r.URL.Path]; ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content) // who has gone asks no more
		} else {
			status = http.StatusNotFound
			w.WriteHeader(status)
		}
		log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("route", "lookaside"), slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.Int("status", status), slog.Duration("duration", time.Since(began)), slog.String("remote", r.RemoteAddr))
	})}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return tally{}, s.ListenAndServe()
}

// A buffered writes now and then, as nginx does.
type buffered struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w.Write(p)
}

func (b *buffered) flush(ctx context.Context) {
	for ticker := time.NewTicker(time.Second); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		b.mu.Lock()
		_ = b.w.Flush() // it goes to a file
		b.mu.Unlock()
	}
}

// performFetch reads a path so often and keeps nothing.
func performFetch(ctx context.Context, args []string) (tally, error) {
	times, err := strconv.Atoi(args[2])
	if err != nil {
		return tally{}, err
	}
	return measured(func(t *tally) error {
		buffer := make([]byte, 1<<20)
		for range times {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+args[0]+args[1], nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buffer)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || n != res.ContentLength {
				return fmt.Errorf("%s: %s, %d of %d bytes, %w", args[1], res.Status, n, res.ContentLength, err)
			}
			t.Count += int(n)
		}
		return nil
	})
}

func client(connections int) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}}
}

// measured says what f used of the processor.
func measured(f func(t *tally) error) (t tally, err error) {
	before, err := usage()
	if err != nil {
		return t, err
	}
	if err := f(&t); err != nil {
		return t, err
	}
	after, err := usage()
	t.CPU = after - before
	return t, err
}

func usage() (float64, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(), nil
}

func readLines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines, s.Err()
}

func hashedToken(token string) string {
	return fmt.Sprintf("ci sha256:%x\n", sha256.Sum256([]byte(token)))
}
