package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// imageQuery reads images in one snapshot. Of one that is in the state that the caller knows already
// it returns nothing more.
const imageQuery = `
SELECT a.n, i.version, i.serial, i.state,
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

// stateQuery says of images in one snapshot only in which state they are, for half of what imageQuery
// costs: nothing is prepared, so most of that is to plan it.
const stateQuery = `
SELECT a.n, i.state FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS a (host, repository, digest, n)
JOIN images i ON (i.host, i.repository, i.digest) = (a.host, a.repository, a.digest)`

// An asked is what imageQuery is asked: images, and what is known of each.
type asked struct {
	images []api.Image
	known  []*imageRow
	news   bool // of some nothing is known
}

func (s *Store) ask(images ...api.Image) asked {
	a := asked{images: images}
	for _, i := range images {
		known, ok := s.known.get(i)
		if !ok {
			known, a.news = &imageRow{image: i}, true
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

// read returns a row for each image that was asked for. Of those that are known already it asks for no
// more than their states, and then for those that have changed.
func (a asked) read(ctx context.Context, conn *pgxpool.Conn) ([]*imageRow, error) {
	found := slices.Clone(a.known)
	changed := make([]int, 0, len(found))
	if a.news {
		for n := range found {
			changed = append(changed, n)
		}
	} else {
		states, err := a.states(ctx, conn)
		if err != nil {
			return nil, err
		}
		for n, state := range states {
			if state != a.known[n].state {
				changed = append(changed, n)
			}
		}
	}
	if len(changed) == 0 {
		return found, nil
	}
	var again asked
	for _, n := range changed {
		again.images, again.known = append(again.images, a.images[n]), append(again.known, a.known[n])
	}
	rows, err := conn.Query(ctx, imageQuery, again.arguments()...)
	if err != nil {
		return nil, err
	}
	news, err := again.rows(rows)
	if err != nil {
		return nil, err
	}
	for at, n := range changed {
		found[n] = news[at]
	}
	return found, nil
}

// states are empty where there is no such image.
func (a asked) states(ctx context.Context, conn *pgxpool.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, stateQuery, a.arguments()[:3]...)
	if err != nil {
		return nil, err
	}
	states := make([]string, len(a.images))
	var n int64
	var state string
	_, err = pgx.ForEachRow(rows, []any{&n, &state}, func() error {
		states[n-1] = state
		return nil
	})
	return states, err
}

// rows reads the answer: a row for each image that was asked for.
func (a asked) rows(rows pgx.Rows) ([]*imageRow, error) {
	found := make([]*imageRow, len(a.images))
	for n, i := range a.images {
		found[n] = &imageRow{image: i}
	}
	var n, version, serial int64
	var state string
	var signatures, withdrawn []byte
	_, err := pgx.ForEachRow(rows, []any{&n, &version, &serial, &state, &signatures, &withdrawn}, func() (err error) {
		if n--; a.known[n].state == state {
			found[n] = a.known[n]
			return nil
		}
		found[n], err = newImageRow(a.images[n], version, serial, state, signatures, withdrawn)
		return err
	})
	return found, err
}

// Get implements store.Store. Those that come together share a query, which starts after the last of
// them came; what is known of an image is used again only if that query says that it is as it was.
func (s *Store) Get(ctx context.Context, image api.Image) (store.Set, error) {
	if ctx.Err() != nil {
		return store.Set{}, unavailable(ctx.Err())
	}
	if image.String() != text(image.String()) {
		return store.Set{}, nil
	}
	f := s.reads.join(image)
	select {
	case <-f.done:
	case <-ctx.Done():
		return s.stale(image, unavailable(ctx.Err()))
	}
	if f.err != nil {
		return s.stale(image, f.err)
	}
	row := f.found[image]
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

// read asks the database about images that several callers wait for.
func (s *Store) read(images []api.Image) (map[api.Image]*imageRow, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	var found []*imageRow
	began := s.o.Clock()
	a := s.ask(images...)
	err := s.again(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		began = s.o.Clock()
		found, err = a.read(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	all := make(map[api.Image]*imageRow, len(found))
	for n, row := range found {
		row.currentSince(began)
		all[images[n]] = row
		s.known.put(row, row != a.known[n])
	}
	return all, nil
}
