package lint_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/node/lint"
)

// FuzzRun gives whatever it likes to a node: what is found stands in the file, is short, and is the
// same the next time.
func FuzzRun(f *testing.F) {
	for _, pattern := range []string{"policy.json", "registries.d/*.yaml", "registries.conf", "registries.conf.d/*.conf"} {
		seeds, err := filepath.Glob(filepath.Join("testdata", "*", "*", filepath.FromSlash(pattern)))
		if err != nil || len(seeds) == 0 {
			f.Fatalf("%v: no seeds %s", err, pattern)
		}
		for _, seed := range seeds {
			data, err := os.ReadFile(seed)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(strings.Index("json|yaml|conf", filepath.Ext(seed)[1:])/5), data)
		}
	}
	for _, seed := range []string{
		"a: &a {b: *a}", "docker: &d\n  x: {<<: *d}", "docker: {<<: [1], ? {} : 1}", "docker: !!binary x", "- &x [*x]", "docker: {x: {lookaside: &l [*l]}}",
		"default-docker: {lookaside: \"http://u:p@h\\n/\"}", "%YAML 9\n---\n", "docker:\n  \"\":\n    lookaside: 1e9\n", "\xff\xfe", "---\n---\ndocker: 1",
	} {
		f.Add(uint8(1), []byte(seed))
	}
	for _, seed := range []string{
		"[[registry]]\n[registry.mirror]\nlocation=1", "registry = [[]]", "registry = [{mirror=[{location='a'},{}]}]", "a.b.c = {d={e=[1,{f=2}]}}", "[registry]\nprefix='x'",
		"[[registry]]\n[[registry.mirror]]\n[[registry]]\nlocation=\"*.a/b\"", "\"\\u0000\" = 1", "[[a]]\n[a.b]\n[[a.b.c]]", "x = 1 # \xff", "[aliases]\n\"a]\" = \"b\"", "'[\"x\"]' = 1",
	} {
		f.Add(uint8(2), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		directory := t.TempDir()
		name := filepath.Join(directory, []string{"policy.json", "registries.d/a.yaml", "registries.conf"}[kind%3])
		write(t, name, string(data))
		write(t, filepath.Join(directory, "registries.d/b.yaml"), "docker:\n  registry.example.com:\n    lookaside: https://sigs.example.com\n")
		write(t, filepath.Join(directory, "registries.conf.d/b.conf"), "[[registry]]\nlocation = 'registry.example.com'\n[[registry.mirror]]\nlocation = 'mirror.example.com'\n")
		o := lint.Options{Now: now, Root: directory, Client: lint.Client{Major: 5, Minor: 17}, Signs: true}
		r, err := lint.Run(t.Context(), []string{directory}, o)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(data, []byte("\n")) + 2
		for _, found := range append(r.Findings, r.Notes...) {
			if found.File == name && (found.Line < 0 || found.Line > lines || found.Column < 0 || found.Column > len(data)+2) {
				t.Fatalf("a place that is none in a file of %d lines: %+v", lines, found)
			}
			if len(found.What) > 4_000 || len(found.Remedy) > 4_000 {
				t.Fatalf("a finding of %d bytes: %.300s", len(found.What), found.What)
			}
		}
		first, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := lint.Run(t.Context(), []string{directory}, o)
		if second, _ := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("the second time it is\n%s\nand was\n%s: %v", second, first, err)
		}
	})
}
