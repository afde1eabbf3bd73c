package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/server/access"
)

// look is how often the file of settings is looked at. What it has is believed when it was the same
// twice: a file that is being written can be good, and say less than it will.
const look = time.Second

// retry is how often settings are tried again that could not be put in force: what they name may be
// there by then, as Kubernetes brings settings and secrets one after the other.
const retry = 10 * time.Second

// A rereading follows the settings of a server. What does not read, or needs a restart, leaves those
// before in force.
type rereading struct {
	read  func() (settings, error)
	level *slog.LevelVar
	now   chan struct{} // somebody wants the file read at once

	inForce settings
	beside  [sha256.Size]byte // what the authorities had that inForce was built with
	seen    [sha256.Size]byte // what all of it had when it was looked at last
	tried   [sha256.Size]byte // what it had when it was read last
	when    time.Time         // of that

	mu  sync.Mutex
	err error // why the file is not in force
}

func newRereading(s settings, level *slog.LevelVar, read func() (settings, error)) *rereading {
	r := &rereading{read: read, level: level, now: make(chan struct{}, 1), inForce: s}
	r.beside = sumOf(s.authorities())
	r.seen = sumOf(r.paths())
	r.tried = r.seen
	return r
}

// files are what metrics and SIGHUP look at: none without a file.
func (r *rereading) files() []access.File {
	if r.inForce.file == "" {
		return nil
	}
	return []access.File{{Name: "settings", Err: r.problem, Reload: func() {
		select {
		case r.now <- struct{}{}:
		default: // somebody wants that already
		}
	}}}
}

func (r *rereading) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// paths are the file of settings, and what is read with it.
func (r *rereading) paths() []string { return append(r.inForce.authorities(), r.inForce.file) }

// authorities are the files that vouch for others: they are read when a house is built.
func (s settings) authorities() (paths []string) {
	if s.Registry.CA != "" {
		paths = append(paths, s.Registry.CA)
	}
	if s.Access != nil {
		for _, issuer := range s.Access.OIDC {
			if issuer.CA != "" {
				paths = append(paths, issuer.CA)
			}
		}
	}
	return paths
}

// sumOf is of what files have, or of why they cannot be read.
func sumOf(paths []string) (all [sha256.Size]byte) {
	h := sha256.New()
	for _, path := range paths {
		content, err := os.ReadFile(path)
		fmt.Fprintf(h, "%q %q %v\n", path, content, err)
	}
	h.Sum(all[:0])
	return all
}

// await returns the next house that the settings want; nil when ctx ends.
func (r *rereading) await(ctx context.Context, g *ground) *house {
	if r.inForce.file == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		at := false
		select {
		case <-ctx.Done():
			return nil
		case <-r.now:
			at = true
		case <-tick.C:
		}
		if !r.due(at) {
			continue
		}
		h, err := r.build(ctx, g)
		r.tell(g.log, err, h != nil)
		if h != nil {
			return h
		}
	}
}

// due tells whether the file wants to be read.
func (r *rereading) due(at bool) bool {
	has := sumOf(r.paths())
	settled := has == r.seen
	r.seen = has
	changed := has != r.tried && settled
	again := r.problem() != nil && settled && time.Since(r.when) >= retry
	if !at && !changed && !again {
		return false
	}
	r.tried, r.when = has, time.Now()
	return true
}

// build reads the settings and builds what they say. It returns nil where that is what there is.
func (r *rereading) build(ctx context.Context, g *ground) (*house, error) {
	s, err := r.read()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(s.file); err == nil && info.Size() == 0 {
		return nil, fmt.Errorf("%s is empty", s.file)
	}
	if len(s.Hosts) == 0 {
		s.Hosts = r.inForce.Hosts // as it listens
	}
	beside := sumOf(s.authorities())
	if reflect.DeepEqual(s, r.inForce) && beside == r.beside {
		return nil, nil
	}
	if names := s.restarts(r.inForce); len(names) > 0 {
		return nil, fmt.Errorf("%s: what changed in %s takes a restart, and with it nothing is changed\nhint: start the server again", s.file, strings.Join(names, ", "))
	}
	h, err := g.build(ctx, s)
	if err != nil {
		return nil, err
	}
	r.level.Set(s.LogLevel)
	r.inForce, r.beside = s, beside
	return h, nil
}

// tell says once what became of the file.
func (r *rereading) tell(log *slog.Logger, err error, changed bool) {
	r.mu.Lock()
	before := r.err
	r.err = err
	r.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		log.Error("settings are not put in force; those before stay", "file", r.inForce.file, "error", err)
	case err == nil && changed:
		log.Info("settings read again", "file", r.inForce.file)
	case err == nil && before != nil:
		log.Info("settings are what is in force again", "file", r.inForce.file)
	}
}

// restarts names what differs between settings that only a restart can change: what is listened on,
// and what is stored where.
func (s settings) restarts(before settings) (names []string) {
	for name, same := range map[string]bool{
		"data": s.Data == before.Data, "listen": s.Listen == before.Listen, "debugListen": s.DebugListen == before.DebugListen,
		"tls": s.TLS == before.TLS, "store": s.Store == before.Store, "limits": s.Limits == before.Limits,
		"withdrawals": s.Withdrawals == before.Withdrawals, "registry.embedded": s.Registry.Embedded == before.Registry.Embedded,
	} {
		if !same {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// live has a house do what it does by itself, and puts the next one in its place when the settings
// change. Requests that the one before has begun to answer it ends.
func (g *ground) live(ctx context.Context, again *rereading) {
	for ctx.Err() == nil {
		h := g.current.Load()
		working, stop := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() { h.signing.Run(working) })
		work.Go(func() { h.calendar.Watch(working) })
		work.Go(func() { h.server.CountRefusals(working) })
		next := again.await(ctx, g)
		if next != nil {
			g.current.Store(next)
			h.leave()
		}
		stop()
		work.Wait()
		if next != nil {
			h.server.LastRefusals(context.WithoutCancel(ctx))
		}
	}
}
