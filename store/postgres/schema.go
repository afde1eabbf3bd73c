package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errSchema is around what is wrong with a schema.
var errSchema = errors.New("the database's schema does not fit this program")

const schemaQuery = `SELECT version, dirty, COALESCE((SELECT oldest FROM schema_compatibility), version) FROM schema_migrations LIMIT 1`

// check looks whether this program may run on the database's schema, and begins to mend its trail if it was
// restored from elsewhere. It does so once, when the database is first there.
func (s *Store) check(ctx context.Context) error {
	s.checked.Lock()
	defer s.checked.Unlock()
	if s.ready.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	if err := s.mendTrail(ctx); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}

func (s *Store) checkSchema(ctx context.Context) error {
	var version, oldest int
	var dirty bool
	ours, err := newest()
	if err != nil {
		return err
	}
	err = s.pool.QueryRow(ctx, schemaQuery).Scan(&version, &dirty, &oldest)
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
