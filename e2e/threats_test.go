package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	threatRow  = regexp.MustCompile(`(?m)^\| T(\d+) ([^|]+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$`)
	threatTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)` \\(([a-z0-9/]+)\\)")
	backticked = regexp.MustCompile("`[^`]*`")
)

// TestThreatModel holds doc/threat-model.md together: each threat has its number, is of actors and
// against assets that the page names, and is held by tests that there are.
func TestThreatModel(t *testing.T) {
	t.Parallel()
	page := read(t, "../doc/threat-model.md")
	section := func(name string) string {
		_, text, found := strings.Cut(page, "\n## "+name+"\n")
		if text, _, _ = strings.Cut(text, "\n## "); !found || strings.TrimSpace(text) == "" {
			t.Errorf("there is no section %s", name)
		}
		return text
	}
	assets, actors := section("Assets"), section("Actors")
	section("Trust boundaries")
	section("What is not defended")
	threats := section("Threats")
	rows := threatRow.FindAllStringSubmatch(threats, -1)
	if got := strings.Count(threats, "\n| T"); len(rows) < 40 || len(rows) != got {
		t.Fatalf("%d threats read as rows, of %d", len(rows), got)
	}
	found := map[string]map[string]bool{}
	for i, row := range rows {
		if row[1] != fmt.Sprint(i+1) {
			t.Errorf("threat %d is called T%s", i+1, row[1])
		}
		for actor := range strings.SplitSeq(row[3], ", ") {
			if actor != "" && !strings.Contains(actors, "\n| "+actor+" |") {
				t.Errorf("T%s is of %q, who is no actor", row[1], actor)
			}
		}
		for asset := range strings.SplitSeq(row[4], ", ") {
			if asset == "" || !strings.Contains(assets, "\n| "+asset+" ") {
				t.Errorf("T%s is against %q, which is no asset", row[1], asset)
			}
		}
		tests := threatTest.FindAllStringSubmatch(row[6], -1)
		if len(tests) == 0 || len(tests) != len(backticked.FindAllString(row[6], -1)) || strings.TrimSpace(row[5]) == "" {
			t.Errorf("T%s has nothing against it, or is not held by tests with their packages: %s", row[1], row[6])
		}
		for _, m := range tests {
			if found[m[2]] == nil {
				found[m[2]] = testsOf(t, filepath.Join("..", m[2]))
			}
			if !found[m[2]][m[1]] {
				t.Errorf("T%s is held by %s, which %s does not have", row[1], m[1], m[2])
			}
		}
	}
}
