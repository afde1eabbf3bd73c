package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// fillDatabase makes the rows that the server makes of as many uploads, by COPY: one by one they would
// take a day.
func (b *bench) fillDatabase(ctx context.Context, d *database, n, signatures int) error {
	stamp := born.Format(time.RFC3339)
	rows := func(table, columns string, write func(w io.Writer, i int)) error {
		return d.copy(ctx, table, columns, func(w io.Writer) {
			for i := range n {
				if i > 0 && i%1_000_000 == 0 {
					b.say("%s: %d of %d", table, i, n)
				}
				write(w, i)
			}
		})
	}
	err := rows("images", "host, repository, digest, version, serial, state, number", func(w io.Writer, i int) {
		m := imageOf(i)
		fmt.Fprintf(w, "%s\t%s\t%s\t1\t%d\t%026d\t%d\n", m.Host, m.Repository, m.Digest, signatures, i, i+1)
	})
	if err != nil {
		return err
	}
	err = rows("signatures", "image, host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content", func(w io.Writer, i int) {
		c := changeOf(i, signatures)
		for k, s := range c.Add {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\tf\t%s\t%s\t%s\t%s\t\\\\x%x\n", i+1, c.Image.Host, c.Image.Repository, c.Image.Digest, k+1,
				s.Name, s.Identity, s.Fingerprint, s.UserID, s.Reference, s.Origin, s.Uploader, stamp, stamp, s.Content)
		}
	})
	if err != nil {
		return err
	}
	err = rows("records", "time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason", func(w io.Writer, i int) {
		r := changeOf(i, signatures).Record
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t{%s}\t%s\t%s\t\n", stamp, r.Action, r.Subject, r.Address, r.Image.Host, r.Image.Repository, r.Image.Digest,
			strings.Join(r.Names, ","), r.Fingerprint, r.Reference)
	})
	if err != nil {
		return err
	}
	// What autovacuum does soon after.
	for _, table := range []string{"images", "signatures", "records"} {
		if _, err := d.cluster.Psql(d.name, "VACUUM (ANALYZE) "+table); err != nil {
			return err
		}
	}
	_, err = d.cluster.Psql(d.name, "CHECKPOINT")
	return err
}

// copy truncates first: what is copied in the same transaction need not be in the log, where the cluster
// keeps a minimal one.
func (d *database) copy(ctx context.Context, table, columns string, write func(w io.Writer)) error {
	c := pinned(ctx, -1, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", d.url, "--single-transaction", "-c", "TRUNCATE "+table, "-c", fmt.Sprintf("COPY %s (%s) FROM STDIN", table, columns))
	var said strings.Builder
	c.Stderr = &said
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	w := bufio.NewWriterSize(in, 1<<20)
	write(w)
	err = errors.Join(w.Flush(), in.Close())
	if ended := c.Wait(); ended != nil {
		err = fmt.Errorf("COPY %s: %w: %s", table, ended, &said)
	}
	return err
}
