package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// A kept is where servers keep everything: a directory of their own, or one database.
type kept struct {
	database *cluster.Cluster // nil: in a directory
	key      string           // of servers on the database
	settings string
}

// eachStore runs a test with both stores.
func eachStore(t *testing.T, test func(t *testing.T, k kept)) {
	t.Helper()
	for _, name := range []string{"directory", "database"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := kept{}
			if name == "database" {
				k = inDatabase(t)
			}
			test(t, k)
		})
	}
}

// inDatabase is a new database, and a key to sign with: servers make themselves none there.
func inDatabase(t *testing.T) kept {
	t.Helper()
	d := newDatabase(t)
	key := filepath.Join(t.TempDir(), "server.key")
	if out, err := command(t.Context(), "keys", "generate", key).CombinedOutput(); err != nil {
		t.Fatalf("keys generate: %v\n%s", err, out)
	}
	return kept{database: d, key: key}.at(d.URL("postgres"))
}

// at is the same key with another database, or with the same one by another way.
func (k kept) at(url string) kept {
	k.settings = fmt.Sprintf("store: {database: '%s'}\nsigning: {keys: {server: {file: %s}}}\n", url, k.key)
	return k
}

// start starts a server that trusts alice and carol, with these settings beside those of its store.
func (k kept) start(t testing.TB, settings string, flags ...string) *server {
	t.Helper()
	return trusting(t, append(k.flags(t, settings), flags...)...)
}

// flags are those of a server on this store.
func (k kept) flags(t testing.TB, settings string) []string {
	t.Helper()
	return []string{"-config", config(t, k.settings+settings)}
}

// backup keeps what a stopped server has, as people do: a copy of its directory, or what pg_dump says
// of its database. What it returns brings that back, and starts a server on it at the same address.
func (k kept) backup(t testing.TB, s *server) (restore func(settings string) *server) {
	t.Helper()
	if k.database == nil {
		copied := filepath.Join(t.TempDir(), "backup")
		copyData(t, s.data, copied)
		return func(settings string) *server {
			t.Helper()
			return startIn(t, copied, append([]string{"-listen", s.address}, k.flags(t, settings)...)...)
		}
	}
	sql, err := k.database.Dump("postgres")
	if err != nil {
		t.Fatal(err)
	}
	return func(settings string) *server {
		t.Helper()
		name, err := k.database.Restore(sql)
		if err != nil {
			t.Fatal(err)
		}
		return s.again(t, k.at(k.database.URL(name)).flags(t, settings)...)
	}
}
