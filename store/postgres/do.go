package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// commitPatience is how long a commit may take, as when it waits for a standby. Whoever asked for it
// is told earlier that it may or may not have happened.
const commitPatience = 30 * time.Second

var _ store.Store = (*Store)(nil)

// Do implements store.Store.
func (s *Store) Do(ctx context.Context, c store.Change) (store.Set, error) {
	c, err := clean(c)
	if err != nil {
		return store.Set{}, err
	}
	if ctx.Err() != nil {
		return store.Set{}, unavailable(ctx.Err())
	}
	type outcome struct {
		set store.Set
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		// Not ended by ctx: to break off a commit would leave it neither here nor there.
		set, err := s.change(context.WithoutCancel(ctx), c)
		done <- outcome{set, err}
	}()
	late := time.NewTimer(3 * s.o.Timeout)
	defer late.Stop()
	select {
	case o := <-done:
		return o.set, o.err
	case <-ctx.Done():
		return store.Set{}, unavailable(ctx.Err())
	case <-late.C:
		return store.Set{}, unavailable(fmt.Errorf("no answer within %v", 3*s.o.Timeout))
	}
}

func (s *Store) change(ctx context.Context, c store.Change) (after store.Set, err error) {
	wait, cancel := context.WithTimeout(ctx, 3*s.o.Timeout)
	defer cancel()
	next, err := s.writing.wait(wait, c.Image)
	if err != nil {
		return store.Set{}, err
	}
	defer next()
	err = s.slowly(wait, func(_ context.Context, conn *pgxpool.Conn) error {
		t := transaction{Store: s, conn: conn.Conn(), change: c, now: instant(s.o.Clock())}
		after, err = t.run(ctx)
		return err
	})
	if err != nil {
		return store.Set{}, err
	}
	return after, nil
}

// Mend drops the signatures of an image that Options.Damaged is told of, durably, and returns their
// names. Get leaves them out already: nothing that is served changes. The record is kept if there was
// one.
func (s *Store) Mend(ctx context.Context, image api.Image, record store.Record) (dropped []string, err error) {
	c, err := clean(store.Change{Image: image, Record: record})
	if err != nil {
		return nil, err
	}
	err = s.slowly(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		t := transaction{Store: s, conn: conn.Conn(), change: c, now: instant(s.o.Clock())}
		if err := t.lock(ctx); err != nil {
			return err
		}
		if dropped = t.before.damages; len(dropped) == 0 {
			return t.rollback(ctx)
		}
		after := t.before.set()
		after.Version++
		c.Record.Image, c.Record.Names = image, dropped
		return t.commit(ctx, t.before.replaced(after, rand.Text()), []store.Record{c.Record}, nil)
	})
	return dropped, err
}

// A transaction is one attempt at a change.
type transaction struct {
	*Store
	conn   *pgx.Conn
	change store.Change
	now    time.Time

	before *imageRow
	tasks  map[string]store.Task // that are there, of those that the change is about
}

func (t *transaction) run(ctx context.Context) (store.Set, error) {
	began := t.o.Clock()
	if err := t.lock(ctx); err != nil {
		return store.Set{}, err
	}
	before := t.before.set()
	after, records, err := before.Apply(t.change, t.o.Limits)
	var ended *store.Task
	if err == nil {
		ended, err = t.end()
	}
	if err != nil {
		_ = t.rollback(ctx) // a connection that is not through is closed
		return store.Set{}, decided(err)
	}
	row := t.before
	if after.Version != before.Version {
		row = t.before.replaced(after, rand.Text())
	}
	if err := t.commit(ctx, row, records, ended); err != nil {
		return store.Set{}, err
	}
	if row == t.before {
		row.isAt(pgtype.TID{}) // it was written, and is elsewhere now
		return row.set(), nil
	}
	row.currentSince(began)
	t.known.put(row, true)
	return row.set(), nil
}

func (t *transaction) rollback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout)
	defer cancel()
	_, err := t.conn.Exec(ctx, "ROLLBACK")
	return err
}

// lockQuery waits for the image's lock. Time-outs are the transaction's own: nothing is set on a connection
// that others use next.
const lockQuery = `SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true),
	set_config('idle_in_transaction_session_timeout', $1, true),
	set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
	pg_advisory_xact_lock(hashtextextended($2, 0))`

// lock begins, and reads under the image's lock. The isolation is said, because what a
// database has for a default could read what was there before the lock.
func (t *transaction) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout+time.Second) // the database's comes first
	defer cancel()
	i, keys := t.change.Image, t.keys()
	var b pgx.Batch
	b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED`)
	lockStatement.queue(&b, t.conn, fmt.Sprint(t.o.Timeout.Milliseconds()), i.String())
	stateStatement.queue(&b, t.conn, i.Host, i.Repository, string(i.Digest))
	if len(keys) > 0 {
		b.Queue(taskQuery+` WHERE key = ANY($1) ORDER BY key FOR UPDATE`, keys)
	}
	r := t.conn.SendBatch(ctx, &b)
	state, err := t.locked(r, len(keys) > 0)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	a := t.ask(i)
	if t.before = a.known[0]; t.before.state == state {
		return nil
	}
	rows, err := t.conn.Query(ctx, imageQuery, a.arguments()...)
	if err != nil {
		return err
	}
	found, err := a.rows(rows)
	if err == nil {
		t.before = found[0]
	}
	return err
}

// locked reads the tasks and the state of the image, which is empty where there is none.
func (t *transaction) locked(r pgx.BatchResults, tasks bool) (state string, err error) {
	for range 2 {
		if _, err := r.Exec(); err != nil {
			return "", err
		}
	}
	if err := r.QueryRow().Scan(&state); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	t.tasks = map[string]store.Task{}
	if !tasks {
		return state, nil
	}
	rows, err := r.Query()
	if err != nil {
		return "", err
	}
	all, err := pgx.CollectRows(rows, scanTask)
	for _, task := range all {
		t.tasks[task.Key] = task
	}
	return state, err
}

// keys are those of the tasks that the change is about, each once.
func (t *transaction) keys() (keys []string) {
	for _, then := range t.change.Then {
		keys = append(keys, then.Key)
	}
	if t.change.Ends != nil {
		keys = append(keys, t.change.Ends.Key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// commit writes everything, and waits without a time-out of the database's: one that ended a commit
// would leave it here and not on the standby, and say that all is well.
func (t *transaction) commit(ctx context.Context, row *imageRow, records []store.Record, ended *store.Task) error {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	var b pgx.Batch
	t.writeImage(&b, row)
	t.writeTasks(&b, ended)
	t.writeRecords(&b, records)
	b.Queue(`SET LOCAL statement_timeout = 0`)
	b.Queue(`COMMIT`)
	delete(t.conn.PgConn().CustomData(), warned)
	r := t.conn.SendBatch(ctx, &b)
	for range b.Len() - 1 {
		if _, err := r.Exec(); err != nil {
			_ = r.Close()
			return maybe(err)
		}
	}
	tag, err := r.Exec()
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%w: %w", errMaybe, err)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("%w: COMMIT was answered %s", errMaybe, tag)
	}
	if warning, ok := t.conn.PgConn().CustomData()[warned]; ok {
		return fmt.Errorf("%w: COMMIT was answered with a warning, %v", errMaybe, warning)
	}
	return nil
}

// maybe is what an error before COMMIT means: what the database refused did not happen, but of a
// connection that broke nobody knows how far it came.
func maybe(err error) error {
	if broken(err) {
		return fmt.Errorf("%w: %w", errMaybe, err)
	}
	return err
}

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
func (t *transaction) writeImage(b *pgx.Batch, row *imageRow) {
	i, before := t.change.Image, t.before
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
