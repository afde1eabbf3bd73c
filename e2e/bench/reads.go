package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
)

// connections that readers have open, as many as pgbench has clients.
const connections = 32

// A series is what one contestant did, round after round.
type series struct{ rate, p50, p99, cpu []float64 }

func (s *series) add(l load) {
	s.rate = append(s.rate, l.rate())
	s.p50, s.p99 = append(s.p50, l.P50/1e3), append(s.p99, l.P99/1e3)
	s.cpu = append(s.cpu, l.CPU/l.Requests*1e6)
}

func (b *bench) reportSeries(part, name string, s *series) {
	b.report.figure(part, name, "a second", s.rate)
	b.report.figure(part, name+", p50", "ms", s.p50)
	b.report.figure(part, name+", p99", "ms", s.p99)
	b.report.figure(part, name+", a request", "µs of CPU", s.cpu)
}

// reads measures the lookaside, half hits and half misses, beside nginx, a handler over a map and
// pgbench.
func reads(ctx context.Context, b *bench) error {
	paths, tree := filepath.Join(b.dir, "reads.paths"), filepath.Join(b.dir, "tree")
	b.say("reads: a tree of %d signatures", b.Signatures)
	if err := errors.Join(hitsAndMisses(paths, b.Signatures), fillTree(tree, b.Signatures)); err != nil {
		return err
	}
	n, err := b.nginx(ctx, tree)
	if err != nil {
		return err
	}
	defer n.stop()
	alone := &series{}
	for range min(3, b.Rounds) {
		l, err := b.wrk(ctx, loading, n.address, paths, connections, .5, n.pids()...)
		if err != nil {
			return err
		}
		alone.add(l)
	}
	h, err := b.handler(ctx, b.Signatures)
	if err != nil {
		return err
	}
	defer h.stop()
	d, p, stop, err := b.bothStores(ctx, "reads", b.Signatures, 1)
	if err != nil {
		return err
	}
	defer stop()
	if err := p.database.initPgbench(ctx); err != nil {
		return err
	}
	for _, c := range []*contestant{d, p} { // what the others serve is in memory already
		if err := visitAll(ctx, c.address, paths); err != nil {
			return err
		}
	}
	all := []*contestant{n, h, d, p}
	found := make([]*series, len(all))
	var transactions []float64
	for round := range b.Rounds {
		b.say("reads: round %d of %d", round+1, b.Rounds)
		for i := range all {
			i = (i + round) % len(all) // nobody is always the first
			l, err := b.wrk(ctx, loading, all[i].address, paths, connections, .5, all[i].pids()...)
			if err != nil {
				return err
			}
			if found[i] == nil {
				found[i] = &series{}
			}
			found[i].add(l)
		}
		rate, err := b.pgbench(ctx, p.database)
		if err != nil {
			return err
		}
		transactions = append(transactions, rate)
	}
	b.reportReads(found, alone, transactions)
	return nil
}

// visitAll asks for each line of a file once: as many random ones would leave a third of them out.
func visitAll(ctx context.Context, address, file string) error {
	paths, err := readLines(file)
	if err != nil {
		return err
	}
	asks := client(connections)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(connections)
	for _, path := range paths {
		group.Go(func() error {
			_, err := send(ctx, asks, http.MethodGet, "http://"+address+path, nil)
			return err
		})
	}
	return group.Wait()
}

func (b *bench) reportReads(found []*series, alone *series, transactions []float64) {
	nginx, handler, disk, database := found[0], found[1], found[2], found[3]
	r := b.report
	r.atLeast(1, "lookaside GET, disk, of nginx", ratios(disk.rate, nginx.rate))
	r.atLeast(.9, "lookaside GET, disk, of a handler over a map", ratios(disk.rate, handler.rate))
	r.atMost(1.5, "", "its p99, of that handler's", ratios(disk.p99, handler.p99))
	r.atLeast(.7, "lookaside GET, database, of the slower of the handler and pgbench",
		each(func(v ...float64) float64 { return v[0] / min(v[1], v[2]) }, database.rate, handler.rate, transactions))
	r.atLeast(.9, "nginx among the others, of nginx alone", each(func(v ...float64) float64 { return v[0] / median(alone.rate) }, nginx.rate))
	for i, name := range []string{"nginx", "a handler over a map", "lookaside, disk", "lookaside, database"} {
		b.reportSeries("reads", name, found[i])
	}
	r.figure("reads", "nginx alone", "a second", alone.rate)
	r.figure("reads", "pgbench -S -M prepared", "a second", transactions)
}

// bothStores starts servers over the same signatures, on disk and in a database.
func (b *bench) bothStores(ctx context.Context, name string, n, signatures int) (onDisk, inDatabase *contestant, stop func(), err error) {
	b.say("%s: stores of %d images", name, n)
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if err := b.fillDisk(ctx, filepath.Join(b.dir, name+"-disk", "signatures"), n, signatures); err != nil {
		return nil, nil, stop, err
	}
	// As much as it takes to remember all, as a file server's are in the page cache.
	at := serverAt{name: name + "-disk", flags: []string{"-sign-on", "none"}, settings: "store: {memory: 256}\n"}
	if onDisk, err = b.server(ctx, at); err != nil {
		return nil, nil, stop, err
	}
	stops = append(stops, onDisk.stop)
	c, pid, err := b.cluster("shared_buffers=256MB")
	if err != nil {
		return nil, nil, stop, err
	}
	stops = append(stops, func() { _ = c.Stop() }) // it is thrown away
	if at.database, err = b.newDatabase(ctx, c, pid); err != nil {
		return nil, nil, stop, err
	}
	if err := b.fillDatabase(ctx, at.database, n, signatures); err != nil {
		return nil, nil, stop, err
	}
	at.name = name + "-database"
	if inDatabase, err = b.server(ctx, at); err != nil {
		return nil, nil, stop, err
	}
	stops = append([]func(){inDatabase.stop}, stops...)
	return onDisk, inDatabase, stop, nil
}

func (d *database) initPgbench(ctx context.Context) error {
	_, err := output(ctx, -1, "pgbench", "-i", "-q", "-s", "1", "-h", d.cluster.Socket(), "-U", "postgres", d.name)
	return err
}

var transactions = regexp.MustCompile(`tps = ([0-9.]+)`)

// pgbench reads rows by their key, as fast as PostgreSQL can answer.
func (b *bench) pgbench(ctx context.Context, d *database) (float64, error) {
	until := []string{"-T", strconv.Itoa(int(b.For.Seconds()))}
	if b.For <= time.Second {
		until = []string{"-t", "100"} // of each client: in a second a busy machine may come to none
	}
	text, err := output(ctx, loading, "pgbench", append(until, "-n", "-S", "-M", "prepared", "-c", strconv.Itoa(connections), "-j", "1",
		"-h", d.cluster.Socket(), "-U", "postgres", d.name)...)
	if err != nil {
		return 0, err
	}
	found := transactions.FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("pgbench said: %s", text)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// lists measures the extension's list of three signatures beside a manifest GET of distribution.
func lists(ctx context.Context, b *bench) error {
	const signatures, manifests = 3, 100
	n := max(1, b.Signatures/10)
	paths := filepath.Join(b.dir, "lists.paths")
	if err := writeLines(paths, n, func(w io.Writer, i int) { fmt.Fprintln(w, api.ExtensionPath(imageOf(i))) }); err != nil {
		return err
	}
	d, p, stop, err := b.bothStores(ctx, "lists", n, signatures)
	if err != nil {
		return err
	}
	defer stop()
	for _, c := range []*contestant{d, p} {
		if err := visitAll(ctx, c.address, paths); err != nil {
			return err
		}
	}
	r, err := b.registry(ctx, serving)
	if err != nil {
		return err
	}
	defer r.stop()
	names, err := pushMany(ctx, r.address, manifests)
	if err != nil {
		return err
	}
	there := filepath.Join(b.dir, "manifests.paths")
	if err := writeLines(there, len(names), func(w io.Writer, i int) { fmt.Fprintln(w, names[i]) }); err != nil {
		return err
	}
	var onDisk, inDatabase, manifest series
	for round := range b.Rounds {
		b.say("lists: round %d of %d", round+1, b.Rounds)
		for _, m := range []struct {
			of    *contestant
			paths string
			into  *series
		}{{d, paths, &onDisk}, {p, paths, &inDatabase}, {r, there, &manifest}} {
			l, err := b.wrk(ctx, loading, m.of.address, m.paths, connections, 0, m.of.pids()...)
			if err != nil {
				return err
			}
			m.into.add(l)
		}
	}
	b.report.atLeast(5, "extension GET of three signatures, disk, of distribution's manifest GET", ratios(onDisk.rate, manifest.rate))
	b.report.atLeast(5, "extension GET of three signatures, database, of distribution's manifest GET", ratios(inDatabase.rate, manifest.rate))
	b.reportSeries("lists", "extension, disk", &onDisk)
	b.reportSeries("lists", "extension, database", &inDatabase)
	b.reportSeries("lists", "distribution's manifest", &manifest)
	return nil
}
