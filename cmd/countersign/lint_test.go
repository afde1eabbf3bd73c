package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lintRun runs the command in this process and returns what it writes and its exit code.
func lintRun(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	nothing := func(string) (string, bool) { return "", false }
	code = run(t.Context(), terminal{file, file, nothing}, append([]string{"lint"}, args...))
	written, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(written), code
}

// TestLint runs the command over the mistakes and the good configurations that the package's
// tests know: it ends with 1 for errors alone, and for warnings with -strict, and writes the same
// for people and as JSON.
func TestLint(t *testing.T) {
	t.Parallel()
	const testdata = "../../node/lint/testdata"
	directories, err := filepath.Glob(testdata + "/*/*/want")
	if err != nil || len(directories) < 25 {
		t.Fatalf("%v: %d fixtures", err, len(directories))
	}
	for _, want := range directories {
		directory := filepath.Dir(want)
		t.Run(directory[len(testdata)+1:], func(t *testing.T) {
			t.Parallel()
			flags := []string{"-root", testdata + "/root"}
			if more, err := os.ReadFile(filepath.Join(directory, "flags")); err == nil {
				flags = append(flags, strings.Fields(string(more))...)
			}
			content, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			expected := string(content)
			code, strict := 0, 0
			if strings.Contains("\n"+expected, "\nwarning ") {
				strict = 1
			}
			if strings.Contains("\n"+expected, "\nerror ") {
				code, strict = 1, 1
			}
			text, got := lintRun(t, append(flags, directory)...)
			if got != code {
				t.Errorf("exit code %d, want %d\n%s", got, code, text)
			}
			out, got := lintRun(t, append(flags, "-json", "-strict", directory)...)
			if got != strict {
				t.Errorf("exit code %d with -strict, want %d", got, strict)
			}
			var report struct {
				Files           []string
				Findings, Notes []struct{ ID, Severity, File, Place, What, Why, Remedy string }
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Files) == 0 {
				t.Fatalf("%v: %s", err, out)
			}
			all := append(report.Findings, report.Notes...)
			if n := len(strings.FieldsFunc(expected, func(r rune) bool { return r == '\n' })); len(all) != n {
				t.Errorf("%d findings, want %d\n%s", len(all), n, out)
			}
			for _, f := range all {
				for _, said := range []string{f.File, f.Place, f.Severity + ": " + f.What, "[" + f.ID + "]", "why: " + f.Why, "do:  " + f.Remedy} {
					if !strings.Contains(text, said) {
						t.Errorf("what a person reads lacks %q:\n%s", said, text)
					}
				}
			}
		})
	}
}

// What cannot be read at all is exit code 2, with a sentence.
func TestLintNothing(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "notes.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {empty}, {filepath.Join(empty, "notes.txt")}, {filepath.Join(empty, "policy.json")}, {"-client", "new", empty}} {
		if out, code := lintRun(t, args...); code != exitUsage || !strings.Contains(out, "countersign lint: ") {
			t.Errorf("lint %q: exit code %d\n%s", args, code, out)
		}
	}
}
