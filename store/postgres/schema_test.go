package postgres_test

import (
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/migrations"
	"github.com/countersign-dev/countersign/store"
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
		"later":                {template, "UPDATE schema_migrations SET version = 3", ""},
		"later, and not ours":  {template, "UPDATE schema_migrations SET version = 4; UPDATE schema_compatibility SET oldest = 3", "later release"},
		"earlier":              {template, "UPDATE schema_migrations SET version = 1", "countersign migrate"},
		"cut":                  {template, "UPDATE schema_migrations SET dirty = true", "was cut"},
		"none":                 {"template1", "", "countersign migrate"},
		"somebody else's":      {"template1", "CREATE TABLE schema_migrations (version bigint, dirty boolean)", "countersign migrate"},
		"without a word on it": {template, "UPDATE schema_migrations SET version = 3; DELETE FROM schema_compatibility", "later release"},
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
			if _, to, err := postgres.Migrate(t.Context(), url, postgres.NoForce, slog.New(slog.DiscardHandler)); err != nil || to != 2 {
				t.Errorf("Migrate: schema %d, %v, want 2", to, err)
			}
		})
	}
	all.Wait()
	do(t, open(t, options(url)), adding(image("app"), 1))
}

// What was there before images had numbers is there afterwards, in the same places, and goes on growing. What is
// there now is on the way back, too.
func TestImageNumbers(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	s := open(t, options(url))
	images := []api.Image{image("app"), image("b/app"), image("app/c")}
	for n, i := range images {
		for _, k := range []int{n, n + 10, n + 20} {
			do(t, s, adding(i, k))
		}
	}
	do(t, s, store.Change{Image: images[1], Drop: []string{signature(images[1], 1).Name}})
	lines := func() string {
		t.Helper()
		all := ""
		for _, key := range []string{"", signature(images[0], 0).Fingerprint} {
			page, _, err := open(t, options(url)).List(t.Context(), store.Filter{Kind: store.Signatures, Key: key}, "", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				all += fmt.Sprintln(key, e.Image, e.Index, e.Signature.Name)
			}
		}
		return all
	}
	want := lines()
	down, err := fs.ReadFile(migrations.Files(), "000002_image_numbers.down.sql")
	if err != nil {
		t.Fatal(err)
	}
	psql(t, shared, name, string(down)+"UPDATE schema_migrations SET version = 1")
	migrateUp(t, url)
	if got := lines(); got != want || strings.Count(want, "\n") < 9 {
		t.Errorf("after schema 1 there is\n%swant\n%s", got, want)
	}
	s = open(t, options(url))
	for n, i := range images {
		want := 4
		if n == 1 {
			want = 3
		}
		do(t, s, adding(i, 30))
		if got := get(t, s, i); len(got.Signatures) != want || got.Signatures[want-1].Name != signature(i, 30).Name {
			t.Errorf("%s has %d signatures, want %d and the last one at the end", i, len(got.Signatures), want)
		}
	}
	do(t, s, adding(image("new"), 1))
	if n := psql(t, shared, name, "SELECT count(DISTINCT number), count(*) FROM images i WHERE EXISTS (SELECT FROM signatures s WHERE s.image = i.number AND (s.host, s.repository, s.digest) = (i.host, i.repository, i.digest))"); n != "4|4" {
		t.Errorf("images with numbers of their own, and images: %s, want 4|4", n)
	}
}

// A migration that fails says why, and not all that it is.
func TestMigrateFails(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	do(t, open(t, options(url)), adding(image("app"), 1))
	down, err := fs.ReadFile(migrations.Files(), "000002_image_numbers.down.sql")
	if err != nil {
		t.Fatal(err)
	}
	psql(t, shared, name, string(down)+"UPDATE schema_migrations SET version = 1; DELETE FROM images")
	_, _, err = postgres.Migrate(t.Context(), url, postgres.NoForce, slog.New(slog.DiscardHandler))
	if said := fmt.Sprint(err); !strings.Contains(said, `column "image"`) || strings.Contains(said, "LOCK TABLE") {
		t.Errorf("Migrate of a signature whose image is gone: %s, want what is wrong with it", said)
	}
}

// A number that another process has drawn for another image is drawn anew, and that is no outage.
func TestDrawnTwice(t *testing.T) {
	t.Parallel()
	name, url := database(t, template)
	psql(t, shared, name, `CREATE SEQUENCE attempts; CREATE FUNCTION collides() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('attempts') = 1 THEN RAISE unique_violation USING CONSTRAINT = 'images_number'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER collides BEFORE INSERT ON images FOR EACH ROW EXECUTE FUNCTION collides()`)
	// That the index has this name is the other half.
	if _, err := shared.Psql(name, `INSERT INTO images SELECT 'h', n::text, 'd', 1, 1, n, 7 FROM generate_series(1, 3) n`); !strings.Contains(fmt.Sprint(err), "collides") && !strings.Contains(fmt.Sprint(err), "images_number") {
		t.Fatalf("the trigger: %v", err)
	}
	if _, err := shared.Psql(name, `INSERT INTO images SELECT 'h', n::text, 'd', 1, 1, n, 7 FROM generate_series(1, 3) n`); !strings.Contains(fmt.Sprint(err), `"images_number"`) {
		t.Fatalf("the same number twice: %v, want images_number to refuse it", err)
	}
	psql(t, shared, name, "ALTER SEQUENCE attempts RESTART")
	var log strings.Builder
	o := options(url)
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	do(t, s, adding(image("app"), 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if attempts := psql(t, shared, name, "SELECT last_value FROM attempts"); attempts != "2" || strings.Contains(log.String(), "away") {
		t.Errorf("%s attempts, want 2, and the log has %q, want no outage", attempts, &log)
	}
}

// Connections of our own do not compile queries.
func TestNoCompiler(t *testing.T) {
	t.Parallel()
	_, url := database(t, template)
	s, err := postgres.Open(t.Context(), options(url))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Connect(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	n, err := s.OnEach(t.Context(), `DO $$ BEGIN IF current_setting('jit') <> 'off' THEN RAISE 'jit is %', current_setting('jit'); END IF; END $$`)
	if err != nil || n < 1 {
		t.Errorf("of %d connections: %v", n, err)
	}
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
	if err := migrate(postgres.NoForce); !strings.Contains(fmt.Sprint(err), "countersign migrate -force 1") {
		t.Fatalf("Migrate of a dirty schema: %v, want what mends it", err)
	}
	if err := migrate(3); err == nil {
		t.Error("Migrate -force 3: no error, want one: there is no such schema")
	}
	if err := migrate(1); err != nil {
		t.Fatalf("Migrate -force 1: %v", err)
	}
	psql(t, shared, name, "UPDATE schema_migrations SET version = 1, dirty = true")
	if err := migrate(postgres.NoForce); !strings.Contains(fmt.Sprint(err), "countersign migrate -force 0") {
		t.Fatalf("Migrate of the first schema, dirty: %v, want what mends it", err)
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
