package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store/transfer"
)

const moveText = `Copy everything from one store into another, an empty one: signatures in their order, withdrawals,
tasks and the audit trail; and compare the two in the end. STORE is a directory, postgres://… or
host=…, or @FILE with that in it; a database's schema must be up (countersign migrate). Stop every
server of both stores first. A move that ended early is run again. What it was moved from is left
as it is.`

func move(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("move", moveText)
	from := flags.String("from", "", "`STORE` to copy")
	to := flags.String("to", "", "`STORE` to fill")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	switch {
	case *from == "" || *to == "":
		return usageError{errors.New("both -from and -to are wanted")}
	case *from == *to:
		return usageError{errors.New("-from and -to are the same")}
	}
	return moveNamed(ctx, t, *from, *to)
}

func moveNamed(ctx context.Context, t terminal, from, to string) (err error) {
	var damaged error
	tell := func(image api.Image, name string, err error) {
		damaged = fmt.Errorf("%s %s: %w\nhint: nothing was lost; countersign fsck -repair drops what does not read, then move", image, name, err)
	}
	source := namedStore(from)
	if !source.remote() {
		if _, err := os.Stat(filepath.Join(from, "signatures.db")); err != nil {
			return fmt.Errorf("%w\nhint: STORE is the directory that has signatures.db, postgres://…, or @FILE", err)
		}
	}
	log := logger(t.stderr, slog.LevelInfo)
	old, err := openUnlimited(ctx, source, log, tell)
	if err != nil {
		return fmt.Errorf("-from: %w", err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	filled, err := openUnlimited(ctx, namedStore(to), log, tell)
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}
	defer func() { err = errors.Join(err, filled.Close()) }()

	p, began := newProgress(t.stderr), time.Now()
	sum, err := (&transfer.Transfer{From: old, To: filled, Progress: func(s transfer.Sum) {
		p.show(func() string { return moved(s) })
	}}).Run(ctx)
	p.clear()
	if err = errors.Join(err, damaged); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "%s: moved and compared, in %v\n", moved(sum), time.Since(began).Round(100*time.Millisecond))
	return err
}

func moved(s transfer.Sum) string {
	return fmt.Sprintf("%s signatures and %s withdrawals of %s images, %s tasks, %s records",
		count(s.Signatures), count(s.Withdrawals), count(s.Images), count(s.Tasks), count(s.Records))
}

// words is the other form of a database's URL: host=… dbname=….
var words = regexp.MustCompile(`^(host|hostaddr|dbname|user|service)=`)

// namedStore reads STORE of a command line.
func namedStore(name string) storeAt {
	at := defaultStore()
	switch file, isFile := strings.CutPrefix(name, "@"); {
	case isFile:
		at.DatabaseFile = file
	case strings.HasPrefix(name, "postgres://"), strings.HasPrefix(name, "postgresql://"), words.MatchString(name):
		at.Database = name
	default:
		at.Directory = name
	}
	return at
}

// openUnlimited opens a store to copy: what was kept is kept, whatever the limits are now, and
// nothing that may be old is answered.
func openUnlimited(ctx context.Context, at storeAt, log *slog.Logger, damaged func(api.Image, string, error)) (keptStore, error) {
	at.Stale, at.Timeout, at.settle = 0, time.Minute, true
	s := settings{Store: at}
	return s.openStore(ctx, log, nil, damaged)
}
