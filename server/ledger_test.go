package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// A ledgerTest is a file, and stores that come and go beside it.
type ledgerTest struct {
	*testing.T
	file string
}

func (l ledgerTest) store() store.Store {
	l.Helper()
	s, err := disk.Open(l.TempDir(), disk.Options{Clock: time.Now})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = s.Close() })
	return s
}

func (l ledgerTest) try(ctx context.Context, s store.Store) (*Ledger, error) {
	return OpenLedger(ctx, LedgerConfig{File: l.file, Store: s, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
}

func (l ledgerTest) open(s store.Store) *Ledger {
	l.Helper()
	ledger, err := l.try(l.Context(), s)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = ledger.Close() })
	return ledger
}

func (l ledgerTest) image() api.Image {
	return api.Image{Host: "registry.example", Repository: "app", Digest: digest.FromString("x")}
}

func (l ledgerTest) do(s store.Store, c store.Change) {
	l.Helper()
	c.Image = l.image()
	c.Record = store.Record{Action: store.Lifted, Subject: "zoe"}
	if len(c.Withdraw) > 0 {
		c.Record.Action = store.Withdrawn
	}
	if _, err := s.Do(l.Context(), c); err != nil {
		l.Fatal(err)
	}
}

func tombstone(id string) []store.Withdrawal {
	return []store.Withdrawal{{ID: id, Scope: store.ScopeKey, Key: "K" + id, Identity: "identity", Reason: "lost", Subject: "zoe", Time: time.Unix(1, 0).UTC()}}
}

// wants asserts what is withdrawn, by ID.
func (l ledgerTest) wants(s store.Store, step string, ids ...string) {
	l.Helper()
	set, err := s.Get(l.Context(), l.image())
	if err != nil {
		l.Fatal(err)
	}
	var got []string
	for _, wd := range set.Withdrawn {
		got = append(got, wd.ID)
	}
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		l.Errorf("%s: %q is withdrawn, want %q", step, got, ids)
	}
}

// caughtUp has the ledger write down what was recorded, as Follow does each second.
func (l ledgerTest) caughtUp(ledger *Ledger) {
	l.Helper()
	if err := ledger.catchUp(l.Context()); err != nil {
		l.Fatal(err)
	}
}

func newLedgerTest(t *testing.T) ledgerTest {
	return ledgerTest{t, filepath.Join(t.TempDir(), "withdrawals")}
}

// A store that was brought back from before a withdrawal gets it again, whole; one from before a
// lift has it lifted again.
func TestLedgerRestores(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	first := l.store()
	l.do(first, store.Change{Withdraw: tombstone("old")}) // before there was a file
	ledger := l.open(first)
	l.do(first, store.Change{Withdraw: tombstone("kept")})
	l.do(first, store.Change{Withdraw: tombstone("lifted")})
	l.caughtUp(ledger)
	l.do(first, store.Change{Lift: tombstone("lifted")})
	l.caughtUp(ledger)

	empty := l.store()
	l.open(empty)
	l.wants(empty, "a store that has nothing", "kept", "old")
	set, err := empty.Get(t.Context(), l.image())
	if err != nil || len(set.Withdrawn) != 2 || set.Withdrawn[1] != tombstone("kept")[0] {
		t.Errorf("it came back as %+v, %v, want %+v", set.Withdrawn, err, tombstone("kept")[0])
	}
	records, _, err := empty.Records(t.Context(), "", 10)
	if err != nil || len(records) != 1 || records[0].Action != store.Withdrawn || !strings.Contains(records[0].Reason, "withdrawals file") {
		t.Errorf("the trail has %+v, %v", records, err)
	}

	before := l.store()
	l.do(before, store.Change{Withdraw: tombstone("lifted")})
	l.open(before)
	l.wants(before, "a store from before a lift", "kept", "old")
}

// What was lifted while nobody wrote it down is not withdrawn again where the trail goes on.
func TestLedgerCatchesUp(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s := l.store()
	l.do(s, store.Change{Withdraw: tombstone("a")})
	ledger := l.open(s)
	l.do(s, store.Change{Withdraw: tombstone("b")})
	l.caughtUp(ledger)
	if err := ledger.Close(); err != nil {
		t.Fatal(err)
	}
	l.do(s, store.Change{Lift: tombstone("b")})
	l.do(s, store.Change{Withdraw: tombstone("c")})
	l.open(s)
	l.wants(s, "started again", "a", "c")
	other := l.store()
	l.open(other)
	l.wants(other, "another store", "a", "c")
}

// What was withdrawn when nobody followed any more is written down at the end.
func TestLedgerLast(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s := l.store()
	ledger := l.open(s)
	l.do(s, store.Change{Withdraw: tombstone("last")})
	ledger.Last(t.Context())
	other := l.store()
	l.open(other)
	l.wants(other, "another store, of the file alone", "last")
}

// A holding shows no record, as while transactions that began before are open, and says when it was asked for one, until
// it is free.
type holding struct {
	store.Store
	asked, free chan struct{}
}

func (h holding) Records(ctx context.Context, after store.Cursor, limit int) ([]store.Record, store.Cursor, error) {
	records, next, err := h.Store.Records(ctx, after, limit)
	if err != nil || len(records) == 0 {
		return nil, next, err
	}
	select {
	case <-h.free:
		return records, next, nil
	case h.asked <- struct{}{}:
		return nil, after, store.ErrHeld
	case <-ctx.Done():
		return nil, "", store.ErrUnavailable
	}
}

// opening opens a ledger on a trail that is held, and returns when it has asked for that three times.
func (l ledgerTest) opening(ctx context.Context, h holding) (opened chan error) {
	l.Helper()
	opened = make(chan error)
	go func() {
		_, err := l.try(ctx, h)
		opened <- err
	}()
	for range 3 {
		select {
		case <-h.asked:
		case err := <-opened:
			l.Fatalf("the ledger opened while the end of the trail was held: %v", err)
		}
	}
	return opened
}

// Whether what the store lacks was lifted only the end of the trail tells: until it is there nothing is withdrawn again.
func TestLedgerHeld(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s := l.store()
	ledger := l.open(s)
	l.do(s, store.Change{Withdraw: tombstone("a")})
	l.caughtUp(ledger)
	l.open(holding{s, make(chan struct{}, 2), nil}) // it lacks nothing, so nothing has to be known
	l.do(s, store.Change{Lift: tombstone("a")})

	ctx, cancel := context.WithCancel(t.Context())
	opened := l.opening(ctx, holding{s, make(chan struct{}), nil})
	l.wants(s, "lifted, with the end of the trail held")
	cancel()
	if err := <-opened; err == nil {
		t.Error("opening a ledger outlasted its context")
	}
	l.open(s)
	l.wants(s, "lifted, with the end of the trail there")
}

// A trail that is held and not the one that the file follows is passed by as a whole, however often it is begun: what was
// lifted in it was lifted before, and says nothing of what the store has lost.
func TestLedgerHeldRestored(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s, restored := l.store(), l.store()
	for _, each := range []store.Store{s, s, restored} { // the first has the longer trail
		l.do(each, store.Change{Withdraw: tombstone("lifted")})
		l.do(each, store.Change{Lift: tombstone("lifted")})
	}
	ledger := l.open(s)
	l.do(s, store.Change{Withdraw: tombstone("lost")})
	l.caughtUp(ledger)
	held := holding{restored, make(chan struct{}), make(chan struct{})}
	opened := l.opening(t.Context(), held)
	close(held.free)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	l.wants(restored, "a store that was restored, with its trail held for a while", "lost")
}

// A lift of something else, while a ledger opens, is no reason not to restore what was lost.
func TestLedgerLiftsByID(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		l := newLedgerTest(t)
		s, restored := l.store(), l.store()
		l.do(s, store.Change{Withdraw: tombstone("kept")})
		l.do(s, store.Change{Withdraw: tombstone("lost")})
		l.open(s)
		l.do(restored, store.Change{Withdraw: tombstone("kept")})
		l.open(&meanwhile{restored, n, true, func() {
			lift := store.Change{Image: l.image(), Lift: tombstone("kept"), Record: store.Record{Action: store.Lifted, Names: []string{"kept"}}}
			if _, err := restored.Do(t.Context(), lift); err != nil {
				t.Error(err)
			}
		}})
		want := []string{"lost"}
		if set, _ := restored.Get(t.Context(), l.image()); hasID(set.Withdrawn, "kept") { // that look never came
			want = []string{"kept", "lost"}
		}
		l.wants(restored, fmt.Sprintf("another one lifted at look %d", n), want...)
	}
}

// A meanwhile does something once, before or after it is asked for the nth time what an image has.
type meanwhile struct {
	store.Store
	n     int // from 0
	first bool
	do    func()
}

func (m *meanwhile) Get(ctx context.Context, image api.Image) (store.Set, error) {
	n := m.n
	m.n--
	if n == 0 && m.first {
		m.do()
	}
	set, err := m.Store.Get(ctx, image)
	if n == 0 && !m.first {
		m.do()
	}
	return set, err
}

// What another server lifts while a ledger opens is lifted, now and at the next start.
func TestLedgerLiftedMeanwhile(t *testing.T) {
	t.Parallel()
	for n := range 6 {
		for _, first := range []bool{true, false} {
			l := newLedgerTest(t)
			s := l.store()
			l.do(s, store.Change{Withdraw: tombstone("a")})
			l.open(s)
			m := &meanwhile{s, n, first, func() { l.do(s, store.Change{Lift: tombstone("a")}) }}
			ledger := l.open(m)
			if m.n >= 0 {
				if n < 2 {
					t.Fatalf("the ledger opened with %d looks at the image, want some", n-m.n)
				}
				continue
			}
			step := fmt.Sprintf("lifted at look %d, before it: %t", n, first)
			l.wants(s, step)
			l.do(s, store.Change{Withdraw: tombstone("b")})
			l.caughtUp(ledger)
			l.open(s)
			l.wants(s, step+", started again", "b")
		}
	}
}

// What was known of an image when the store was last there is not written down as what it has.
func TestLedgerOldAnswer(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s := l.store()
	ledger := l.open(s)
	ledger.c.Store = old{s}
	l.do(s, store.Change{Withdraw: tombstone("a")})
	if err := ledger.catchUp(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("with a store that says what was: %v, want %v", err, store.ErrUnavailable)
	}
	ledger.c.Store = s
	l.caughtUp(ledger)
	other := l.store()
	l.open(other)
	l.wants(other, "another store, when the first was there again", "a")
}

// An old is a store that is away, of which is known that it was empty.
type old struct{ store.Store }

func (old) Get(context.Context, api.Image) (store.Set, error) {
	return store.Set{AsOf: time.Unix(1, 0)}, nil
}

// A crash in the middle of a line loses nothing; a damaged file stops the start.
func TestLedgerFile(t *testing.T) {
	t.Parallel()
	l := newLedgerTest(t)
	s := l.store()
	l.do(s, store.Change{Withdraw: tombstone("a")})
	l.open(s)
	whole, err := os.ReadFile(l.file)
	if err != nil || !strings.HasSuffix(string(whole), "\n") {
		t.Fatalf("the file is %q, %v", whole, err)
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(l.file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
		write(string(whole) + string(whole[:cut]))
		l.open(s)
		other := l.store()
		l.open(other)
		l.wants(other, fmt.Sprint("cut behind byte ", cut), "a")
	}
	for _, bad := range []string{"{}x\n", "[]\n", string(whole) + `{"imgae":{}}` + "\n"} {
		write(bad)
		if _, err := l.try(t.Context(), s); err == nil || !strings.Contains(err.Error(), "line ") || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%q: got %v, want an error that names the line and a remedy", bad, err)
		}
	}
	write(string(whole))
	if err := os.Chmod(l.file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := l.try(t.Context(), s); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a file that everybody may write: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	(&Ledger{c: LedgerConfig{Store: s, Log: slog.New(slog.DiscardHandler)}, current: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"})}).Follow(ctx) // ends
}
