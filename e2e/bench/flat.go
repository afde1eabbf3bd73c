package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// A flatness compares a small store with a large one.
type flatness struct {
	*bench
	kind    string
	large   int
	hot     int // signatures of 900 bytes that the server remembers
	fill    func(ctx context.Context, name string, n int) (where string, at serverAt, err error)
	bytes   func() (float64, error) // of the large one, as it was filled
	pid     int                     // of the database; 0: there is none
	largeAt serverAt
	largeIn string
}

func flatDisk(ctx context.Context, b *bench) error {
	f := &flatness{bench: b, kind: "disk", large: b.Disk, hot: 80_000}
	f.fill = func(ctx context.Context, name string, n int) (string, serverAt, error) {
		where := filepath.Join(b.dir, name, "signatures")
		return where, serverAt{name: name, flags: []string{"-sign-on", "none"}}, b.fillDisk(ctx, where, n, 1)
	}
	f.bytes = func() (float64, error) {
		info, err := os.Stat(filepath.Join(f.largeIn, "signatures.db"))
		if err != nil {
			return 0, err
		}
		return float64(info.Size()), nil
	}
	return f.measure(ctx)
}

func flatDatabase(ctx context.Context, b *bench) error {
	c, pid, err := b.cluster("shared_buffers=2GB", "wal_level=minimal", "max_wal_senders=0", "max_wal_size=8GB")
	if err != nil {
		return err
	}
	defer c.Stop()
	f := &flatness{bench: b, kind: "database", large: b.Database, hot: 30_000, pid: pid}
	f.fill = func(ctx context.Context, name string, n int) (string, serverAt, error) {
		d, err := b.newDatabase(ctx, c, pid)
		if err != nil {
			return "", serverAt{}, err
		}
		return d.url, serverAt{name: name, database: d, flags: []string{"-sign-on", "none"}}, b.fillDatabase(ctx, d, n, 1)
	}
	f.bytes = func() (float64, error) { return sizeOf(c, f.largeAt.database.name) }
	return f.measure(ctx)
}

func sizeOf(c *cluster.Cluster, name string) (float64, error) {
	text, err := c.Psql(name, "SELECT pg_database_size(current_database())")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(text, 64)
}

func (f *flatness) measure(ctx context.Context) (err error) {
	f.say("flat: %s of %d signatures", f.kind, f.large)
	if f.largeIn, f.largeAt, err = f.fill(ctx, "flat-"+f.kind, f.large); err != nil {
		return err
	}
	size, err := f.bytes()
	if err != nil {
		return err
	}
	f.report.figure("flat", f.kind+": a signature of 900 bytes, all that is kept of it", "bytes", []float64{size / float64(f.large)})
	if err := f.appends(ctx); err != nil {
		return err
	}
	return f.gets(ctx)
}

// appends are made by the stores alone, each round on a small one that is new.
func (f *flatness) appends(ctx context.Context) error {
	var few, many, fewCPU, manyCPU []float64
	for round := range f.Rounds {
		f.say("flat: %s, appends, round %d of %d", f.kind, round+1, f.Rounds)
		small, at, err := f.fill(ctx, fmt.Sprintf("flat-%s-small-%d", f.kind, round), f.Small)
		if err != nil {
			return err
		}
		for _, m := range []struct {
			where    string
			from     int
			into, of *[]float64
		}{{small, f.Small, &few, &fewCPU}, {f.largeIn, f.large + round*(warming+growing)*f.Uploads, &many, &manyCPU}} {
			t, err := f.as(ctx, serving, "grow", m.where, strconv.Itoa(m.from), strconv.Itoa(f.Uploads), strconv.Itoa(f.pid))
			if err != nil {
				return err
			}
			*m.into = append(*m.into, float64(t.Count)/t.Seconds[0])
			*m.of = append(*m.of, t.CPU/float64(t.Count)*1e6)
		}
		if at.database != nil {
			err = at.database.cluster.Drop(at.database.name)
		}
		if err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s: appends at %d signatures, of those at %d", f.kind, f.large, f.Small)
	f.report.atLeast(1/1.2, name, ratios(many, few))
	f.report.atMost(1.2, "", name+", in CPU", ratios(manyCPU, fewCPU))
	f.report.figure("flat", fmt.Sprintf("%s: appends at %d", f.kind, f.Small), "a second", few)
	f.report.figure("flat", fmt.Sprintf("%s: appends at %d", f.kind, f.large), "a second", many)
	f.report.figure("flat", fmt.Sprintf("%s: an append at %d", f.kind, f.Small), "µs of CPU", fewCPU)
	f.report.figure("flat", fmt.Sprintf("%s: an append at %d", f.kind, f.large), "µs of CPU", manyCPU)
	return nil
}

// gets are hits on as many signatures as there are, at random, or on as many of them as the server
// remembers; and on others, which it has to look up.
func (f *flatness) gets(ctx context.Context) error {
	_, at, err := f.fill(ctx, "flat-"+f.kind+"-small", f.Small)
	if err != nil {
		return err
	}
	small, err := f.server(ctx, at)
	if err != nil {
		return err
	}
	defer small.stop()
	large, err := f.starts(ctx)
	if err != nil {
		return err
	}
	defer large.stop()
	paths, err := f.samples()
	if err != nil {
		return err
	}
	for i, c := range []*contestant{small, large} {
		if err := visitAll(ctx, c.address, paths[i]); err != nil {
			return err
		}
	}
	few, many, err := f.beside(ctx, "reads", [2]*contestant{small, large}, [2]string{paths[0], paths[1]})
	if err != nil {
		return err
	}
	fewAgain, cold, err := f.beside(ctx, "reads of others", [2]*contestant{small, large}, [2]string{paths[0], paths[2]})
	if err != nil {
		return err
	}
	memory, err := anonymous(large.pid())
	if err != nil {
		return err
	}
	f.report.atLeast(1/1.2, fmt.Sprintf("%s: GET at %d signatures, of that at %d", f.kind, f.large, f.Small), ratios(many, few))
	f.report.atLeast(1/1.2, fmt.Sprintf("%s: GET at %d signatures of what nobody has asked for lately, of that at %d", f.kind, f.large, f.Small), ratios(cold, fewAgain))
	f.report.atMost(256, "MiB", f.kind+": anonymous memory of the server, large", []float64{memory / (1 << 20)})
	f.report.figure("flat", fmt.Sprintf("%s: GETs at %d", f.kind, f.Small), "a second", few)
	f.report.figure("flat", fmt.Sprintf("%s: GETs at %d", f.kind, f.large), "a second", many)
	f.report.figure("flat", fmt.Sprintf("%s: GETs at %d of what nobody has asked for lately", f.kind, f.large), "a second", cold)
	return nil
}

// beside returns the rates of two, in turn. No other reads come between: what a server looks up
// takes the place of what it remembers.
func (f *flatness) beside(ctx context.Context, what string, two [2]*contestant, paths [2]string) (first, second []float64, err error) {
	for round := range f.Rounds {
		f.say("flat: %s, %s, round %d of %d", f.kind, what, round+1, f.Rounds)
		for i, into := range []*[]float64{&first, &second} {
			l, err := f.wrk(ctx, loading, two[i].address, paths[i], connections, 0, two[i].pids()...)
			if err != nil {
				return nil, nil, err
			}
			*into = append(*into, l.rate())
		}
	}
	return first, second, nil
}

// starts starts the server on the large store, and again, and says how long that took but for the first time.
func (f *flatness) starts(ctx context.Context) (s *contestant, err error) {
	var took []float64
	for n := range f.Rounds + 1 {
		if s != nil {
			s.stop()
		}
		began := time.Now()
		if s, err = f.server(ctx, f.largeAt); err != nil {
			return nil, err
		}
		if err := f.ready(ctx, s); err != nil {
			s.stop()
			return nil, err
		}
		if n > 0 {
			took = append(took, time.Since(began).Seconds())
		}
	}
	f.report.atMost(1, "s", f.kind+": from a second start to ready, large", took)
	return s, nil
}

// ready waits until the server says that it can serve reads.
func (f *flatness) ready(ctx context.Context, s *contestant) error {
	found, err := s.await(ctx, listening)
	if err != nil {
		return err
	}
	c := client(1)
	return poll(ctx, func() (bool, error) {
		status, err := send(ctx, c, http.MethodGet, "http://"+found[2]+"/readyz", nil)
		return err == nil && status == http.StatusOK, nil
	})
}

// samples are files of paths: of the small store, of a part of the large one, and of more of it than
// fits.
func (f *flatness) samples() (files [3]string, err error) {
	for i, all := range []struct{ of, n int }{{f.Small, f.hot}, {f.large, f.hot}, {f.large, 400_000}} {
		files[i] = filepath.Join(f.dir, fmt.Sprintf("flat-%s-%d.paths", f.kind, i))
		random := rand.New(rand.NewPCG(uint64(i), 2))
		err = errors.Join(err, writeLines(files[i], min(all.of, all.n), func(w io.Writer, _ int) { fmt.Fprintln(w, lookasidePath(random.IntN(all.of), 1)) }))
	}
	return files, err
}

// How many times as many appends as uploads are made to warm up, and then measured.
const (
	warming = 2
	growing = 4
)

// performGrow appends signatures of images that are new. What that costs the database's processes counts, too. Those of
// a connection that is new have none of the pages in their own tables, and in a large database touch thirty a piece in their
// first thousand appends.
func performGrow(ctx context.Context, args []string) (tally, error) {
	from, err := strconv.Atoi(args[1])
	if err != nil {
		return tally{}, err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return tally{}, err
	}
	database, err := strconv.Atoi(args[3])
	if err != nil {
		return tally{}, err
	}
	changes := make([]store.Change, (warming+growing)*n)
	for i := range changes {
		changes[i] = changeOf(from+i, 1)
	}
	to, closes, err := openStore(ctx, args[0], database != 0)
	if err != nil {
		return tally{}, err
	}
	var t tally
	if err = visitSome(ctx, to, from); err == nil {
		t, err = appendWarm(ctx, to, database, changes[:warming*n], changes[warming*n:])
	}
	return t, errors.Join(err, closes())
}

// appendWarm makes changes, and then those that are measured, with what they cost the database's processes; 0: there is none.
func appendWarm(ctx context.Context, to store.Store, database int, first, changes []store.Change) (t tally, err error) {
	if _, err := appendAll(ctx, to, first); err != nil {
		return t, err
	}
	var pids []int
	if database != 0 {
		pids = []int{database}
	}
	used, err := spent(pids, func() (err error) {
		t, err = appendAll(ctx, to, changes)
		return err
	})
	t.CPU += used
	return t, err
}

// visitSome reads images all over a store of n: a process that has just started has none of the file's
// pages in its own tables, and one that has run for a while has.
func visitSome(ctx context.Context, to store.Store, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploaders)
	random := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		i := imageOf(random.IntN(n))
		group.Go(func() error {
			_, err := to.Get(ctx, i)
			return err
		})
	}
	return group.Wait()
}

// appendAll makes changes, as many at a time as there are uploaders, and says how long that took.
func appendAll(ctx context.Context, to store.Store, changes []store.Change) (tally, error) {
	return measured(func(t *tally) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(uploaders)
		began := time.Now()
		for _, c := range changes {
			group.Go(func() error {
				_, err := to.Do(ctx, c)
				return err
			})
		}
		err := group.Wait()
		t.Count, t.Seconds = len(changes), []float64{time.Since(began).Seconds()}
		return err
	})
}
