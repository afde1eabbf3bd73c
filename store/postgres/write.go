package postgres

import (
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// What changes that add signatures write: a list for each column, so that a statement writes for all of them.
// The names of a record are some of all, from and to a place.
const (
	imagesWrite = `INSERT INTO images (host, repository, digest, version, serial, state, number)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
		ON CONFLICT (host, repository, digest) DO UPDATE SET version = excluded.version, serial = excluded.serial, state = excluded.state`
	signaturesWrite = `INSERT INTO signatures (host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content, image)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
			$10::boolean[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::bytea[], $16::bigint[])`
	recordsWrite = `INSERT INTO records (time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason)
		SELECT r.time, r.action, r.subject, r.address, r.host, r.repository, r.digest, ($8::text[])[r.first:r.last], r.fingerprint, r.reference, r.reason
		FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $9::bigint[], $10::bigint[],
			$11::text[], $12::text[], $13::text[]) WITH ORDINALITY
			AS r (time, action, subject, address, host, repository, digest, first, last, fingerprint, reference, reason, n) ORDER BY r.n`
)

// column lists one value of each.
func column[R, V any](rows []R, value func(R) V) []V {
	values := make([]V, len(rows))
	for n, r := range rows {
		values[n] = value(r)
	}
	return values
}

// write queues everything that the parts write, the tasks last.
func (t *transaction) write(b *pgx.Batch) {
	parts := t.writing()
	t.writeImages(b, parts)
	for _, p := range parts {
		p.deleteSignatures(b)
		p.writeWithdrawals(b)
	}
	t.writeSignatures(b, parts)
	t.writeRecords(b, parts)
	t.writeTasks(b)
}

// writeImages also writes the row of an image where nothing changed: a commit that writes waits for a
// standby to have everything before it, and what the caller is told it has is there, too.
func (t *transaction) writeImages(b *pgx.Batch, parts []*part) {
	type row struct {
		*imageRow
		number int64
	}
	var rows []row
	for _, p := range parts {
		if i := p.change.Image; p.row == p.before {
			b.Queue(`UPDATE images SET version = version WHERE (host, repository, digest) = ($1, $2, $3)`, i.Host, i.Repository, string(i.Digest))
			continue
		}
		rows = append(rows, row{p.row, p.number})
	}
	if len(rows) == 0 {
		return
	}
	imagesStatement.queue(b, t.conn,
		column(rows, func(r row) string { return r.image.Host }),
		column(rows, func(r row) string { return r.image.Repository }),
		column(rows, func(r row) string { return string(r.image.Digest) }),
		column(rows, func(r row) int64 { return r.version }),
		column(rows, func(r row) int64 { return r.serial }),
		column(rows, func(r row) string { return r.state }),
		column(rows, func(r row) int64 { return r.number }))
}

// deleteSignatures leaves everything where nothing changed: the image stays in its state, and with it what others
// know of what it has.
func (p *part) deleteSignatures(b *pgx.Batch) {
	if p.row == p.before {
		return
	}
	gone := func(s signatureRow) bool { return !p.row.has(s.Serial) }
	if len(p.before.damages) == 0 && !slices.ContainsFunc(p.before.signatures, gone) {
		return
	}
	kept := column(p.row.signatures, func(s signatureRow) int64 { return s.Serial })
	// Also what does not read: it can be brought again.
	b.Queue(`DELETE FROM signatures WHERE image = $1 AND serial <> ALL ($2)`, p.number, kept)
}

func (p *part) writeWithdrawals(b *pgx.Batch) {
	i := p.change.Image
	for _, w := range p.before.withdrawn {
		if !p.row.has(w.Serial) {
			b.Queue(`DELETE FROM withdrawals WHERE (host, repository, digest, serial) = ($1, $2, $3, $4)`, i.Host, i.Repository, string(i.Digest), w.Serial)
		}
	}
	for _, w := range p.row.withdrawn {
		if !p.before.has(w.Serial) {
			b.Queue(`INSERT INTO withdrawals (host, repository, digest, serial, id, scope, name, identity, key, reason, subject, time)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, i.Host, i.Repository, string(i.Digest), w.Serial,
				w.ID, w.Scope, w.Name, w.Identity, w.Key, w.Reason, w.Subject, w.Time)
		}
	}
}

func (t *transaction) writeSignatures(b *pgx.Batch, parts []*part) {
	type row struct {
		image  api.Image
		number int64
		signatureRow
	}
	var rows []row
	for _, p := range parts {
		for _, s := range p.row.signatures {
			if !p.before.has(s.Serial) {
				rows = append(rows, row{p.change.Image, p.number, s})
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	text := func(value func(row) string) []string { return column(rows, value) }
	signaturesStatement.queue(b, t.conn,
		text(func(r row) string { return r.image.Host }),
		text(func(r row) string { return r.image.Repository }),
		text(func(r row) string { return string(r.image.Digest) }),
		column(rows, func(r row) int64 { return r.Serial }),
		text(func(r row) string { return r.Name }),
		text(func(r row) string { return r.Identity }),
		text(func(r row) string { return r.Fingerprint }),
		text(func(r row) string { return r.UserID }),
		text(func(r row) string { return r.Reference }),
		column(rows, func(r row) bool { return r.Own }),
		text(func(r row) string { return r.Origin }),
		text(func(r row) string { return r.Uploader }),
		column(rows, func(r row) time.Time { return r.Signed }),
		column(rows, func(r row) time.Time { return r.Added }),
		column(rows, func(r row) []byte { return r.signatureRow.Content }),
		column(rows, func(r row) int64 { return r.number }))
}

func (t *transaction) writeRecords(b *pgx.Batch, parts []*part) {
	type row struct {
		store.Record
		first, last int64 // of its names, from 1
	}
	var rows []row
	names := []string{}
	for _, p := range parts {
		for _, r := range p.records {
			if r.Time.IsZero() {
				r.Time = t.now
			}
			first := int64(len(names)) + 1
			names = append(names, r.Names...)
			rows = append(rows, row{r, first, int64(len(names))})
		}
	}
	if len(rows) == 0 {
		return
	}
	text := func(value func(row) string) []string { return column(rows, value) }
	recordsStatement.queue(b, t.conn,
		column(rows, func(r row) time.Time { return r.Time }),
		text(func(r row) string { return r.Action }),
		text(func(r row) string { return r.Subject }),
		text(func(r row) string { return r.Address }),
		text(func(r row) string { return r.Image.Host }),
		text(func(r row) string { return r.Image.Repository }),
		text(func(r row) string { return string(r.Image.Digest) }),
		names,
		column(rows, func(r row) int64 { return r.first }),
		column(rows, func(r row) int64 { return r.last }),
		text(func(r row) string { return r.Fingerprint }),
		text(func(r row) string { return r.Reference }),
		text(func(r row) string { return r.Reason }))
}
