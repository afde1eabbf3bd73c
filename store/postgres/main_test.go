package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/postgres"
	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// shared is the cluster that the tests clone their databases in; nil: there is no PostgreSQL.
var shared *cluster.Cluster

// template is the database with our schema that they are clones of.
const template = "migrated"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	shared, err = cluster.Start("max_connections=1000", "fsync=off", "full_page_writes=off")
	if errors.Is(err, cluster.ErrMissing) && os.Getenv("CI") != "true" {
		return m.Run() // each test says that it is skipped
	}
	if err == nil {
		defer func() {
			if err := shared.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
		_, err = shared.Psql("postgres", "CREATE DATABASE "+template)
	}
	if err == nil {
		_, _, err = postgres.Migrate(context.Background(), shared.URL(template), postgres.NoForce, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func need(t *testing.T) {
	t.Helper()
	if shared == nil {
		t.Skip("SKIPPED: " + cluster.ErrMissing.Error())
	}
}

// database makes a database of the test's own and returns its name and connection string.
func database(t *testing.T, from string) (name, url string) {
	t.Helper()
	need(t)
	name, err := shared.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Drop(name); err != nil {
			t.Error(err)
		}
	})
	return name, shared.URL(name)
}

// options wait long: machines are noisy.
func options(url string) postgres.Options {
	return postgres.Options{
		URL: url, Limits: store.DefaultLimits(), Clock: time.Now, Log: slog.New(slog.DiscardHandler),
		Timeout: time.Minute, TrailPatience: time.Minute,
	}
}

func open(t *testing.T, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), o)
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
