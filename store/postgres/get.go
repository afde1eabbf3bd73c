package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// imageQuery reads images in one snapshot. Of one that is in the state that the caller knows already
// it returns nothing more.
const imageQuery = `
SELECT a.n, i.ctid, i.version, i.serial, i.state,
	CASE WHEN i.state <> a.state THEN (
		SELECT json_agg(json_build_object('serial', s.serial, 'name', s.name, 'identity', s.identity, 'fingerprint', s.fingerprint,
			'userID', s.user_id, 'reference', s.reference, 'own', s.own, 'origin', s.origin, 'uploader', s.uploader,
			'signed', s.signed, 'added', s.added, 'content', encode(s.content, 'base64')) ORDER BY s.serial)
		FROM signatures s WHERE (s.host, s.repository, s.digest) = (i.host, i.repository, i.digest)) END,
	CASE WHEN i.state <> a.state THEN (
		SELECT json_agg(json_build_object('serial', w.serial, 'id', w.id, 'scope', w.scope, 'name', w.name, 'identity', w.identity,
			'key', w.key, 'reason', w.reason, 'subject', w.subject, 'time', w.time) ORDER BY w.serial)
		FROM withdrawals w WHERE (w.host, w.repository, w.digest) = (i.host, i.repository, i.digest)) END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS a (host, repository, digest, state, n)
JOIN images i ON (i.host, i.repository, i.digest) = (a.host, a.repository, a.digest)`

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
	found := make([]*imageRow, len(a.images))
	for n, i := range a.images {
		found[n] = &imageRow{image: i}
	}
	var n, version, serial int64
	var at pgtype.TID
	var state string
	var signatures, withdrawn []byte
	_, err := pgx.ForEachRow(rows, []any{&n, &at, &version, &serial, &state, &signatures, &withdrawn}, func() (err error) {
		if n--; a.known[n].state == state {
			found[n] = a.known[n]
		} else if found[n], err = newImageRow(a.images[n], version, serial, state, signatures, withdrawn); err != nil {
			return err
		}
		found[n].isAt(at)
		return nil
	})
	return found, err
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
	if err != nil {
		return s.stale(image, err)
	}
	for _, name := range row.damages {
		s.o.Damaged(image, name, errDamaged)
	}
	return row.set(), nil
}

var errDamaged = fmt.Errorf("what is stored does not read: its content is not that of its name")

// stale answers what was current not too long ago, where the database cannot say.
func (s *Store) stale(image api.Image, cause error) (store.Set, error) {
	row, ok := s.known.get(image)
	if !ok {
		return store.Set{}, cause
	}
	current := row.currentAt()
	if s.o.Clock().Sub(current) >= s.o.Stale {
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
		rows, err := conn.Query(ctx, imageQuery, a.arguments()...)
		if err == nil {
			found, err = a.rows(rows)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for n, row := range found {
		row.currentSince(began)
		s.known.put(row, row != a.known[n])
	}
	return found, nil
}
