package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	driver "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/countersign-dev/countersign/migrations"
)

// NoForce is for Migrate to go on from where the schema is.
const NoForce = -1

// lockPatience is how long Migrate waits for another one to be through.
const lockPatience = 10 * time.Minute

// Migrate brings the schema up. Several at once are fine: one does it, the others wait. It needs a
// session, so no pool in transaction mode may stand between. force, if not NoForce, first says that
// the schema is the one of that number, whole: that mends one whose migration was cut.
func Migrate(ctx context.Context, url string, force int, log *slog.Logger) (from, to int, err error) {
	c, err := configure(url)
	if err != nil {
		return 0, 0, err
	}
	ours, err := newest()
	if err != nil {
		return 0, 0, err
	}
	if force > ours {
		return 0, 0, fmt.Errorf("this program knows schemas up to %d, not %d", ours, force)
	}
	db := stdlib.OpenDB(*c.ConnConfig)
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return 0, 0, fmt.Errorf("the database cannot be reached: %w", err)
	}
	d, err := driver.WithInstance(db, &driver.Config{})
	if err != nil {
		return 0, 0, err
	}
	files, err := iofs.New(migrations.Files(), ".")
	if err != nil {
		return 0, 0, err
	}
	m, err := migrate.NewWithInstance("iofs", files, "pgx5", d)
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	m.LockTimeout = lockPatience
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if force != NoForce {
		log.Warn("the schema is taken for another", "schema", force)
		if err := m.Force(nilVersion(force)); err != nil {
			return 0, 0, err
		}
	}
	if from, err = version(m); err != nil {
		return 0, 0, err
	}
	if from > ours {
		return from, from, nil // a later release's: serve says whether we may use it
	}
	return from, ours, up(m)
}

func up(m *migrate.Migrate) error {
	err := m.Up()
	switch {
	case err == nil, errors.Is(err, migrate.ErrNoChange):
		return nil
	case errors.Is(err, migrate.ErrLockTimeout), errors.Is(err, database.ErrLocked):
		return fmt.Errorf("another migration did not end within %v: %w\n"+
			"hint: if none runs, a session holds its lock; through a pool in transaction mode use -direct-url", lockPatience, err)
	}
	if dirty, ok := errors.AsType[migrate.ErrDirty](err); ok {
		return errDirty(dirty.Version)
	}
	if failed, ok := errors.AsType[database.Error](err); ok && failed.OrigErr != nil {
		return fmt.Errorf("the migration failed: %w", failed.OrigErr) // its own message has the whole file
	}
	return err
}

func errDirty(version int) error {
	return fmt.Errorf("the migration to schema %d was cut, and nobody has looked since\n"+
		"hint: each of our migrations is one transaction that may run again: countersign migrate -force %d repeats it", version, version-1)
}

// version is that of the schema; 0: there is none yet. A dirty one is not there: another migration is
// at it, or was cut, which is seen under the lock.
func version(m *migrate.Migrate) (int, error) {
	v, dirty, err := m.Version()
	if errors.Is(err, migrate.ErrNilVersion) {
		return 0, nil
	}
	if dirty {
		v--
	}
	return int(v), err
}

// nilVersion is how golang-migrate calls no schema at all.
func nilVersion(version int) int {
	if version == 0 {
		return database.NilVersion
	}
	return version
}

// newest is the schema that this program knows.
func newest() (int, error) {
	files, err := iofs.New(migrations.Files(), ".")
	if err != nil {
		return 0, err
	}
	return last(files)
}

func last(files source.Driver) (int, error) {
	v, err := files.First()
	for err == nil {
		var next uint
		if next, err = files.Next(v); err == nil {
			v = next
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return int(v), nil
	}
	return 0, err
}
