package lint

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzCheck gives whatever it likes to a node: what is found stands in the file, is short, and is the
// same the next time.
func FuzzCheck(f *testing.F) {
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
		name := "given"
		files := []file{
			{path: name, kind: []fileKind{policyFile, registriesD, registriesConf}[kind%3], content: data},
			{path: "b.yaml", kind: registriesD, content: []byte("docker:\n  registry.example.com:\n    lookaside: https://sigs.example.com\n")},
			{path: "b.conf", kind: registriesConf, content: []byte("[[registry]]\nlocation = 'registry.example.com'\n[[registry.mirror]]\nlocation = 'mirror.example.com'\n")},
		}
		o := Options{Now: time.Unix(1_770_000_000, 0), Root: "testdata/root", Client: Client{Major: 5, Minor: 17}, Signs: true}
		r := check(t.Context(), files, o)
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
		second, again := json.Marshal(check(t.Context(), files, o))
		if err != nil || again != nil || !bytes.Equal(first, second) {
			t.Fatalf("the second time it is\n%s\nand was\n%s: %v", second, first, err)
		}
	})
}
