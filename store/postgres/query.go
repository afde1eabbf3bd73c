package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store"
)

// maxScanned bounds the rows that one page looks at where no index leads to those that the filter
// wants: who lists must not hold up those who pull.
const maxScanned = 10_000

// scans says whether a listing looks at what its filter does not want. Rows are in the order of host,
// repository and digest; to signatures by key leads an index of their own.
func scans(f store.Filter) bool {
	switch {
	case f.Kind == store.Tasks:
		return f.Host != "" || f.Repository != "" || f.Digest != "" || f.State != ""
	case f.Kind == store.Withdrawals && f.Key != "":
		return true
	}
	return f.Repository != "" && f.Host == "" || f.Digest != "" && (f.Host == "" || f.Repository == "")
}

// A statement is a query on its way.
type statement struct {
	text      strings.Builder
	arguments []any
}

func query(ctx context.Context, conn *pgx.Conn, s *statement) (pgx.Rows, error) {
	return conn.Query(ctx, s.text.String(), s.arguments...)
}

// add writes a piece in which ? stands for its arguments.
func (s *statement) add(piece string, arguments ...any) {
	for _, a := range arguments {
		s.arguments = append(s.arguments, a)
		piece = strings.Replace(piece, "?", fmt.Sprintf("$%d", len(s.arguments)), 1)
	}
	s.text.WriteString(piece)
}

// order is how a listing is sorted, by its kind.
func order(kind byte) string {
	if kind == 't' {
		return "x.key"
	}
	return "x.host, x.repository, x.digest, x.serial"
}

// bound leaves the rows on one side of a position, > or <=, or all where there is none.
func (s *statement) bound(side string, p position) {
	i, ok := p.image()
	switch {
	case p.key == "":
	case p.kind == 't':
		s.add(` AND x.key `+side+` ?`, p.key)
	case ok:
		s.add(` AND (x.host, x.repository, x.digest, x.serial) `+side+` (?, ?, ?, ?)`, i.Host, i.Repository, string(i.Digest), p.serial)
	}
}

// within leaves the rows whose columns have these values, in the order of columns. With inOrder it
// does as far as rows are in that order.
func (s *statement) within(f store.Filter, inOrder bool) {
	for _, is := range []struct{ column, value string }{{"host", f.Host}, {"repository", f.Repository}, {"digest", f.Digest}} {
		if is.value != "" {
			s.add(" AND x."+is.column+" = ?", text(is.value))
		} else if inOrder {
			return
		}
	}
}

// lastScanned asks for the last row that a page looks at.
func lastScanned(f store.Filter, at position) *statement {
	s := &statement{}
	s.add(`SELECT ` + order(at.kind) + ` FROM ` + f.Kind + ` x WHERE true`)
	if at.kind != 't' {
		s.within(f, true)
	}
	s.bound(">", at)
	s.add(` ORDER BY `+order(at.kind)+` OFFSET ? LIMIT 1`, maxScanned-1)
	return s
}

// columns of a kind's rows. The index of a signature is its place among those that read.
func columns(kind string) string {
	switch kind {
	case store.Signatures:
		return `x.host, x.repository, x.digest, x.serial, x.intact, (SELECT count(*) FROM signatures b
				WHERE (b.host, b.repository, b.digest) = (x.host, x.repository, x.digest) AND b.serial <= x.serial AND b.intact),
			x.name, x.identity, x.fingerprint, x.user_id, x.reference, x.own, x.origin, x.uploader, x.signed, x.added`
	case store.Withdrawals:
		return `x.host, x.repository, x.digest, x.serial, true, x.id, x.scope, x.name, x.identity, x.key, x.reason, x.subject, x.time`
	}
	return taskColumns
}

// page asks for a page and one row more, which says that there are more.
func page(f store.Filter, at, end position, limit int) *statement {
	s := &statement{}
	s.add(`SELECT ` + columns(f.Kind) + ` FROM ` + f.Kind + ` x WHERE true`)
	s.within(f, false)
	switch {
	case f.Kind == store.Tasks && f.State != "":
		s.add(` AND x.state = ?`, text(f.State))
	case f.Kind == store.Signatures && f.Key != "":
		s.add(` AND x.fingerprint = ?`, text(f.Key))
	case f.Kind == store.Withdrawals && f.Key != "":
		s.add(` AND x.scope = '`+store.ScopeKey+`' AND x.key = ?`, text(f.Key))
	}
	s.bound(">", at)
	s.bound("<=", end)
	s.add(` ORDER BY `+order(at.kind)+` LIMIT ?`, limit+1)
	return s
}
