package postgres_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store/postgres"
)

func damagedTo(told *[]string) func(api.Image, string, error) {
	return func(_ api.Image, name string, _ error) { *told = append(*told, name) }
}

func migrateUp(t *testing.T, url string) {
	t.Helper()
	if _, _, err := postgres.Migrate(t.Context(), url, postgres.NoForce, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
}

// A store starts on its own schema and on later ones that allow it; everything else is said in a
// sentence with what to do.
func TestSchemas(t *testing.T) {
	t.Parallel()
	need(t)
	for name, test := range map[string]struct{ template, sql, want string }{
		"ours":                 {template, "", ""},
		"later":                {template, "UPDATE schema_migrations SET version = 2", ""},
		"later, and not ours":  {template, "UPDATE schema_migrations SET version = 3; UPDATE schema_compatibility SET oldest = 2", "later release"},
		"earlier":              {template, "UPDATE schema_migrations SET version = 0", "countersign migrate"},
		"cut":                  {template, "UPDATE schema_migrations SET dirty = true", "was cut"},
		"none":                 {"template1", "", "countersign migrate"},
		"somebody else's":      {"template1", "CREATE TABLE schema_migrations (version bigint, dirty boolean)", "countersign migrate"},
		"without a word on it": {template, "UPDATE schema_migrations SET version = 2; DELETE FROM schema_compatibility", "later release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, url := database(t, test.template)
			if test.sql != "" {
				psql(t, shared, database, test.sql)
			}
			s, err := postgres.Open(t.Context(), options(url))
			if err == nil {
				defer s.Close()
			}
			if (err == nil) != (test.want == "") || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("Open: %v, want %q", err, test.want)
			}
		})
	}
}

// Eight migrations at once bring the schema up once.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	_, url := database(t, "template1")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, to, err := postgres.Migrate(t.Context(), url, postgres.NoForce, slog.New(slog.DiscardHandler)); err != nil || to != 1 {
				t.Errorf("Migrate: schema %d, %v, want 1", to, err)
			}
		})
	}
	all.Wait()
	do(t, open(t, options(url)), adding(image("app"), 1))
}

// A migration that was cut is explained, and repeated by the command that the message names.
func TestDirty(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	do(t, open(t, options(url)), adding(image("app"), 1))
	psql(t, shared, name, "UPDATE schema_migrations SET dirty = true")
	migrate := func(force int) error {
		_, _, err := postgres.Migrate(t.Context(), url, force, slog.New(slog.DiscardHandler))
		return err
	}
	if err := migrate(postgres.NoForce); !strings.Contains(fmt.Sprint(err), "countersign migrate -force 0") {
		t.Fatalf("Migrate of a dirty schema: %v, want what mends it", err)
	}
	if err := migrate(2); err == nil {
		t.Error("Migrate -force 2: no error, want one: there is no such schema")
	}
	if err := migrate(0); err != nil {
		t.Fatalf("Migrate -force 0: %v", err)
	}
	if got := get(t, open(t, options(url)), image("app")); len(got.Signatures) != 1 {
		t.Errorf("after that there are %d signatures, want 1", len(got.Signatures))
	}
}

// No password is ever in an error, also where the URL does not read.
func TestPasswords(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "postgres://u:gehe%im@h/x", "postgres://u:ge:heim@h:port/x", "postgres://u:geheim@h:99999999/x", "host=h password=geheim port=x",
		"host=h password='geheim sslmode=", "postgres://u:geheim@h/x?sslmode=perhaps", "postgres://u:geheim@h/x?sslrootcert=/none",
		"postgres://u:geheim@127.0.0.1:1/x", "mysql://u:geheim@h/x",
	} {
		o := options(url)
		o.Timeout = 1
		s, err := postgres.Open(t.Context(), o)
		if err == nil {
			_, err = s.Do(t.Context(), adding(image("app"), 1))
			defer s.Close()
		}
		if err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "gehe") {
			t.Errorf("%q: %v, want an error without the password", url, err)
		}
	}
}
