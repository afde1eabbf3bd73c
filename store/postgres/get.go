package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// imageQuery reads images in one snapshot: a row for each signature and withdrawal, or for an image that
// has neither. Of one that is in the state that the caller knows already it returns nothing more.
const imageQuery = `
WITH asked AS (
	SELECT a.n, i.ctid, i.host, i.repository, i.digest, i.number, i.version, i.serial, i.state, i.state <> a.state AS changed
	FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS a (host, repository, digest, state, n)
	CROSS JOIN LATERAL (SELECT i.ctid, i.* FROM images i
		WHERE (i.host, i.repository, i.digest) = (a.host, a.repository, a.digest) LIMIT 1) i)
SELECT i.n, i.ctid, i.version, i.serial, i.state, NULL::json, s.serial, s.name, s.identity, s.fingerprint, s.user_id,
	s.reference, s.own, s.origin, s.uploader, s.signed, s.added, s.content
FROM asked i LEFT JOIN LATERAL (SELECT * FROM signatures s WHERE i.changed AND s.image = i.number ORDER BY s.serial OFFSET 0) s ON true
UNION ALL
SELECT i.n, i.ctid, i.version, i.serial, i.state, row_to_json(w), NULL, NULL, NULL, NULL, NULL,
	NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM asked i CROSS JOIN LATERAL (SELECT * FROM withdrawals w
	WHERE i.changed AND (w.host, w.repository, w.digest) = (i.host, i.repository, i.digest) OFFSET 0) w`

// An asked is what imageQuery is asked: images, and what is known of each.
type asked struct {
	images []api.Image
	known  []*imageRow
}

func (s *Store) ask(images ...api.Image) asked {
	a := asked{images: images}
	for _, i := range images {
		known, ok := s.known.get(i)
		if !ok {
			known = &imageRow{image: i}
		}
		a.known = append(a.known, known)
	}
	return a
}

func (a asked) arguments() []any {
	columns := make([][]string, 4)
	for n, i := range a.images {
		for c, value := range []string{i.Host, i.Repository, string(i.Digest), a.known[n].state} {
			columns[c] = append(columns[c], value)
		}
	}
	return []any{columns[0], columns[1], columns[2], columns[3]}
}

// rows reads the answer: a row for each image that was asked for.
func (a asked) rows(rows pgx.Rows) ([]*imageRow, error) {
	defer rows.Close()
	found := make([]*imageRow, len(a.images))
	for n, i := range a.images {
		found[n] = &imageRow{image: i}
	}
	for rows.Next() {
		var n, version, serial int64
		var at pgtype.TID
		var state string
		var withdrawn []byte
		var s signatureRow
		columns := []any{&n, &at, &version, &serial, &state, &withdrawn, &s.Serial, &s.Name, &s.Identity, &s.Fingerprint, &s.UserID,
			&s.Reference, &s.Own, &s.Origin, &s.Uploader, &s.Signed, &s.Added, &s.Content}
		signed := rows.RawValues()[6] != nil
		if !signed {
			clear(columns[6:]) // nothing is read into nil
		}
		if err := rows.Scan(columns...); err != nil {
			return nil, err
		}
		n--
		if a.known[n].state == state {
			found[n] = a.known[n]
		}
		row := found[n]
		row.isAt(at)
		if row == a.known[n] {
			continue
		}
		row.version, row.serial, row.state = version, serial, state
		if signed {
			s.Signed, s.Added = s.Signed.UTC(), s.Added.UTC()
			row.signatures = append(row.signatures, s)
		}
		if withdrawn != nil {
			if err := row.addWithdrawal(withdrawn); err != nil {
				return nil, err
			}
		}
	}
	for n, row := range found {
		if row != a.known[n] {
			row.settle()
		}
	}
	return found, rows.Err()
}

// Get implements store.Store. What is known of an image is used again only if a query that starts after
// Get was called says that it is as it was. Those that come together share queries.
func (s *Store) Get(ctx context.Context, image api.Image) (store.Set, error) {
	if ctx.Err() != nil {
		return store.Set{}, unavailable(ctx.Err())
	}
	if !storable(image) {
		return store.Set{}, nil
	}
	row, known := s.known.get(image)
	var err error
	if known {
		known, err = s.states.wait(ctx, row)
	}
	if err == nil && !known {
		row, err = s.content.wait(ctx, image)
	}
	if err != nil && errors.Is(ctx.Err(), context.Canceled) { // who has gone has found out nothing of the database
		return store.Set{}, unavailable(ctx.Err())
	}
	if err != nil {
		return s.stale(image, err)
	}
	for _, name := range row.damages {
		s.o.Damaged(image, name, errDamaged)
	}
	return row.set(), nil
}

var errDamaged = fmt.Errorf("what is stored does not read: its content is not that of its name")

// maxSetBack is by how much a clock may have been set back, as it is kept right: by more, and it knows no age.
const maxSetBack = time.Minute

// stale answers what was current not too long ago, where the database cannot say.
func (s *Store) stale(image api.Image, cause error) (store.Set, error) {
	row, ok := s.known.get(image)
	if !ok {
		return store.Set{}, cause
	}
	current := row.currentAt()
	if age := s.o.Clock().Sub(current); s.o.Stale <= 0 || age < -maxSetBack || age >= s.o.Stale {
		return store.Set{}, cause
	}
	set := row.set()
	set.AsOf = current
	return set, nil
}

// readContent asks the database what images have.
func (s *Store) readContent(images []api.Image) (found []*imageRow, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	began := s.o.Clock()
	a := s.ask(images...)
	err = s.again(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		began = s.o.Clock()
		rows, err := conn.Query(ctx, contentStatement.on(conn.Conn()), a.arguments()...)
		if err == nil {
			found, err = a.rows(rows)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	now := s.o.Clock()
	for n, row := range found {
		row.currentSince(began, now)
		s.known.put(row, row != a.known[n])
	}
	return found, nil
}
