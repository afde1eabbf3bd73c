package postgres_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
)

// What could not be kept leaves nothing behind that is taken for it after a restart, and is kept when that works again.
func TestKeptFails(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	clock := &testClock{t: time.Now().UTC().Truncate(time.Second)}
	o := options(url)
	o.Clock, o.Stale, o.Keep = clock.now, time.Hour, t.TempDir()
	away := o
	away.URL = "host=" + t.TempDir() + " user=postgres"
	restarted := func() (store.Set, error) {
		t.Helper()
		s := open(t, away)
		defer s.Close()
		return s.Get(t.Context(), image("app"))
	}
	closed := func(s *postgres.Store) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, o)
	do(t, s, adding(image("app"), 1))
	closed(s)
	if set, err := restarted(); err != nil || len(set.Signatures) != 1 {
		t.Fatalf("kept are %d signatures, %v, want 1", len(set.Signatures), err)
	}
	s = open(t, o)
	get(t, s, image("app"))
	kept, err := filepath.Glob(filepath.Join(o.Keep, "*.json"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept are %q, %v, want one file", kept, err)
	}
	fresh := strings.TrimSuffix(kept[0], ".json") + ".new" // where a file is written first: nothing is, while this is a directory
	if err := os.Mkdir(fresh, 0o700); err != nil {
		t.Fatal(err)
	}
	do(t, s, store.Change{Image: image("app"), Withdraw: []store.Withdrawal{{ID: "w", Scope: store.ScopeImage, Reason: "lost"}}})
	clock.advance(2 * time.Minute)
	get(t, s, image("app"))
	closed(s)
	if set, err := restarted(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("what could not be kept: %d signatures as of %v, %v, want %v: they were withdrawn at %v",
			len(set.Signatures), set.AsOf, err, store.ErrUnavailable, clock.now().Add(-2*time.Minute))
	}
	if err := os.RemoveAll(fresh); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	get(t, s, image("app"))
	closed(s)
	if set, err := restarted(); err != nil || len(set.Withdrawn) != 1 || !set.AsOf.Equal(clock.now()) {
		t.Errorf("when that works again: %d withdrawals as of %v, %v, want 1 as of %v", len(set.Withdrawn), set.AsOf, err, clock.now())
	}
	clock.advance(-2 * time.Minute)
	if set, err := restarted(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("by a clock that was set back: what is kept as of %v is served at %v, %v, want %v", set.AsOf, clock.now(), err, store.ErrUnavailable)
	}
	clock.advance(2 * time.Minute)
	if set, err := restarted(); err != nil || len(set.Withdrawn) != 1 {
		t.Errorf("when the clock is right again: %d withdrawals, %v, want 1", len(set.Withdrawn), err)
	}
}

// Where more wait to be kept than there is room for, what is kept still becomes what the memory has.
func TestKeptMany(t *testing.T) {
	t.Parallel()
	began, hangs, goOn := time.Now(), make(chan struct{}), make(chan struct{})
	rows := map[api.Image]*postgres.Row{} // read by who keeps them, and not while that hangs
	for _, repository := range []string{"first", "changed", "gone"} {
		rows[image(repository)] = postgres.NewRow(image(repository), "before", began)
	}
	directory := t.TempDir()
	k, err := postgres.OpenKeep(directory, slog.New(slog.NewTextHandler(t.Output(), nil)), func(i api.Image) (*postgres.Row, bool) {
		if i == image("hangs") {
			close(hangs)
			<-goOn
		}
		row, ok := rows[i]
		return row, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		k.Later(i)
	}
	eventually(t, "three are kept", func() bool {
		files, err := filepath.Glob(filepath.Join(directory, "*.json"))
		return err == nil && len(files) == len(rows)
	})
	k.Later(image("hangs"))
	<-hangs
	rows[image("changed")] = postgres.NewRow(image("changed"), "after", began)
	delete(rows, image("gone"))
	k.Later(image("changed"))
	k.Later(image("gone"))
	for n := range 2 * postgres.MaxQueued {
		k.Later(image(fmt.Sprint("app", n)))
	}
	close(goOn)
	k.Close()
	kept := map[string]string{}
	k.Load(began, time.Hour, func(r *postgres.Row) {
		repository, state := r.State()
		kept[repository] = state
	})
	if want := map[string]string{"first": "before", "changed": "after"}; !maps.Equal(kept, want) {
		t.Errorf("kept are images in the states %v, want %v", kept, want)
	}
}
