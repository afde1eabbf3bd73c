package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/server"
	"github.com/countersign-dev/countersign/server/repeat"
)

// drain is how long requests may take to end after SIGTERM: a push of a large layer is cut then.
const drain = 30 * time.Second

// serve listens before it makes anything, so that an address in use costs nothing.
func serve(ctx context.Context, t terminal, args []string) error {
	hangup := hangups()
	s, err := readSettings(t, args)
	if err != nil {
		return err
	}
	main, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("%w\nhint: -listen takes another address", err)
	}
	defer main.Close()
	debug, err := net.Listen("tcp", s.DebugListen)
	if err != nil {
		return fmt.Errorf("%w\nhint: -debug-listen takes another address", err)
	}
	defer debug.Close()
	if len(s.Hosts) == 0 {
		s.Hosts = []string{listensAs(s.Listen, main.Addr())}
	}
	level := new(slog.LevelVar)
	level.Set(s.LogLevel)
	again := newRereading(s, level, func() (settings, error) { return readSettings(t, args) })
	log, flush := requestLogger(t.stderr, level)
	defer flush()
	defer runtime.KeepAlive(collectSeldom())
	g, err := open(ctx, s, log, again.files()...)
	if err != nil {
		return err
	}
	defer g.close()
	select {
	case <-hangup: // while there was nobody yet to read anything again
		g.current.Load().reload()
	default:
	}
	g.log.Info("listening", "address", main.Addr().String(), "debug", debug.Addr().String(), "tls", g.tls != nil, "hosts", s.Hosts)
	if isTerminal(t.stdout) {
		g.current.Load().welcome(t.stdout, s)
	}
	return g.run(ctx, main, debug, again)
}

// listensAs is the address as a person wrote it, with the port that it has in fact.
func listensAs(setting string, addr net.Addr) string {
	host, _, err := net.SplitHostPort(setting)
	_, port, err2 := net.SplitHostPort(addr.String())
	if err != nil || err2 != nil || host == "" {
		return addr.String()
	}
	return net.JoinHostPort(host, port)
}

// logger writes text for people and JSON for machines.
func logger(stderr *os.File, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if isTerminal(stderr) {
		return slog.New(slog.NewTextHandler(stderr, options))
	}
	return slog.New(slog.NewJSONHandler(stderr, options))
}

// isTerminal tells a terminal from files and pipes; of other character devices only /dev/null is
// ever written to.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	null, nullErr := os.Stat(os.DevNull)
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && (nullErr != nil || !os.SameFile(info, null))
}

// run serves until ctx ends, then lets requests end.
func (g *ground) run(ctx context.Context, main, debug net.Listener, again *rereading) error {
	repeats := repeat.New(main, server.Often)
	main = repeats
	if g.tls != nil {
		main = tls.NewListener(main, g.tls)
	}
	servers := map[net.Listener]*http.Server{
		main:  g.http(func(w http.ResponseWriter, r *http.Request) { g.current.Load().answers.ServeHTTP(w, r) }),
		debug: g.http(func(w http.ResponseWriter, r *http.Request) { g.current.Load().debug.ServeHTTP(w, r) }),
	}
	repeats.Attach(servers[main])
	group, failed := errgroup.WithContext(ctx)
	for listener, s := range servers {
		group.Go(func() error {
			if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if g.ledger != nil {
		group.Go(func() error {
			g.ledger.Follow(failed)
			return nil
		})
	}
	group.Go(func() error {
		g.live(failed, again)
		return nil
	})
	group.Go(func() error {
		<-failed.Done()
		g.log.Info("shutting down", "patience", drain.String())
		g.current.Load().server.Drain()
		within, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		for _, listener := range []net.Listener{main, debug} { // health is answered to the last
			err := servers[listener].Shutdown(within)
			if err != nil {
				_ = servers[listener].Close() // Shutdown's error is the one that tells
			}
			if listener == main {
				err = errors.Join(err, repeats.Wait(within))
			}
			if err != nil {
				g.log.Warn("requests were cut", "address", listener.Addr().String(), "error", err)
			}
		}
		g.current.Load().server.LastRefusals(context.WithoutCancel(ctx))
		return nil
	})
	err := group.Wait()
	if g.ledger != nil {
		g.ledger.Last(context.WithoutCancel(ctx))
	}
	return err
}

// http bounds headers and idleness; bodies are bounded where they are read, since a layer may
// take its time.
func (g *ground) http(handler http.HandlerFunc) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
	}
}
