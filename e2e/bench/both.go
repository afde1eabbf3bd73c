package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// readRate is how many nodes ask in a second: as many as leave a core mostly idle, or what is measured
// is who waits for it.
const readRate = 1000

// both measures how long reads take, at a steady rate, while nobody uploads and while uploads keep a
// core busy. The server and its database may use both cores: it is their own to share them. Readers have one of them,
// uploaders the other.
func both(ctx context.Context, b *bench) error {
	made, err := b.sign(ctx, signature.RSA3072, 0, 4*b.Uploads)
	if err != nil {
		return err
	}
	for _, kind := range []string{"disk", "database"} {
		if err := b.bothOn(ctx, kind, made); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func (b *bench) bothOn(ctx context.Context, kind string, made batch) error {
	n := max(1, b.Signatures/10)
	paths := filepath.Join(b.dir, "both.paths")
	if err := writeLines(paths, n, func(w io.Writer, i int) { fmt.Fprintln(w, lookasidePath(i, 1)) }); err != nil {
		return err
	}
	var quiet, busy, uploads []float64
	for round := range b.Rounds {
		b.say("both: %s, round %d of %d", kind, round+1, b.Rounds)
		q, u, rate, err := b.bothRound(ctx, fmt.Sprintf("both-%s-%d", kind, round), kind == "database", n, paths, made)
		if err != nil {
			return err
		}
		quiet, busy, uploads = append(quiet, q*1e3), append(busy, u*1e3), append(uploads, rate)
	}
	b.report.atMost(1.5, "", kind+": p99 of reads while others upload, of that while nobody does", ratios(busy, quiet))
	b.report.figure("both", kind+": p99 of reads while nobody uploads", "ms", quiet)
	b.report.figure("both", kind+": p99 of reads while others upload", "ms", busy)
	b.report.figure("both", kind+": uploads meanwhile", "a second", uploads)
	return nil
}

// bothRound starts with a store of its own: what is uploaded is new.
func (b *bench) bothRound(ctx context.Context, name string, remote bool, n int, paths string, made batch) (quiet, busy, rate float64, err error) {
	at := serverAt{name: name, core: -1, trusted: made.public, flags: []string{"-sign-on", "none"}}
	if remote {
		c, err := cluster.Start() // on both cores, too
		if err != nil {
			return 0, 0, 0, err
		}
		defer c.Stop()
		pid, err := postmaster(c)
		if err != nil {
			return 0, 0, 0, err
		}
		if at.database, err = b.newDatabase(ctx, c, pid); err != nil {
			return 0, 0, 0, err
		}
		err = b.fillDatabase(ctx, at.database, n, 1)
		if err != nil {
			return 0, 0, 0, err
		}
	} else if err := b.fillDisk(ctx, filepath.Join(b.dir, name, "signatures"), n, 1); err != nil {
		return 0, 0, 0, err
	}
	s, err := b.server(ctx, at)
	if err != nil {
		return 0, 0, 0, err
	}
	defer s.stop()
	unix.Sync() // what filled the store, so that it is not written while reads are timed
	read := func() (float64, error) {
		t, err := b.as(ctx, serving, "pace", s.address, paths, strconv.Itoa(readRate), b.For.String())
		return percentile(t.Seconds, .99), err
	}
	if _, err = read(); err != nil { // to warm up
		return 0, 0, 0, err
	}
	if quiet, err = read(); err != nil {
		return 0, 0, 0, err
	}
	if busy, rate, err = b.whileUploading(ctx, s, paths, made); err != nil {
		return 0, 0, 0, err
	}
	return quiet, busy, rate, nil
}

// whileUploading reads for as long as uploads go on, and says how many there were in a second.
func (b *bench) whileUploading(ctx context.Context, s *contestant, paths string, made batch) (p99, rate float64, err error) {
	during, over := context.WithCancel(ctx)
	defer over()
	type answer struct {
		tally
		err error
	}
	read := make(chan answer, 1)
	go func() {
		t, err := b.as(during, serving, "pace", s.address, paths, strconv.Itoa(readRate), patience.String())
		read <- answer{t, err}
	}()
	began := time.Now()
	uploaded, err := b.as(ctx, loading, "upload", s.address, made.file, "whole", strconv.Itoa(uploaders))
	rate = float64(uploaded.Count) / time.Since(began).Seconds()
	over()
	r := <-read
	if err == nil {
		err = r.err
	}
	if err == nil && len(r.Seconds) < readRate/10 {
		err = fmt.Errorf("the uploads were over after %d reads", len(r.Seconds))
	}
	return percentile(r.Seconds, .99), rate, err
}

func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(p*float64(len(s))))]
}
