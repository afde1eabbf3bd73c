package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/store"
)

// A database that was restored from another cluster's dump has records of transactions that this one is still to
// have: what is written now would come before them. So the trail is renumbered first, those that come first some at
// a time: its order stays at each moment, nothing is done twice, and until the last is done every process finds the
// trail foreign. Cursors from before are none.

// errRestored is what all but Get says until then.
var errRestored = fmt.Errorf("%w: the database was restored from another cluster, and its audit trail is being renumbered", store.ErrUnavailable)

// foreignQuery looks at the last record, which is the last to be renumbered.
const foreignQuery = `SELECT COALESCE((SELECT xid FROM records ORDER BY xid DESC, id DESC LIMIT 1) >= pg_snapshot_xmax(pg_current_snapshot()), false)`

// renumberAlone has one process renumber at a time, and what it asks go by the index: what was just restored has no
// statistics. The table is not locked: who prepares an insert would wait behind whoever waits for that. A machine
// that is gone keeps others from it no longer than a time-out.
const renumberAlone = `SELECT set_config(name, $1, true), set_config(plan, 'off', true)
	FROM unnest(ARRAY['lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout'], ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin']) AS a (name, plan)
	UNION ALL SELECT pg_advisory_xact_lock(hashtextextended('countersign: the trail is renumbered', 0))::text, NULL`

// renumberQuery renumbers the next, behind those that were renumbered earlier, and returns the place that the last one had.
const renumberQuery = `
WITH next AS MATERIALIZED (
	SELECT xid, id, row_number() OVER (ORDER BY xid, id) AS n
	FROM (SELECT xid, id FROM records WHERE (xid, id) > ($1::text::xid8, $2) ORDER BY xid, id LIMIT $3) first
), moved AS (
	UPDATE records r SET xid = '0', id = next.n + (SELECT COALESCE(max(id), 0) FROM records WHERE xid = '0')
	FROM next WHERE (r.xid, r.id) = (next.xid, next.id)
) SELECT xid::text, id, n FROM next ORDER BY n DESC LIMIT 1`

const (
	someRecords = 10_000           // are renumbered in a transaction
	soon        = time.Second      // who finds a trail foreign waits so long: a short one is no news to anybody
	progress    = 10 * time.Second // between two words on it
)

// mendTrail renumbers a trail from elsewhere, on its own time where there is much of it.
func (s *Store) mendTrail(ctx context.Context) error {
	var foreign bool
	switch err := s.pool.QueryRow(ctx, foreignQuery).Scan(&foreign); {
	case err != nil:
		return err
	case !foreign:
		close(s.settled)
		return nil
	case s.life.Err() != nil:
		return s.life.Err()
	}
	s.background.Go(func() { s.renumberAll(s.life) })
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	_ = s.settle(ctx) // or later
	return nil
}

// settle waits until the trail is this cluster's.
func (s *Store) settle(ctx context.Context) error {
	select {
	case <-s.settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return s.life.Err()
	}
}

// settling tells that the trail is not, as far as is known.
func (s *Store) settling() bool {
	select {
	case <-s.settled:
		return false
	default:
		return true
	}
}

// renumberAll goes on until the trail is this cluster's, or ctx ends.
func (s *Store) renumberAll(ctx context.Context) {
	s.o.Log.Warn("the database was restored from another cluster; its audit trail is renumbered, and until that is done nothing is taken or listed")
	r := renumbering{at: renumbered}
	began := time.Now()
	told, failed := began, time.Time{}
	for {
		more, err := s.renumberSome(ctx, &r)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !more:
			s.o.Log.Info("the audit trail is renumbered", "records", r.count, "took", time.Since(began))
			close(s.settled)
			return
		case err != nil:
			if time.Since(failed) > progress {
				failed = time.Now()
				s.o.Log.Error("the audit trail could not be renumbered; that is tried again", "records", r.count, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		case time.Since(told) > progress:
			told = time.Now()
			s.o.Log.Info("the audit trail is being renumbered", "records", r.count)
		}
	}
}

// A renumbering is how far one process has come.
type renumbering struct {
	at    trailPlace // that the last one had
	count int
}

// renumbered is behind all that were renumbered earlier.
var renumbered = trailPlace{0, math.MaxInt64}

// renumberSome says whether there may be more. It has the time that a commit has: nobody waits for it by the second.
func (s *Store) renumberSome(ctx context.Context, r *renumbering) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, commitPatience)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	after := *r
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		more, err = after.next(ctx, tx)
		return err
	})
	if err != nil {
		after = renumbering{renumbered, r.count} // it may be another database by now
	}
	*r = after
	if broken(err) {
		s.pool.Reset()
	}
	return more, err
}

// next is part of a transaction. Another process may have done it all, and what was written since stays.
func (r *renumbering) next(ctx context.Context, tx pgx.Tx) (more bool, err error) {
	if _, err := tx.Exec(ctx, renumberAlone, strconv.FormatInt(commitPatience.Milliseconds(), 10)); err != nil {
		return false, err
	}
	if err := tx.QueryRow(ctx, foreignQuery).Scan(&more); err != nil || !more {
		return false, err
	}
	var xid string
	var n int
	switch err := tx.QueryRow(ctx, renumberQuery, strconv.FormatUint(r.at.xid, 10), r.at.id, someRecords).Scan(&xid, &r.at.id, &n); {
	case errors.Is(err, pgx.ErrNoRows):
		r.at = renumbered // there was no error, and it is another database nevertheless
		return true, nil
	case err != nil:
		return false, err
	}
	r.count += n
	r.at.xid, err = strconv.ParseUint(xid, 10, 64)
	return n == someRecords, err
}
