package postgres

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
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
	key    string
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
	if p.key != text(strings.ReplaceAll(p.key, separator, "")) && kind == 't' || p.serial < 0 {
		return position{}, errCursor("begin without one")
	}
	return p, nil
}

// separator is between the parts of an image in a cursor.
const separator = "\x00"

// List implements store.Store.
func (s *Store) List(ctx context.Context, f store.Filter, after store.Cursor, limit int) ([]store.Entry, store.Cursor, error) {
	kinds := map[string]byte{store.Signatures: 's', store.Withdrawals: 'w', store.Tasks: 't'}
	kind, ok := kinds[f.Kind]
	if !ok {
		return nil, "", fmt.Errorf("%q is no kind of listing", f.Kind)
	}
	at, err := decode(kind, after)
	if err != nil {
		return nil, "", err
	}
	if ctx.Err() != nil {
		return nil, "", unavailable(ctx.Err())
	}
	limit = clamp(limit)
	var q query
	if kind == 't' {
		q.tasks(f, at, limit)
	} else if err := q.images(f, at, after != "", limit); err != nil {
		return nil, "", err
	}
	var rows []listed
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
		found, err := conn.Query(ctx, q.text.String(), q.arguments...)
		if err != nil {
			return err
		}
		rows, err = collect(kind, found)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return s.page(kind, rows, limit)
}

// A listed is a row of a listing. One that is not intact only has its name.
type listed struct {
	store.Entry
	serial int64
	intact bool
}

// page is what there is of a listing, but for what does not read, and where it goes on.
func (s *Store) page(kind byte, rows []listed, limit int) (page []store.Entry, next store.Cursor, err error) {
	if len(rows) > limit {
		rows = rows[:limit]
		last := rows[limit-1]
		at := position{kind: kind, serial: last.serial}
		if kind == 't' {
			at.key = last.Task.Key
		} else {
			at.key = strings.Join([]string{last.Image.Host, last.Image.Repository, string(last.Image.Digest)}, separator)
		}
		next = encode(at)
	}
	for _, row := range rows {
		if !row.intact {
			s.o.Damaged(row.Image, row.Signature.Name, errDamaged)
			continue
		}
		page = append(page, row.Entry)
	}
	return page, next, nil
}

// A query is a statement on its way.
type query struct {
	text      strings.Builder
	arguments []any
}

// add writes a piece in which ? stands for its arguments.
func (q *query) add(piece string, arguments ...any) {
	for _, a := range arguments {
		q.arguments = append(q.arguments, a)
		piece = strings.Replace(piece, "?", fmt.Sprintf("$%d", len(q.arguments)), 1)
	}
	q.text.WriteString(piece)
}

func (q *query) filter(f store.Filter) {
	for _, is := range []struct{ column, value string }{{"host", f.Host}, {"repository", f.Repository}, {"digest", f.Digest}} {
		if is.value != "" {
			q.add(" AND x."+is.column+" = ?", text(is.value))
		}
	}
}

func (q *query) tasks(f store.Filter, at position, limit int) {
	q.add(`SELECT `+taskColumns+` FROM tasks x WHERE key > ?`, at.key)
	q.filter(f)
	if f.State != "" {
		q.add(` AND state = ?`, text(f.State))
	}
	q.add(` ORDER BY key LIMIT ?`, limit+1)
}

// images asks for signatures or withdrawals. The index of a signature is its place among those that
// read.
func (q *query) images(f store.Filter, at position, goesOn bool, limit int) error {
	if f.Kind == store.Signatures {
		q.add(`SELECT x.host, x.repository, x.digest, x.serial, x.intact, (SELECT count(*) FROM signatures b
				WHERE (b.host, b.repository, b.digest) = (x.host, x.repository, x.digest) AND b.serial <= x.serial AND b.intact),
			x.name, x.identity, x.fingerprint, x.user_id, x.reference, x.own, x.origin, x.uploader, x.signed, x.added
			FROM signatures x WHERE true`)
	} else {
		q.add(`SELECT x.host, x.repository, x.digest, x.serial, true, x.id, x.scope, x.name, x.identity, x.key, x.reason, x.subject, x.time
			FROM withdrawals x WHERE true`)
	}
	q.filter(f)
	switch {
	case f.Key != "" && f.Kind == store.Signatures:
		q.add(` AND x.fingerprint = ?`, text(f.Key))
	case f.Key != "":
		q.add(` AND x.scope = '`+store.ScopeKey+`' AND x.key = ?`, text(f.Key))
	}
	if goesOn {
		i, ok := imageOfKey(at.key)
		if !ok || f.Host != "" && f.Host != i.Host || f.Host != "" && f.Repository != "" && f.Repository != i.Repository {
			return errCursor("it is of a listing with another filter: begin without one")
		}
		q.add(` AND (x.host, x.repository, x.digest, x.serial) > (?, ?, ?, ?)`, i.Host, i.Repository, string(i.Digest), at.serial)
	}
	q.add(` ORDER BY x.host, x.repository, x.digest, x.serial LIMIT ?`, limit+1)
	return nil
}

func imageOfKey(key string) (api.Image, bool) {
	parts := strings.Split(key, separator)
	if len(parts) != 3 {
		return api.Image{}, false
	}
	i := imageOf(parts[0], parts[1], parts[2])
	return i, i.String() == text(i.String())
}

func collect(kind byte, rows pgx.Rows) (all []listed, err error) {
	if kind == 't' {
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
		if kind == 's' {
			s := &store.Signature{}
			l.Signature = s
			columns = append(columns, &l.Index, &s.Name, &s.Identity, &s.Fingerprint, &s.UserID, &s.Reference, &s.Own, &s.Origin, &s.Uploader, &s.Signed, &s.Added)
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
