package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/countersign-dev/countersign"

// mayKnow says which of our packages each of them may import. A new package has no row, and so
// fails until somebody has decided.
var mayKnow = map[string][]string{
	"store/postgres/cluster": {}, // tests start it

	"api":                {},
	"signature":          {},
	"signature/signer":   {"signature"},
	"lookaside":          {"signature", "api"},
	"node":               {"policy", "signature"},
	"node/lint":          {"policy", "signature"},
	"policy":             {"signature", "api"},
	"store":              {"api"},
	"store/disk":         {"store", "api"},
	"store/transfer":     {"store", "api"},
	"server/retention":   {"server/registry", "store", "api"},
	"store/storetest":    {"store", "api"},
	"store/postgres":     {"migrations", "store", "api"},
	"migrations":         {},
	"server/access":      {"server/bearer", "api"},
	"server/admission":   {"policy", "signature", "store", "api"},
	"server/bearer":      {},
	"server/registry":    {"server/bearer", "api"},
	"server/signing":     {"server/admission", "server/registry", "policy", "signature", "store", "api"},
	"server/calendar":    {"signature", "store", "api"},
	"server/repeat":      {},
	"server/readthrough": {"server/admission", "lookaside", "signature", "store", "api"},
	"server":             {"server/readthrough", "server/access", "server/admission", "server/registry", "server/signing", "lookaside", "node", "policy", "signature", "store", "api"},
	"cmd/countersign":    {"server", "server/readthrough", "server/repeat", "server/access", "server/calendar", "server/admission", "server/registry", "server/signing", "lookaside", "node", "node/lint", "policy", "signature", "signature/signer", "store", "store/disk", "store/postgres", "store/transfer", "server/retention", "api"},
	"e2e":                {}, // it knows the binary only
	"e2e/distribution":   {},
	// Beside the binary it measures what that is made of: a verification, and stores alone.
	"e2e/bench": {"server/admission", "signature", "store", "store/disk", "store/postgres", "store/postgres/cluster", "api"},
}

// onlyIn says which packages may import a library that is not everybody's.
var onlyIn = map[string][]string{
	"github.com/ProtonMail/go-crypto":         {"signature"},
	"github.com/VictoriaMetrics/fastcache":    {"store/disk"},
	"github.com/distribution/distribution/v3": {"api", "server/registry", "server/access", "e2e/distribution"},
	"github.com/docker":                       {"cmd/countersign"},
	"github.com/go-chi/chi":                   {"server"},
	"github.com/go-jose/go-jose":              {"server/access"},
	"github.com/golang-migrate/migrate":       {"store/postgres"},
	"github.com/jackc/pgx":                    {"store/postgres"},
	"github.com/maypok86/otter":               {"store/postgres"},
	"github.com/prometheus/client_golang":     {"server", "server/readthrough", "server/access", "server/readthrough", "server/signing", "server/calendar", "server/retention", "cmd/countersign"},
	"github.com/sirupsen/logrus":              {"server/registry"},
	"go.etcd.io/bbolt":                        {"store/disk"},
	"go.yaml.in/yaml":                         {"cmd/countersign", "node", "node/lint"},
	"github.com/pelletier/go-toml":            {"node/lint"},
	"golang.org/x/crypto":                     {"server/access"},
	"golang.org/x/term":                       {"cmd/countersign"},
	"golang.org/x/time":                       {"server/access"},
	"github.com/google/go-cmp":                {"store/storetest"},
	"pgregory.net/rapid":                      {},
	"log":                                     {}, // log/slog it is
	"testing":                                 {"store/storetest"},
}

// Who may know whom (doc/design.md, The house).
func TestImports(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	checked := map[string]bool{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || isModule(file)) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		from, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		checked[from] = true
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checkImport(t, from, imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range mayKnow {
		if !checked[name] {
			t.Errorf("there is a row for %s and no such package", name)
		}
	}
}

// isModule tells a module of its own, which may import what it likes.
func isModule(directory string) bool {
	_, err := os.Stat(filepath.Join(directory, "go.mod"))
	return err == nil
}

func checkImport(t *testing.T, from, imported string) {
	t.Helper()
	allowed, known := mayKnow[from]
	if !known {
		t.Fatalf("package %s has no row in mayKnow: who may it know?", from)
	}
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(allowed, ours) {
		t.Errorf("%s imports %s; it may know only %v", from, ours, allowed)
	}
	for library, users := range onlyIn {
		if (imported == library || strings.HasPrefix(imported, library+"/")) && path.Base(imported) != "slog" && !slices.Contains(users, from) {
			t.Errorf("%s imports %s, which belongs in %v", from, imported, users)
		}
	}
}
