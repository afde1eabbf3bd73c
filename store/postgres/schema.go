package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errSchema is around what is wrong with a schema.
var errSchema = errors.New("the database's schema does not fit this program")

const schemaQuery = `SELECT version, dirty, COALESCE((SELECT oldest FROM schema_compatibility), version) FROM schema_migrations LIMIT 1`

// check looks whether this program may run on the database's schema, and mends its trail if it was
// restored from elsewhere. It does so once, when the database is first there.
func (s *Store) check(ctx context.Context) error {
	s.checked.Lock()
	defer s.checked.Unlock()
	if s.ready.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if err := checkSchema(ctx, conn); err != nil {
		return err
	}
	if err := s.mendTrail(ctx, conn); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}

func checkSchema(ctx context.Context, conn *pgxpool.Conn) error {
	var version, oldest int
	var dirty bool
	ours, err := newest()
	if err != nil {
		return err
	}
	err = conn.QueryRow(ctx, schemaQuery).Scan(&version, &dirty, &oldest)
	refused, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case ok && refused.Code == codeNoTable, errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: it has none yet\nhint: countersign migrate", errSchema)
	case err != nil:
		return err
	case dirty:
		return fmt.Errorf("%w: a migration to schema %d is running, or was cut\nhint: start again when it is through; if none runs, countersign migrate says what to do", errSchema, version)
	case version < ours:
		return fmt.Errorf("%w: it is schema %d, and this program needs %d\nhint: countersign migrate", errSchema, version, ours)
	case version > ours && oldest > ours:
		return fmt.Errorf("%w: it is schema %d, which programs for schema %d and later may use, and this one is for %d\nhint: use a later release", errSchema, version, oldest, ours)
	}
	return nil
}

// mendTrail renumbers the audit trail if it has transactions that this cluster has not had yet: the
// database was restored from another one's dump. Its order stays; a cursor from before is none.
func (s *Store) mendTrail(ctx context.Context, conn *pgxpool.Conn) error {
	const foreign = `SELECT EXISTS (SELECT FROM records WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))`
	var is bool
	if err := conn.QueryRow(ctx, foreign).Scan(&is); err != nil || !is {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE records IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, foreign).Scan(&is); err != nil || !is {
			return err // somebody else was faster
		}
		_, err := tx.Exec(ctx, `UPDATE records r SET xid = '0', id = n.place
			FROM (SELECT xid, id, row_number() OVER (ORDER BY xid, id) AS place FROM records) n
			WHERE (r.xid, r.id) = (n.xid, n.id)`)
		return err
	})
}
