package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-dev/countersign/store/postgres/cluster"
)

// TestMain lets the test's own binary play the roles that the benchmark's plays.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestMeasure runs the benchmark at a scale that says nothing of speed: a part must come to its goals,
// and write them down. The reads have every kind of contestant; "make soak" runs the other parts, too.
func TestMeasure(t *testing.T) {
	lacking(t)
	built, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		flat  bool
		goals int
	}{
		"reads": {false, 5}, "lists": {false, 2}, "uploads": {false, 4}, "sidecar": {false, 2}, "pushes": {false, 1}, "both": {false, 2},
		"disk": {true, 6}, "database": {true, 6},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "reads" && os.Getenv("COUNTERSIGN_SOAK") == "" {
				t.Skip("make soak runs it")
			}
			wanted, err := choose(parts(want.flat), name)
			if err != nil {
				t.Fatal(err)
			}
			b := smallest(t)
			b.programs = built
			out := filepath.Join(t.TempDir(), "results.md")
			var printed strings.Builder
			if err := b.all(t.Context(), wanted, out, &printed); err != nil {
				t.Fatal(err)
			}
			if len(b.report.goals) != want.goals {
				t.Errorf("%d goals were measured, want %d: %+v", len(b.report.goals), want.goals, b.report.goals)
			}
			for _, g := range b.report.goals {
				if len(g.rounds) < b.Rounds || slices.ContainsFunc(g.rounds, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) || v == 0 }) {
					t.Errorf("%s: %v, want %d numbers at least", g.name, g.rounds, b.Rounds)
				}
			}
			written, err := os.ReadFile(out)
			if err != nil || string(written) != printed.String() || !strings.Contains(printed.String(), b.report.goals[0].name) {
				t.Errorf("%s has %q (%v), want what was printed: %q", out, written, err, &printed)
			}
		})
	}
}

func smallest(t *testing.T) *bench {
	s := scale{
		Signatures: 100, Uploads: 40, Pushes: 5, Blob: 1 << 20, Rounds: 1, For: time.Second,
		Small: 100, Disk: 500, Database: 500,
	}
	say := func(format string, args ...any) { t.Logf(format, args...) }
	dir, err := os.MkdirTemp("/tmp", "bench-") // nginx's worker reads below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &bench{scale: s, dir: dir, say: say, report: &report{scale: s}}
}

// lacking skips the test where it cannot run, and fails it where CI says that nothing may be missing.
func lacking(t *testing.T) {
	t.Helper()
	for _, program := range []string{"nginx", "wrk", "taskset", "psql", "pgbench"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not installed; run e2e/install as root", program)
			if os.Getenv("CI") == "true" {
				t.FailNow()
			}
			t.SkipNow()
		}
	}
	if os.Getuid() != 0 {
		t.Skip("the benchmark's nginx wants root")
	}
	c, err := cluster.Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

// TestMissed shows a goal that is missed, and a part that could not be measured, as what they are.
func TestMissed(t *testing.T) {
	t.Parallel()
	var r report
	r.atLeast(1, "fast", []float64{.9, .5, 3})
	r.atLeast(1, "faster", []float64{1.5, .5, 3})
	r.atMost(5, "ms", "slow", []float64{6, 4, 7})
	r.failed("whole", errors.New("broken|\nat once"))
	text := r.markdown()
	for _, want := range []string{
		"| fast | ≥ 1.00 | 0.900 | 0.500 | 3.00 | **missed** |",
		"| faster | ≥ 1.00 | 1.50 | 0.500 | 3.00 | reached |",
		"| slow | ≤ 5.00 ms | 6.00 ms | 4.00 ms | 7.00 ms | **missed** |",
		"| whole: broken/ at once | | | | | **not measured** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	if g := (goal{limit: 1}); g.reached() {
		t.Error("a goal without a round is reached")
	}
}

// TestPartFails reports the parts that could be measured when another could not.
func TestPartFails(t *testing.T) {
	t.Parallel()
	b := &bench{dir: t.TempDir(), say: t.Logf, report: &report{}}
	wrong := errors.New("no disk")
	var printed strings.Builder
	err := b.all(t.Context(), []part{
		{"first", func(context.Context, *bench) error { return wrong }},
		{"second", func(_ context.Context, b *bench) error { b.report.atLeast(1, "there", []float64{2}); return nil }},
	}, "", &printed)
	if !errors.Is(err, wrong) {
		t.Errorf("the error is %v, want that of the part", err)
	}
	for _, want := range []string{"first: no disk", "**not measured**", "| there |", "reached"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &printed)
		}
	}
}

// TestWrong refuses what the command line does not have.
func TestWrong(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`no part "speed"`: {"-only", "reads,speed"},
		`no part "reads"`: {"-flat", "-only", "reads"},
		"no such role":    {"as", "king"},
		"its arguments":   {"as", "fetch", "127.0.0.1:1"},
		"not defined":     {"-fast"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error that says %s", args, err, want)
		}
	}
}

// TestChanges holds what stores are filled with to what the server would have taken.
func TestChanges(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i := range 20_000 {
		seen[imageOf(i).String()] = true
	}
	if len(seen) != 20_000 {
		t.Errorf("%d images of 20000 differ", len(seen))
	}
	c := changeOf(7, 3)
	if got := fmt.Sprint(len(c.Add), len(c.Record.Names), len(c.Add[0].Content)); got != "3 3 900" {
		t.Errorf("signatures, names and bytes: %s", got)
	}
}

// The kernel's settings are as they are wanted while something is measured, the facts say so, and what they were
// before, and then they are that again.
func TestSettle(t *testing.T) {
	dir := t.TempDir()
	of := func(name string) string { return filepath.Join(dir, name) }
	for name, value := range map[string]string{"congestion": "bbr\n", "groups": "0\n"} {
		if err := os.WriteFile(of(name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fixed, err := os.ReadFile("/proc/version") // nobody may write it
	if err != nil {
		t.Fatal(err)
	}
	facts, restore := settle([]setting{{of("congestion"), "cubic"}, {of("groups"), "0"}, {of("none"), "1"}, {"/proc/version", "another"}})
	want := []string{"congestion: cubic, bbr before", "groups: 0", "version: " + strings.TrimSpace(string(fixed))}
	if !slices.Equal(facts, want) {
		t.Errorf("the facts are %q, want %q", facts, want)
	}
	wants := func(when, want string) {
		t.Helper()
		if got, err := os.ReadFile(of("congestion")); err != nil || string(got) != want {
			t.Errorf("%s the setting is %q, %v, want %q", when, got, err, want)
		}
	}
	wants("meanwhile", "cubic")
	restore()
	wants("behind it", "bbr\n")
	if _, err := os.Stat(of("none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a setting that this kernel has not was made: %v", err)
	}
}
