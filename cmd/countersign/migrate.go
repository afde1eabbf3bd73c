package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/countersign-dev/countersign/store/postgres"
)

const migrateText = `Bring the database's schema up to what this release needs. Run it before the servers of a new
release are started; those of the release before go on meanwhile. Several at once are fine, and so is
one that finds nothing to do. It needs a session of its own: behind a pool in transaction mode, as
pgbouncer's, give it the database's own address with -direct-url.`

// migrate reads of the settings file only where the database is.
func migrate(ctx context.Context, t terminal, args []string) error {
	s, force, err := migrateSettings(t, args)
	if err != nil {
		return err
	}
	if !s.remote() {
		return errors.New("which database? a directory needs no migration\nhint: -database-url, -database-file, or store.database in the -config")
	}
	_, url, err := s.urls()
	if err != nil {
		return err
	}
	from, to, err := postgres.Migrate(ctx, url, force, logger(t.stderr, slog.LevelInfo))
	if err != nil {
		return err
	}
	switch {
	case from > to:
		_, err = fmt.Fprintf(t.stdout, "The schema is %d, of a later release. Nothing was done.\n", from)
	case from == to:
		_, err = fmt.Fprintf(t.stdout, "The schema is %d already.\n", to)
	default:
		_, err = fmt.Fprintf(t.stdout, "The schema was %d and is %d now.\n", from, to)
	}
	return err
}

// migrateSettings reads the command line twice, as readSettings does.
func migrateSettings(t terminal, args []string) (storeAt, int, error) {
	first := defaults()
	file, _, err := parseMigrate(t, &first.Store, args)
	if err != nil {
		return storeAt{}, 0, err
	}
	s := defaults()
	if file != "" {
		if err := s.load(file); err != nil {
			return storeAt{}, 0, err
		}
	}
	_, force, err := parseMigrate(t, &s.Store, args)
	if err != nil {
		return storeAt{}, 0, err
	}
	return s.Store, force, s.Store.check()
}

func parseMigrate(t terminal, s *storeAt, args []string) (file string, force int, err error) {
	flags := newFlags("migrate", migrateText)
	flags.StringVar(&file, "config", "", "settings `FILE`, in YAML, of which only store counts here")
	s.flags(flags)
	flags.Func("direct-url", "the database's own `URL`, where the other one is a pool's", func(v string) error {
		s.DirectURL = v
		return nil
	})
	flags.IntVar(&force, "force", postgres.NoForce, "take the schema for whole at this `number` first; what that is for is said where it is needed")
	if err := parse(t, flags, args); err != nil {
		return "", 0, err
	}
	if force < postgres.NoForce {
		return "", 0, usageError{fmt.Errorf("-force %d is no number of a schema", force)}
	}
	return file, force, nil
}
