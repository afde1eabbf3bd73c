package lint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/node/lint"
)

// now is when the keys of testdata are as they are called.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A fixture is a node's directory in testdata, with what is expected of it: one finding a line,
// "severity id place => remedy", in the file want.
type fixture struct {
	directory string
	options   lint.Options
	want      []string
}

func fixtures(t testing.TB, kind string) (all []fixture) {
	t.Helper()
	directories, err := filepath.Glob(filepath.Join("testdata", kind, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, directory := range directories {
		f := fixture{directory: directory, options: lint.Options{Now: now, Root: filepath.Join("testdata", "root")}}
		flags := strings.Fields(content(t, filepath.Join(directory, "flags")))
		for i, flag := range flags {
			switch flag {
			case "-signs":
				f.options.Signs = true
			case "-client":
				if f.options.Client, err = lint.ParseClient(flags[i+1]); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.want = strings.Split(strings.TrimSpace(content(t, filepath.Join(directory, "want"))), "\n")
		all = append(all, f)
	}
	return all
}

// content is that of a file, nothing if there is none.
func content(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func (f fixture) run(t testing.TB) (lint.Report, []string) {
	t.Helper()
	r, err := lint.Run(t.Context(), []string{f.directory}, f.options)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, found := range append(r.Findings, r.Notes...) {
		at := strings.ReplaceAll(found.At(), f.directory+"/", "")
		lines = append(lines, fmt.Sprintf("%s %s %s => %s", found.Severity, found.ID, at, found.Remedy))
		if found.What == "" || found.Why == "" || found.Remedy == "" {
			t.Errorf("%s says not all of what, why and what to do: %+v", found.ID, found)
		}
	}
	return r, lines
}

// Every mistake is found where it is, with what to do, and nothing else is.
func TestMistakes(t *testing.T) {
	t.Parallel()
	all := fixtures(t, "mistakes")
	if len(all) < 15 {
		t.Fatalf("there are only %d mistakes", len(all))
	}
	for _, f := range all {
		t.Run(filepath.Base(f.directory), func(t *testing.T) {
			t.Parallel()
			r, got := f.run(t)
			if strings.Join(got, "\n") != strings.Join(f.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(f.want, "\n"))
			}
			if len(r.Findings) == 0 {
				t.Error("there is no finding")
			}
		})
	}
}

// In good configurations, those of distributions among them, nothing is found. What they say
// without a mistake in it are notes.
func TestGood(t *testing.T) {
	t.Parallel()
	all := fixtures(t, "good")
	if len(all) < 10 {
		t.Fatalf("there are only %d good ones", len(all))
	}
	for _, f := range all {
		t.Run(filepath.Base(f.directory), func(t *testing.T) {
			t.Parallel()
			r, got := f.run(t)
			for _, found := range r.Findings {
				t.Errorf("found: %s: %s: %s", found.At(), found.ID, found.What)
			}
			if strings.Join(got, "\n") != strings.Join(f.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(f.want, "\n"))
			}
		})
	}
}

// Every kind that a fixture can show is shown by one.
func TestKindsShown(t *testing.T) {
	t.Parallel()
	shown := map[string]bool{
		// By tests of their own.
		"lookaside-dead": true, "lookaside-html": true, "lookaside-status": true, "lookaside-away": true, "registry-away": true, "signatures-nowhere": true,
		"key-mode": true, "key-weak": true, "key-expiring": true,
	}
	for _, f := range append(fixtures(t, "mistakes"), fixtures(t, "good")...) {
		for _, line := range f.want {
			if fields := strings.Fields(line); len(fields) > 1 {
				shown[fields[1]] = true
			}
		}
	}
	for _, k := range lint.Kinds() {
		if !shown[k.ID] {
			t.Errorf("no fixture shows %s", k.ID)
		}
		if k.Severity != lint.Error && k.Severity != lint.Warning && k.Severity != lint.Note || k.Why == "" || k.Remedy == "" {
			t.Errorf("%s lacks something: %+v", k.ID, k)
		}
	}
}

// The manual has every kind, as it is here.
func TestManual(t *testing.T) {
	t.Parallel()
	manual := content(t, filepath.Join("..", "..", "doc", "lint.md"))
	var rows []string
	for line := range strings.Lines(manual) {
		if strings.HasPrefix(line, "| `") && !strings.HasPrefix(line, "| `-") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	kinds := lint.Kinds()
	for i := range max(len(kinds), len(rows)) {
		got, want := "", ""
		if i < len(rows) {
			got = rows[i]
		}
		if i < len(kinds) {
			k := kinds[i]
			want = fmt.Sprintf("| `%s` | %s | %s | %s |", k.ID, k.Severity, k.Why, k.Remedy)
		}
		if got != want {
			t.Errorf("row %d of doc/lint.md is\n%s\nwant\n%s", i+1, got, want)
		}
	}
}
