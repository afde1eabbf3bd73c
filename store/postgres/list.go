package postgres

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// A position is where a listing goes on: behind this serial of this image, or behind this key.
type position struct {
	kind   byte
	serial int64
	key    string // an image's name, or its number in a listing by key, or a task's; empty: at the beginning
}

// encode writes a cursor that says what listing it is of.
func encode(p position) store.Cursor {
	raw := binary.BigEndian.AppendUint64([]byte{p.kind}, uint64(p.serial))
	return store.Cursor(base64.RawURLEncoding.EncodeToString(append(raw, p.key...)))
}

// decode reads what encode wrote; of what somebody else wrote it lets nothing pass that a database
// could stumble over.
func decode(kind byte, c store.Cursor) (position, error) {
	if c == "" {
		return position{kind: kind}, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(c))
	if err != nil || len(raw) < 9 || len(raw) > 9+maxKey || raw[0] != kind {
		return position{}, errCursor("begin without one")
	}
	p := position{kind, int64(binary.BigEndian.Uint64(raw[1:9])), string(raw[9:])}
	if p.key != text(strings.ReplaceAll(p.key, separator, "")) && kind == inTasks || p.serial < 0 {
		return position{}, errCursor("begin without one")
	}
	return p, nil
}

// separator is between the parts of an image in a cursor.
const separator = "\x00"

// behind is the position behind a row of an image.
func behind(kind byte, i api.Image, serial int64) position {
	return position{kind, serial, strings.Join([]string{i.Host, i.Repository, string(i.Digest)}, separator)}
}

// behindNumber is the position behind a signature in a listing by key.
func behindNumber(number, serial int64) position {
	return position{inKey, serial, strconv.FormatInt(number, 10)}
}

func (p position) image() (api.Image, bool) {
	parts := strings.Split(p.key, separator)
	if len(parts) != 3 {
		return api.Image{}, false
	}
	i := imageOf(parts[0], parts[1], parts[2])
	return i, storable(i)
}

// number is that of an image, in a listing by key.
func (p position) number() (int64, bool) {
	n, err := strconv.ParseInt(p.key, 10, 64)
	return n, err == nil
}

// check refuses a position that the filter does not lead to.
func (p position) check(f store.Filter) error {
	switch p.kind {
	case inTasks:
		return nil
	case inKey:
		if _, ok := p.number(); !ok {
			return errCursor("begin without one")
		}
		return nil
	}
	i, ok := p.image()
	if !ok || f.Host != "" && f.Host != i.Host || f.Host != "" && f.Repository != "" && f.Repository != i.Repository {
		return errCursor("it is of a listing with another filter: begin without one")
	}
	return nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, f store.Filter, after store.Cursor, limit int) ([]store.Entry, store.Cursor, error) {
	kind := listingOf(f)
	if kind == 0 {
		return nil, "", fmt.Errorf("%q is no kind of listing", f.Kind)
	}
	at, err := decode(kind, after)
	if err == nil && after != "" {
		err = at.check(f)
	}
	if err != nil {
		return nil, "", err
	}
	if ctx.Err() != nil {
		return nil, "", unavailable(ctx.Err())
	}
	limit = clamp(limit)
	read := rowsPage
	if kind == inSignatures {
		read = imagesPage
	}
	var rows []listed
	var end position
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
		rows, end, err = read(ctx, conn.Conn(), f, at, limit)
		return slow(err)
	})
	if err != nil {
		return nil, "", err
	}
	if len(rows) > limit {
		rows = rows[:limit]
		end = rows[limit-1].position(kind)
	}
	if end.key == "" {
		return s.intact(rows), "", nil
	}
	return s.intact(rows), encode(end), nil
}

// rowsPage returns a page of a table whose rows are in the order of the listing, or one row more, and where the next page
// begins if it has no more; nowhere: there is none.
func rowsPage(ctx context.Context, conn *pgx.Conn, f store.Filter, at position, limit int) (rows []listed, end position, err error) {
	if end, err = findEnd(ctx, conn, f, at); err != nil {
		return nil, end, err
	}
	found, err := query(ctx, conn, page(f, at, end, limit))
	if err != nil {
		return nil, end, err
	}
	rows, err = collect(at.kind, found)
	return rows, end, err
}

// findEnd returns the position that the page ends at if it is not full before; none where it ends
// with the listing. What comes or goes meanwhile is before it or behind it.
func findEnd(ctx context.Context, conn *pgx.Conn, f store.Filter, at position) (position, error) {
	if !scans(f) {
		return position{}, nil
	}
	rows, err := query(ctx, conn, lastScanned(f, at))
	if err != nil {
		return position{}, err
	}
	ends, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (position, error) {
		switch at.kind {
		case inTasks:
			p := position{kind: at.kind}
			return p, row.Scan(&p.key)
		case inKey:
			var number, serial int64
			err := row.Scan(nil, &number, &serial)
			return behindNumber(number, serial), err
		}
		var host, repository, digest string
		var serial int64
		err := row.Scan(&host, &repository, &digest, &serial)
		return behind(at.kind, imageOf(host, repository, digest), serial), err
	})
	if err != nil || len(ends) == 0 {
		return position{}, err
	}
	return ends[0], nil
}

// A listed is a row of a listing. One that is not intact only has its name.
type listed struct {
	store.Entry
	number int64 // of a signature's image
	serial int64
	intact bool
}

func (l listed) position(kind byte) position {
	switch kind {
	case inTasks:
		return position{kind: kind, key: l.Task.Key}
	case inKey:
		return behindNumber(l.number, l.serial)
	}
	return behind(kind, l.Image, l.serial)
}

// intact tells of what does not read, and leaves it out.
func (s *Store) intact(rows []listed) (page []store.Entry) {
	for _, row := range rows {
		if !row.intact {
			s.o.Damaged(row.Image, row.Signature.Name, errDamaged)
			continue
		}
		page = append(page, row.Entry)
	}
	return page
}

func collect(kind byte, rows pgx.Rows) (all []listed, err error) {
	if kind == inTasks {
		tasks, err := pgx.CollectRows(rows, scanTask)
		for n := range tasks {
			all = append(all, listed{Entry: store.Entry{Image: tasks[n].Image, Task: &tasks[n]}, intact: true})
		}
		return all, err
	}
	defer rows.Close()
	for rows.Next() {
		var l listed
		var host, repository, digest string
		columns := []any{&host, &repository, &digest, &l.serial, &l.intact}
		if kind != inWithdrawals {
			s := &store.Signature{}
			l.Signature = s
			columns = append(columns, &l.Index, &l.number, &s.Name, &s.Identity, &s.Fingerprint, &s.UserID, &s.Reference, &s.Own, &s.Origin, &s.Uploader, &s.Signed, &s.Added)
		} else {
			w := &store.Withdrawal{}
			l.Withdrawal = w
			columns = append(columns, &w.ID, &w.Scope, &w.Name, &w.Identity, &w.Key, &w.Reason, &w.Subject, &w.Time)
		}
		if err := rows.Scan(columns...); err != nil {
			return nil, err
		}
		l.Image = imageOf(host, repository, digest)
		all = append(all, l)
	}
	return all, rows.Err()
}
