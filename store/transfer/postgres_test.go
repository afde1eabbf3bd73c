package transfer_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
	"github.com/countersign-dev/countersign/store/transfer"
)

// database is an empty store in a database of the test's own.
func database(t *testing.T) store.Store {
	t.Helper()
	c, err := cluster.Start("fsync=off", "full_page_writes=off")
	if errors.Is(err, cluster.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := c.Psql("postgres", "CREATE DATABASE moved"); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if _, _, err := postgres.Migrate(context.Background(), c.URL("moved"), postgres.NoForce, log); err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(t.Context(), postgres.Options{URL: c.URL("moved"), Clock: time.Now, Log: log, Timeout: time.Minute, TrailPatience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Into a database and back into a directory, nothing is lost.
func TestTransferThroughDatabase(t *testing.T) {
	t.Parallel()
	from, between, back := open(t), database(t), open(t)
	fill(t, from, 5)
	want := transfer.Sum{Images: 6, Signatures: 12, Withdrawals: 7, Tasks: 2, Records: 10}
	for _, way := range []transfer.Transfer{{From: from, To: between}, {From: from, To: between}, {From: between, To: back}, {From: from, To: back}} {
		if got, err := way.Run(t.Context()); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	}
}
