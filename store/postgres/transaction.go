package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// commitPatience is how long a commit may take, as when it waits for a standby. Whoever asked for it
// is told earlier that it may or may not have happened.
const commitPatience = 30 * time.Second

// A transaction is one attempt at changes of images that are all different. No two of them are about
// the same task.
type transaction struct {
	*Store
	conn  *pgx.Conn
	now   time.Time
	waits bool // for its image, which then is its only one, and for tasks
	parts []*part
}

// A part of a transaction is one change.
type part struct {
	change    store.Change
	elsewhere bool  // another process has the image or a task: nothing else is known, and nothing happens
	number    int64 // of the image: its own, or one that was drawn for a new one
	before    *imageRow
	tasks     map[string]store.Task // that are there, of those that the change is about

	// What it makes of that; err: nothing, for the change is refused.
	row     *imageRow
	records []store.Record
	ended   *store.Task
	err     error
}

func (s *Store) begin(conn *pgx.Conn, waits bool, parts ...*part) *transaction {
	return &transaction{Store: s, conn: conn, now: instant(s.o.Clock()), waits: waits, parts: parts}
}

func (t *transaction) run(ctx context.Context) error {
	began := t.o.Clock()
	if err := t.lock(ctx); err != nil {
		return err
	}
	for _, p := range t.parts {
		if !p.elsewhere {
			p.err = p.decide(t.now, t.o.Limits)
		}
	}
	if len(t.writing()) == 0 {
		_ = t.rollback(ctx) // a connection that is not through is closed
		return nil
	}
	if err := t.commit(ctx); err != nil {
		return err
	}
	for _, p := range t.writing() {
		if p.row == p.before {
			p.row.isAt(pgtype.TID{}) // it was written, and is elsewhere now
			continue
		}
		p.row.currentSince(began, t.o.Clock())
		t.known.put(p.row, true)
	}
	return nil
}

// writing are the parts that write.
func (t *transaction) writing() (parts []*part) {
	for _, p := range t.parts {
		if !p.elsewhere && p.err == nil {
			parts = append(parts, p)
		}
	}
	return parts
}

// decide says what the change makes of what is there.
func (p *part) decide(now time.Time, l store.Limits) (err error) {
	before := p.before.set()
	after, records, err := before.Apply(p.change, l)
	if err != nil {
		return err
	}
	if p.ended, err = p.end(now); err != nil {
		return err
	}
	p.row, p.records = p.before, records
	if after.Version != before.Version {
		p.row = p.before.replaced(after, rand.Text())
	}
	return nil
}

// outcome is what Do returns when the transaction is through.
func (p *part) outcome() (store.Set, error) {
	if p.err != nil {
		return store.Set{}, p.err
	}
	return p.row.set(), nil
}

func (t *transaction) rollback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout)
	defer cancel()
	_, err := t.conn.Exec(ctx, "ROLLBACK")
	return err
}

// What a database has for a default could read what was there before a lock, and commit without a flush.
const (
	beginQuery = `BEGIN ISOLATION LEVEL READ COMMITTED`
	durably    = `set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)`
)

// lockQuery takes the images' locks, and says which it has. Who waits for one has no other: else those who wait
// could wait for each other. Time-outs are the transaction's own: nothing is set on a connection that others use next.
const lockQuery = `SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true),
	set_config('idle_in_transaction_session_timeout', $1, true), ` + durably + `,
	ARRAY(SELECT CASE WHEN $3::boolean THEN pg_advisory_xact_lock(hashtextextended(image, 0))::text IS NOT NULL
		ELSE pg_try_advisory_xact_lock(hashtextextended(image, 0)) END FROM unnest($2::text[]) AS image)`

// statesQuery says in which state images are, and their numbers; NULL: there is no such image. LIMIT has each looked
// for by itself.
const statesQuery = `SELECT i.state, i.number FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[])) WITH ORDINALITY AS a (host, repository, digest, n)
	LEFT JOIN LATERAL (SELECT state, number FROM images i
		WHERE (i.host, i.repository, i.digest) = (a.host, a.repository, a.digest) LIMIT 1) i ON true ORDER BY a.n`

// lock begins, and reads under the images' locks.
func (t *transaction) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Timeout+time.Second) // the database's comes first
	defer cancel()
	images := make([]api.Image, len(t.parts))
	names := make([]string, len(t.parts))
	var keys []string
	for n, p := range t.parts {
		images[n], names[n] = p.change.Image, p.change.Image.String()
		keys = append(keys, keysOf(p.change)...)
	}
	a := t.ask(images...)
	var b pgx.Batch
	b.Queue(beginQuery)
	lockStatement.queue(&b, t.conn, fmt.Sprint(t.o.Timeout.Milliseconds()), names, t.waits)
	namedStatement.queue(&b, t.conn, a.arguments()[:3]...)
	if len(keys) > 0 {
		t.askTasks(&b, keys)
	}
	r := t.conn.SendBatch(ctx, &b)
	states, err := t.locked(r, len(keys) > 0)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	return t.content(ctx, a, states)
}

// locked reads which images are ours now, in which states they are, and the tasks.
func (t *transaction) locked(r pgx.BatchResults, tasks bool) (states []string, err error) {
	if _, err := r.Exec(); err != nil {
		return nil, err
	}
	var ours []bool
	if err := r.QueryRow().Scan(nil, nil, nil, nil, &ours); err != nil {
		return nil, err
	}
	if len(ours) != len(t.parts) {
		return nil, fmt.Errorf("asked for %d locks, the database answers for %d", len(t.parts), len(ours))
	}
	if states, err = t.readStates(r); err != nil {
		return nil, err
	}
	for n, p := range t.parts {
		p.elsewhere, p.tasks = !ours[n], map[string]store.Task{}
	}
	if !tasks {
		return states, nil
	}
	return states, t.readTasks(r)
}

// readStates reads in which state images are, empty for one that is not there, and their numbers.
func (t *transaction) readStates(r pgx.BatchResults) (states []string, err error) {
	rows, err := r.Query()
	if err != nil {
		return nil, err
	}
	var state pgtype.Text
	var number pgtype.Int8
	_, err = pgx.ForEachRow(rows, []any{&state, &number}, func() error {
		n := len(states)
		if n == len(t.parts) {
			return fmt.Errorf("asked for %d states, the database answers with more", n)
		}
		if t.parts[n].number = number.Int64; !number.Valid {
			t.parts[n].number = drawNumber(n)
		}
		states = append(states, state.String)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(states) != len(t.parts) {
		return nil, fmt.Errorf("asked for %d states, the database answers with %d", len(t.parts), len(states))
	}
	return states, nil
}

// content sees to it that the parts know what their images have: that is asked for only where they are in
// another state than is known.
func (t *transaction) content(ctx context.Context, a asked, states []string) error {
	var wanted asked
	var parts []*part
	for n, p := range t.parts {
		if p.before = a.known[n]; p.elsewhere || p.before.state == states[n] {
			continue
		}
		parts = append(parts, p)
		wanted.images, wanted.known = append(wanted.images, a.images[n]), append(wanted.known, a.known[n])
	}
	for at := 0; at < len(parts); at += maxContent {
		to := min(at+maxContent, len(parts))
		if err := t.read(ctx, asked{wanted.images[at:to], wanted.known[at:to]}, parts[at:to]); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) read(ctx context.Context, a asked, parts []*part) error {
	rows, err := t.conn.Query(ctx, contentStatement.on(t.conn), a.arguments()...)
	if err != nil {
		return err
	}
	found, err := a.rows(rows)
	if err != nil {
		return err
	}
	for n, p := range parts {
		p.before = found[n]
	}
	return nil
}

// commit writes everything.
func (t *transaction) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	var b pgx.Batch
	t.write(&b)
	writes := b.Len()
	return commit(ctx, t.conn, &b, func(r pgx.BatchResults) error { return skip(r, writes) })
}

// skip reads the results of so many that return nothing.
func skip(r pgx.BatchResults, n int) error {
	for range n {
		if _, err := r.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// commit ends a transaction with what is queued, whose results are read, and waits without a time-out of the
// database's: one that ended a commit would leave it here and not on the standby, and say that all is well.
func commit(ctx context.Context, conn *pgx.Conn, b *pgx.Batch, read func(pgx.BatchResults) error) error {
	b.Queue(`SET LOCAL statement_timeout = 0`)
	b.Queue(`COMMIT`)
	delete(conn.PgConn().CustomData(), warned)
	r := conn.SendBatch(ctx, b)
	err := read(r)
	if err == nil {
		err = skip(r, 1)
	}
	if err != nil {
		_ = r.Close()
		return maybe(err)
	}
	tag, err := r.Exec()
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%w: %w", errMaybe, err)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("%w: COMMIT was answered %s", errMaybe, tag)
	}
	if warning, ok := conn.PgConn().CustomData()[warned]; ok {
		return fmt.Errorf("%w: COMMIT was answered with a warning, %v", errMaybe, warning)
	}
	return nil
}

// maybe is what an error before COMMIT means: what the database refused did not happen, but of a
// connection that broke nobody knows how far it came. (What pgx calls safe to
// retry is also the second question to a connection that broke after the first was sent.)
func maybe(err error) error {
	if broken(err) {
		return fmt.Errorf("%w: %w", errMaybe, err)
	}
	return err
}
