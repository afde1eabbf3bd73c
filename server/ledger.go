package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// maxLine bounds a line of a ledger, in bytes: an image's withdrawals.
const maxLine = 16 << 20

// lastPatience bounds what Last may add to the end of a server. A store may wait for half of it before it shows what it can.
const lastPatience = 10 * time.Second

// A LedgerConfig is what a Ledger needs. All fields are required.
type LedgerConfig struct {
	File    string
	Store   store.Store
	Clock   func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// A Ledger keeps withdrawals outside of the store, in a file that only grows: a store that was
// brought back from a backup has forgotten what was withdrawn since, and nodes would accept it
// again. Each line is what one image has withdrawn and had lifted; its last line counts.
type Ledger struct {
	c        LedgerConfig
	file     *os.File
	entries  map[api.Image]ledgerEntry
	after    store.Cursor // records up to here are in the file
	restored prometheus.Counter
	current  prometheus.Gauge
}

type ledgerEntry struct {
	Image     api.Image          `json:"image"`
	Withdrawn []store.Withdrawal `json:"withdrawn"`
	Lifted    []string           `json:"lifted,omitempty"` // IDs
	Cursor    store.Cursor       `json:"cursor"`
}

// OpenLedger reads the file, which is made if it is not there, and gives the store what it lacks
// of it; what the file lacks of the store it gets. It returns when both agree.
func OpenLedger(ctx context.Context, c LedgerConfig) (*Ledger, error) {
	l := &Ledger{c: c, entries: map[api.Image]ledgerEntry{},
		restored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countersign_withdrawals_restored_total", Help: "Withdrawals and lifts that the store lacked and the withdrawals file had.",
		}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countersign_withdrawals_file_current", Help: "1 while the withdrawals file has all that was withdrawn; 0 while it cannot be written, or the store does not say what is to be written.",
		}),
	}
	if err := errors.Join(c.Metrics.Register(l.restored), c.Metrics.Register(l.current)); err != nil {
		return nil, err
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("withdrawals: %w", err)
	}
	if err := l.agreeAtLast(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("withdrawals: %s: %w", c.File, err), l.file.Close())
	}
	l.current.Set(1)
	return l, nil
}

// Close gives the file up.
func (l *Ledger) Close() error { return l.file.Close() }

// open reads the file. What stands behind its last end of line was not finished when the machine
// went down, and is cut off: the records have it still.
func (l *Ledger) open() error {
	f, err := os.OpenFile(l.c.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.file = f
	err = l.read()
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", l.c.File, err), f.Close())
	}
	return nil
}

func (l *Ledger) read() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others may write it: what is in it, nodes will refuse\nhint: chmod 600 %s", l.c.File)
	}
	whole := int64(0)
	lines := bufio.NewReaderSize(l.file, 64<<10)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				l.c.Log.Warn("the withdrawals file ends in the middle of a line, which is cut off", "file", l.c.File)
			}
			break
		}
		if err != nil {
			return err
		}
		var e ledgerEntry
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		err = d.Decode(&e)
		if _, more := d.Token(); err == nil && (more != io.EOF || e.Image.Repository == "" || len(line) > maxLine) {
			err = errors.New("it is no line of a withdrawals file")
		}
		if err != nil {
			return fmt.Errorf("line %d does not read: %w\nhint: bring the file back from a backup, or take it away: what it says of the past is lost then", n, err)
		}
		l.entries[e.Image], l.after = e, e.Cursor
		whole += int64(len(line))
	}
	if err := l.file.Truncate(whole); err != nil {
		return err
	}
	_, err = l.file.Seek(whole, io.SeekStart)
	return err
}

// agree brings file and store together. First the records behind the file's cursor: what they lift
// was lifted, while what is missing otherwise has been lost.
func (l *Ledger) agree(ctx context.Context) error {
	err := l.catchUp(ctx)
	if errors.Is(err, store.ErrCursor) {
		if err = l.skip(ctx); err != nil {
			return err // the next one finds so again, and skips all of it
		}
		l.c.Log.Warn("the audit trail does not go on where the withdrawals file ends, as after a backup was restored", "file", l.c.File)
	}
	if err != nil && !errors.Is(err, store.ErrHeld) {
		return err
	}
	for image := range l.entries {
		if err := l.restore(ctx, image, err); err != nil {
			return err
		}
	}
	if err := l.catchUp(ctx); err != nil && !errors.Is(err, store.ErrHeld) {
		return err
	}
	return l.adopt(ctx)
}

// agreeAtLast waits for the end of the trail where that has to say what was lifted and what has been lost.
func (l *Ledger) agreeAtLast(ctx context.Context) error {
	for waited := false; ; waited = true {
		err := l.agree(ctx)
		if !errors.Is(err, store.ErrHeld) {
			return err
		}
		if !waited {
			l.c.Log.Warn("only the end of the audit trail tells what was lifted from what the store has lost of the withdrawals file: nothing is served before", "file", l.c.File, "error", err)
		}
	}
}

// restore gives the store what it lacks of one image, unless the end of the trail is held: that may say why.
func (l *Ledger) restore(ctx context.Context, image api.Image, held error) error {
	set, err := l.get(ctx, image)
	if err != nil {
		return err
	}
	lifted := l.entries[image].Lifted
	extra := slices.DeleteFunc(slices.Clone(set.Withdrawn), func(wd store.Withdrawal) bool { return !slices.Contains(lifted, wd.ID) })
	missing := l.missing(image, set)
	if len(missing) > 0 && held == nil { // what was lifted since the trail was read is in it now
		held = l.catchUp(ctx)
		missing = slices.DeleteFunc(missing, func(wd store.Withdrawal) bool { return !hasID(l.entries[image].Withdrawn, wd.ID) })
	}
	record := store.Record{Time: l.c.Clock(), Subject: "countersign", Image: image, Reason: "the store lacked it and the withdrawals file has it"}
	for _, change := range []store.Change{{Withdraw: missing}, {Lift: extra}} {
		n := len(change.Withdraw) + len(change.Lift)
		if n == 0 {
			continue
		}
		if held != nil {
			return fmt.Errorf("%s: %w", image, held)
		}
		change.Image, change.Record = image, record
		change.Record.Action = store.Withdrawn
		if len(change.Lift) > 0 {
			change.Record.Action, change.Record.Names = store.Lifted, ids(change.Lift)
		}
		if _, err := l.c.Store.Do(ctx, change); err != nil {
			return err
		}
		l.restored.Add(float64(n))
		l.c.Log.Warn("the store lacked what the withdrawals file has; it is applied again", "image", image.String(), "action", change.Record.Action, "count", n)
	}
	return nil
}

// missing is what an image has withdrawn by the file, and not by this set.
func (l *Ledger) missing(image api.Image, set store.Set) []store.Withdrawal {
	return slices.DeleteFunc(slices.Clone(l.entries[image].Withdrawn), func(wd store.Withdrawal) bool { return hasID(set.Withdrawn, wd.ID) })
}

// get is what an image has now. What it had when the store was last there is not to be written down.
func (l *Ledger) get(ctx context.Context, image api.Image) (store.Set, error) {
	set, err := l.c.Store.Get(ctx, image)
	if err == nil && !set.AsOf.IsZero() {
		err = fmt.Errorf("%w: what is known of %s is of %s", store.ErrUnavailable, image, set.AsOf.UTC().Format(time.RFC3339))
	}
	return set, err
}

func ids(withdrawn []store.Withdrawal) (all []string) {
	for _, wd := range withdrawn {
		all = append(all, wd.ID)
	}
	return all
}

func hasID(withdrawn []store.Withdrawal, id string) bool {
	return slices.ContainsFunc(withdrawn, func(wd store.Withdrawal) bool { return wd.ID == id })
}

// skip goes to the end of a trail that the file is not of, or nowhere: what is lifted there was lifted before.
func (l *Ledger) skip(ctx context.Context) error {
	for after := store.Cursor(""); ; {
		records, next, err := l.c.Store.Records(ctx, after, 1000)
		if err != nil {
			return err
		}
		if after = next; len(records) == 0 {
			l.after = after
			return nil
		}
	}
}

// adopt writes down what the store has withdrawn and the file does not know.
func (l *Ledger) adopt(ctx context.Context) error {
	for after := store.Cursor(""); ; {
		entries, next, err := l.c.Store.List(ctx, store.Filter{Kind: store.Withdrawals}, after, 1000)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if hasID(l.entries[e.Image].Withdrawn, e.Withdrawal.ID) {
				continue
			}
			if err := l.observe(ctx, e.Image, store.Record{}); err != nil {
				return err
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}

// Follow writes down what is withdrawn and lifted from now on, until ctx ends. While the file or
// the store cannot be reached it says so once, and goes on trying.
func (l *Ledger) Follow(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	failing := false
	for {
		err := l.catchUp(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			l.c.Log.Error("the withdrawals file does not follow", "file", l.c.File, "error", err)
		case err == nil && failing:
			l.c.Log.Info("the withdrawals file follows again", "file", l.c.File)
		}
		failing = err != nil
		l.current.Set(map[bool]float64{true: 0, false: 1}[failing])
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Last writes down what Follow had no time for, when it has returned and nobody can be answered any more.
func (l *Ledger) Last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	if err := l.catchUp(ctx); err != nil {
		l.c.Log.Error("the withdrawals file may lack what was withdrawn last: the next start writes that down, if the store is still the same then",
			"file", l.c.File, "error", err)
	}
}

// catchUp writes down what is recorded behind the cursor.
func (l *Ledger) catchUp(ctx context.Context) error {
	for {
		records, next, err := l.c.Store.Records(ctx, l.after, 1000)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.Action != store.Withdrawn && r.Action != store.Lifted {
				continue
			}
			if err := l.observe(ctx, r.Image, r); err != nil {
				return err
			}
		}
		l.after = next
		if len(records) == 0 {
			return nil
		}
	}
}

// observe writes down what an image has withdrawn now. What is not there any more was lifted, if
// the record says so; if not, it has been lost, and stays in the file.
func (l *Ledger) observe(ctx context.Context, image api.Image, r store.Record) error {
	set, err := l.get(ctx, image)
	if err != nil {
		return err
	}
	old := l.entries[image]
	e := ledgerEntry{Image: image, Withdrawn: set.Withdrawn, Lifted: slices.Clone(old.Lifted), Cursor: l.after}
	for _, wd := range old.Withdrawn {
		switch {
		case hasID(set.Withdrawn, wd.ID):
		case lifts(r, wd.ID):
			e.Lifted = append(e.Lifted, wd.ID)
		default:
			e.Withdrawn = append(e.Withdrawn, wd)
		}
	}
	if err := l.append(e); err != nil {
		return err
	}
	l.entries[image] = e
	return nil
}

// lifts says whether a record is of the lift of this withdrawal. Those of earlier versions do not say of which it was.
func lifts(r store.Record, id string) bool {
	return r.Action == store.Lifted && (len(r.Names) == 0 || slices.Contains(r.Names, id))
}

// append writes a line durably. One that is written in half is cut off again, so that the next
// does not stand behind it.
func (l *Ledger) append(e ledgerEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	at, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err = l.file.Write(append(line, '\n')); err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return errors.Join(err, l.file.Truncate(at))
	}
	if _, err := os.Stat(l.c.File); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was taken away while it is written\nhint: start the server again", l.c.File)
	}
	return nil
}
