package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/store"
)

// The trail is ordered by the transaction that a record came with, and its place in it. A record is
// shown only when every transaction with a lower number has ended, so nothing comes before it later
// (pg_snapshot_xmin: all below have ended). Numbers are given in the order that changes of one image
// were made in, since each gets its own when it has its images' locks, and one that began after
// another had ended has the higher one.
const trailQuery = `
SELECT r.xid < pg_snapshot_xmin(pg_current_snapshot()), r.xid::text, r.id, r.time, r.action, r.subject, r.address,
	r.host, r.repository, r.digest, r.names, r.fingerprint, r.reference, r.reason
FROM records r WHERE (r.xid, r.id) > ($1::text::xid8, $2) ORDER BY r.xid, r.id LIMIT $3`

// A trailPlace is that of a record; the zero place is before the first.
type trailPlace struct {
	xid uint64
	id  int64
}

func (p trailPlace) before(o trailPlace) bool { return p.xid < o.xid || p.xid == o.xid && p.id < o.id }

func (p trailPlace) cursor() store.Cursor {
	return encode(position{kind: inTrail, serial: p.id, key: strconv.FormatUint(p.xid, 10)})
}

func parseTrailPlace(c store.Cursor) (p trailPlace, err error) {
	at, err := decode(inTrail, c)
	if err != nil || c == "" {
		return p, err
	}
	p.id = at.serial
	if p.xid, err = strconv.ParseUint(at.key, 10, 63); err != nil || p.id < 0 {
		return p, errCursor("begin without one")
	}
	return p, nil
}

// Records implements store.Store.
func (s *Store) Records(ctx context.Context, after store.Cursor, limit int) ([]store.Record, store.Cursor, error) {
	at, err := parseTrailPlace(after)
	if err != nil {
		return nil, "", err
	}
	if ctx.Err() != nil {
		return nil, "", unavailable(ctx.Err())
	}
	limit = clamp(limit)
	late := time.NewTimer(s.o.TrailPatience)
	defer late.Stop()
	var until trailPlace // what was there when we were asked
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		p, err := s.trail(ctx, at, limit)
		if err != nil {
			return nil, "", err
		}
		if until == (trailPlace{}) {
			until = p.last
		}
		if p.held == (trailPlace{}) || until.before(p.held) || len(p.records) == limit {
			return p.records, p.at.cursor(), nil
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-late.C:
			if len(p.records) == 0 {
				return nil, p.at.cursor(), fmt.Errorf("%w\nhint: they are in pg_stat_activity, where backend_xid is not null, and in pg_prepared_xacts", store.ErrHeld)
			}
			return p.records, p.at.cursor(), nil
		case <-ctx.Done():
			return nil, "", unavailable(ctx.Err())
		}
	}
}

// A trailPage is what a query saw.
type trailPage struct {
	records []store.Record
	at      trailPlace // of the last of records
	held    trailPlace // of the first that is not shown yet; zero: none
	last    trailPlace // of the last that is there
}

func (s *Store) trail(ctx context.Context, at trailPlace, limit int) (p trailPage, err error) {
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
		p = trailPage{at: at, last: at}
		var b pgx.Batch
		xid := strconv.FormatUint(at.xid, 10)
		b.Queue(`SELECT $2::bigint = 0 OR EXISTS (SELECT FROM records WHERE (xid, id) = ($1::text::xid8, $2))`, xid, at.id)
		b.Queue(trailQuery, xid, at.id, limit)
		r := conn.SendBatch(ctx, &b)
		return errors.Join(p.read(r), r.Close())
	})
	return p, err
}

func (p *trailPage) read(r pgx.BatchResults) error {
	var there bool
	if err := r.QueryRow().Scan(&there); err != nil {
		return err
	}
	if !there {
		return errDecided{errCursor("the trail has no such place, as after a backup was restored: begin without one")}
	}
	rows, err := r.Query()
	if err != nil {
		return err
	}
	var settled bool
	var place trailPlace
	var host, repository, digest, xid string
	var n store.Record
	_, err = pgx.ForEachRow(rows, []any{&settled, &xid, &place.id, &n.Time, &n.Action, &n.Subject, &n.Address,
		&host, &repository, &digest, &n.Names, &n.Fingerprint, &n.Reference, &n.Reason}, func() (err error) {
		if place.xid, err = strconv.ParseUint(xid, 10, 64); err != nil {
			return err
		}
		p.last = place
		switch {
		case settled:
			n.Image, n.Time = imageOf(host, repository, digest), n.Time.UTC()
			p.records, p.at = append(p.records, n), place
		case p.held == (trailPlace{}):
			p.held = place
		}
		n.Names = nil // the next one's are its own
		return nil
	})
	return err
}

func errCursor(hint string) error { return fmt.Errorf("%w: %s", store.ErrCursor, hint) }

func clamp(limit int) int { return min(max(limit, 1), 1000) }
