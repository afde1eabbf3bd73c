package postgres

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store"
)

// What a change that adds a signature writes.
const (
	imageWrite = `INSERT INTO images (host, repository, digest, version, serial, state) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (host, repository, digest) DO UPDATE SET version = excluded.version, serial = excluded.serial, state = excluded.state`
	signatureWrite = `INSERT INTO signatures (host, repository, digest, serial, name, identity, fingerprint, user_id, reference, own, origin, uploader, signed, added, content)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`
	recordWrite = `INSERT INTO records (time, action, subject, address, host, repository, digest, names, fingerprint, reference, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`
)

// writeImage also writes the image's row where nothing changed: a commit that writes waits for a
// standby to have everything before it, and what the caller is told it has is there, too.
func (t *transaction) writeImage(b *pgx.Batch, p *part) {
	i, before, row := p.change.Image, p.before, p.row
	if row == before {
		b.Queue(`UPDATE images SET version = version WHERE (host, repository, digest) = ($1, $2, $3)`, i.Host, i.Repository, string(i.Digest))
		return
	}
	imageStatement.queue(b, t.conn, i.Host, i.Repository, string(i.Digest), row.version, row.serial, row.state)
	gone := func(s signatureRow) bool { return !row.has(s.Serial) }
	if len(before.damages) > 0 || slices.ContainsFunc(before.signatures, gone) {
		kept := []int64{}
		for _, s := range row.signatures {
			kept = append(kept, s.Serial)
		}
		// Also what does not read: it can be brought again.
		b.Queue(`DELETE FROM signatures WHERE (host, repository, digest) = ($1, $2, $3) AND serial <> ALL ($4)`, i.Host, i.Repository, string(i.Digest), kept)
	}
	for _, s := range row.signatures {
		if !before.has(s.Serial) {
			signatureStatement.queue(b, t.conn, i.Host, i.Repository, string(i.Digest), s.Serial,
				s.Name, s.Identity, s.Fingerprint, s.UserID, s.Reference, s.Own, s.Origin, s.Uploader, s.Signed, s.Added, s.Content)
		}
	}
	for _, w := range before.withdrawn {
		if !row.has(w.Serial) {
			b.Queue(`DELETE FROM withdrawals WHERE (host, repository, digest, serial) = ($1, $2, $3, $4)`, i.Host, i.Repository, string(i.Digest), w.Serial)
		}
	}
	for _, w := range row.withdrawn {
		if !before.has(w.Serial) {
			b.Queue(`INSERT INTO withdrawals (host, repository, digest, serial, id, scope, name, identity, key, reason, subject, time)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, i.Host, i.Repository, string(i.Digest), w.Serial,
				w.ID, w.Scope, w.Name, w.Identity, w.Key, w.Reason, w.Subject, w.Time)
		}
	}
}

func (t *transaction) writeRecords(b *pgx.Batch, records []store.Record) {
	for _, r := range records {
		if r.Time.IsZero() {
			r.Time = t.now
		}
		if r.Names == nil {
			r.Names = []string{}
		}
		recordStatement.queue(b, t.conn, r.Time, r.Action, r.Subject, r.Address,
			r.Image.Host, r.Image.Repository, string(r.Image.Digest), r.Names, r.Fingerprint, r.Reference, r.Reason)
	}
}
