package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rules says which tests hold the server to what ../doc/protocol.md found out about clients: a
// row for each section of its chapters 1 and 3, and for each item of 9. Instead of tests a row may
// begin with "not yet:" or "clients only:", and say why.
var rules = map[string]string{
	"1.1":  "TestLookasideClients TestLookasideReads TestNames",
	"1.2":  "TestPush TestSignBy TestMirror",
	"1.3":  "TestLookasideReads TestLimits TestManyTags",
	"1.4":  "TestLookasideReads TestRefusedUploads",
	"1.5":  "TestLookasideClients TestLookasideReads",
	"1.6":  "TestCurl TestCommands",
	"1.7":  "not yet: pulp's reader is served as every other, by 404 at the end; OpenShift's tree without repositories comes with other readers",
	"3.1":  "TestPing",
	"3.2":  "TestExtensionReads TestExtensionWrites TestNames",
	"3.3":  "not yet: nobody has credentials before there is access control",
	"3.4":  "TestExtensionReads TestPush",
	"3.5":  "TestSignBy TestExtensionWrites TestErrorShape",
	"3.9":  "TestSignBy TestCommands",
	"9.1":  "TestLookasideReads",
	"9.2":  "TestLookasideReads",
	"9.3":  "not yet: an old lookaside is read through later; TestLookasideClients shows advertise: false, the way to keep one",
	"9.4":  "TestExtensionReads",
	"9.5":  "TestPing TestNames TestNothingCrosses TestEscapesOfTheRegistry",
	"9.6":  "TestSignBy TestUploadFirst",
	"9.7":  "TestExtensionWrites TestRefusedUploads",
	"9.8":  "TestExtensionWrites TestSignBy",
	"9.9":  "TestCurl TestConcurrentUploads TestLookasideReads",
	"9.10": "clients only: no directory of other writers is read; import comes later",
	"9.11": "TestLimits TestLimitOfBytes TestExtensionWrites TestManyTags",
	"9.12": "TestExtensionWrites",
	"9.13": "TestExtensionReads TestNothingCrosses",
	"9.14": "not yet: nobody has credentials before there is access control",
	"9.15": "TestCommands",
	"9.16": "TestPush",
	"9.17": "TestHosts TestHostAliases",
	"9.18": "TestMirror",
	"9.19": "TestErrorShape TestExtensionReads TestExtensionWrites TestRefusedUploads",
	"9.20": "TestPing TestLookasideReads",
}

var (
	sectionLine = regexp.MustCompile(`(?m)^### ([13]\.\d+) `)
	itemLine    = regexp.MustCompile(`(?m)^(\d+)\. `)
)

// TestRules keeps the table whole: every rule has its row, and every row names tests that exist.
func TestRules(t *testing.T) {
	t.Parallel()
	protocol := read(t, "../doc/protocol.md")
	wanted := map[string]bool{}
	for _, m := range sectionLine.FindAllStringSubmatch(protocol, -1) {
		wanted[m[1]] = true
	}
	_, pitfalls, _ := strings.Cut(protocol, "\n## 9. ")
	for _, m := range itemLine.FindAllStringSubmatch(pitfalls, -1) {
		wanted["9."+m[1]] = true
	}
	if got, want := slices.Sorted(maps.Keys(rules)), slices.Sorted(maps.Keys(wanted)); !slices.Equal(got, want) {
		t.Errorf("the table has rows\n\t%q\nand doc/protocol.md the rules\n\t%q", got, want)
	}
	tests := testNames(t)
	for rule, row := range rules {
		if strings.HasPrefix(row, "not yet: ") || strings.HasPrefix(row, "clients only: ") {
			continue
		}
		for _, name := range strings.Fields(row) {
			if !tests[name] {
				t.Errorf("rule %s names %s, which is no test here", rule, name)
			}
		}
	}
}

// testNames is the names of this directory's tests.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests here: %v", err)
	}
	names := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
