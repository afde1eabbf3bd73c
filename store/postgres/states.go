package postgres

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Whether what is known of an image is current is asked most often, so it has to cost next to nothing.
//
// A state is drawn for one image, and anew with every change: as long as a query sees it anywhere, that
// image is in it. So nobody looks for the image by its name. The query looks where its row was seen
// last; what it finds there, if it finds something, is the same row, or another one with another state.
// Where a row is holds until somebody writes it, VACUUM FULL moves it, or a database was restored.
const stateQuery = `SELECT state FROM images WHERE ctid = ANY($1)`

// placeQuery looks for images by their names: for those that are not there, and those of which it is
// not known where they are.
const placeQuery = `
SELECT a.n, i.ctid, i.state FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[])) WITH ORDINALITY AS a (host, repository, digest, n)
CROSS JOIN LATERAL (SELECT i.ctid, i.state FROM images i
	WHERE (i.host, i.repository, i.digest) = (a.host, a.repository, a.digest) LIMIT 1) i`

// isAt notes where the row of images was.
func (r *imageRow) isAt(ctid pgtype.TID) {
	r.ctid.Store(uint64(ctid.BlockNumber)<<16 | uint64(ctid.OffsetNumber))
}

// wasAt returns where the row of images was seen last.
func (r *imageRow) wasAt() (ctid pgtype.TID, known bool) {
	at := r.ctid.Load() // offsets begin with 1
	return pgtype.TID{BlockNumber: uint32(at >> 16), OffsetNumber: uint16(at), Valid: true}, at != 0
}

// A check asks whether rows are current.
type check struct {
	rows    []*imageRow
	current []bool
	ctids   []pgtype.TID
	named   asked // those that are looked for by their names
	places  []int // of named, in rows
}

func newCheck(rows []*imageRow) *check {
	c := &check{rows: rows, current: make([]bool, len(rows))}
	for n, row := range rows {
		if ctid, ok := row.wasAt(); ok {
			c.ctids = append(c.ctids, ctid)
			continue
		}
		c.named.images, c.named.known = append(c.named.images, row.image), append(c.named.known, row)
		c.places = append(c.places, n)
	}
	return c
}

func (c *check) run(ctx context.Context, conn *pgx.Conn) error {
	if len(c.ctids) > 0 {
		// Below pgx, which would look for how to write each of them.
		if err := queryStates(ctx, conn.PgConn(), c.ctids, c.states); err != nil {
			return err
		}
	}
	if len(c.places) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, placesStatement.on(conn), c.named.arguments()[:3]...)
	if err != nil {
		return err
	}
	return c.byName(rows)
}

// arrayOf writes an array as PostgreSQL's array_recv and tidrecv read it.
func arrayOf(ctids []pgtype.TID) []byte {
	b := make([]byte, 0, 20+10*len(ctids))
	for _, n := range []int{1, 0, pgtype.TIDOID, len(ctids), 1} { // dimensions, no NULL, the type, how many, from 1
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for _, ctid := range ctids {
		b = binary.BigEndian.AppendUint32(b, 6) // bytes
		b = binary.BigEndian.AppendUint32(b, ctid.BlockNumber)
		b = binary.BigEndian.AppendUint16(b, ctid.OffsetNumber)
	}
	return b
}

// states reads which states there are.
func (c *check) states(r *pgconn.ResultReader) error {
	seen := make(map[string]bool, len(c.ctids))
	for r.NextRow() {
		seen[string(r.Values()[0])] = true
	}
	if _, err := r.Close(); err != nil {
		return err
	}
	for n, row := range c.rows {
		c.current[n] = seen[row.state]
	}
	return nil
}

// byName reads in which state images are, and where. Of one that is not there the state is empty.
func (c *check) byName(rows pgx.Rows) error {
	for _, n := range c.places {
		c.current[n] = c.rows[n].state == ""
	}
	var n int64
	var ctid pgtype.TID
	var state string
	_, err := pgx.ForEachRow(rows, []any{&n, &ctid, &state}, func() error {
		at := c.places[n-1]
		if c.current[at] = c.rows[at].state == state; c.current[at] {
			c.rows[at].isAt(ctid)
		}
		return nil
	})
	return err
}

// readStates says which rows are current.
func (s *Store) readStates(rows []*imageRow) ([]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	c := newCheck(rows)
	var began time.Time
	err := s.again(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		began = s.o.Clock()
		return c.run(ctx, conn.Conn())
	})
	if err != nil {
		return nil, err
	}
	now := s.o.Clock()
	for n, row := range rows {
		if c.current[n] {
			row.currentSince(began, now)
			s.known.put(row, false)
		}
	}
	return c.current, nil
}
