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

// Kinds of positions, by the order that a listing has.
const (
	inSignatures  = 's' // by host, repository, digest and serial; see imagesPage
	inKey         = 'k' // signatures by one key: by the number of the image and serial
	inWithdrawals = 'w' // as signatures
	inTasks       = 't' // by key
	inTrail       = 'r'
)

// listingOf says in which order the filter lists; 0: there is no such listing. To signatures by key leads an index of its
// own; of one repository each image is asked for them.
func listingOf(f store.Filter) byte {
	switch f.Kind {
	case store.Signatures:
		if f.Key != "" && (f.Host == "" || f.Repository == "") {
			return inKey
		}
		return inSignatures
	case store.Withdrawals:
		return inWithdrawals
	case store.Tasks:
		return inTasks
	}
	return 0
}

// skips says whether a listing looks at what its filter does not want, where rows, or images, are in the order of host,
// repository and digest.
func skips(f store.Filter) bool {
	return f.Repository != "" && f.Host == "" || f.Digest != "" && (f.Host == "" || f.Repository == "")
}

// scans says whether a listing of rows looks at what its filter does not want.
func scans(f store.Filter) bool {
	switch listingOf(f) {
	case inTasks:
		return f.Host != "" || f.Repository != "" || f.Digest != "" || f.State != ""
	case inKey:
		return f.Host != "" || f.Repository != "" || f.Digest != ""
	}
	return f.Key != "" || skips(f)
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

// order is how a listing is sorted. That it says the fingerprint keeps the database from the index of another order,
// in which a key's signatures may be far apart.
func order(kind byte) string {
	switch kind {
	case inTasks:
		return "x.key"
	case inKey:
		return "x.fingerprint, x.image, x.serial"
	}
	return "x.host, x.repository, x.digest, x.serial"
}

// bound leaves the rows on one side of a position, > or <=, or all where there is none.
func (s *statement) bound(side string, p position, f store.Filter) {
	if p.key == "" {
		return
	}
	switch p.kind {
	case inTasks:
		s.add(` AND x.key `+side+` ?`, p.key)
	case inKey:
		number, _ := p.number()
		s.add(` AND (`+order(inKey)+`) `+side+` (?, ?, ?)`, text(f.Key), number, p.serial)
	default:
		i, _ := p.image()
		s.add(` AND (`+order(p.kind)+`) `+side+` (?, ?, ?, ?)`, i.Host, i.Repository, string(i.Digest), p.serial)
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

// by leaves the signatures by a key. It is a range of one, so that its column counts as one of the order.
func (s *statement) by(key string) {
	s.add(` AND x.fingerprint >= ?`, text(key))
	s.add(` AND x.fingerprint <= ?`, text(key))
}

// lastScanned asks for the last row that a page looks at.
func lastScanned(f store.Filter, at position) *statement {
	s := &statement{}
	s.add(`SELECT ` + order(at.kind) + ` FROM ` + f.Kind + ` x WHERE true`)
	switch at.kind {
	case inKey:
		s.by(f.Key)
	case inWithdrawals:
		s.within(f, true)
	}
	s.bound(">", at, f)
	s.add(` ORDER BY `+order(at.kind)+` OFFSET ? LIMIT 1`, maxScanned-1)
	return s
}

// columns of a kind's rows. The index of a signature is its place among those that read.
func columns(kind string) string {
	switch kind {
	case store.Signatures:
		return `x.host, x.repository, x.digest, x.serial, x.intact, (SELECT count(*) FROM signatures b
				WHERE b.image = x.image AND b.serial <= x.serial AND b.intact), x.image,
			x.name, x.identity, x.fingerprint, x.user_id, x.reference, x.own, x.origin, x.uploader, x.signed, x.added`
	case store.Withdrawals:
		return `x.host, x.repository, x.digest, x.serial, true, x.id, x.scope, x.name, x.identity, x.key, x.reason, x.subject, x.time`
	}
	return taskColumns
}

// page asks for a page of rows and one more, which says that there are more.
func page(f store.Filter, at, end position, limit int) *statement {
	s := &statement{}
	s.add(`SELECT ` + columns(f.Kind) + ` FROM ` + f.Kind + ` x WHERE true`)
	s.within(f, false)
	switch {
	case f.Kind == store.Tasks && f.State != "":
		s.add(` AND x.state = ?`, text(f.State))
	case f.Kind == store.Signatures:
		s.by(f.Key)
	case f.Kind == store.Withdrawals && f.Key != "":
		s.add(` AND x.scope = '`+store.ScopeKey+`' AND x.key = ?`, text(f.Key))
	}
	s.bound(">", at, f)
	s.bound("<=", end, f)
	s.add(` ORDER BY `+order(at.kind)+` LIMIT ?`, limit+1)
	return s
}
