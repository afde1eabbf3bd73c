// Bench measures the server beside others that do as much of its work as they can, in one run on one
// machine, and says which of its goals it reaches. A goal is a ratio: machines differ, and are noisy.
// doc/performance.md says what each figure is.
//
// Contestants and load generators are processes of their own, pinned to a core each. Those that are
// compared take turns, round after round; the ratio is taken within each round, and what is reported
// is the median of the rounds and how far they are apart.
//
//	go run ./e2e/bench [-short] [-only reads,uploads]     writes e2e/bench/results.md
//	go run ./e2e/bench -flat [-disk N] [-database N]      writes e2e/bench/flat.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A scale is how much is measured.
type scale struct {
	Signatures int           // that are read
	Uploads    int           // of each kind of key, in a round
	Pushes     int           // of each contestant
	Blob       int           // bytes
	Rounds     int           // of everything
	For        time.Duration // of each load; wrk takes whole seconds

	Small, Disk, Database int // signatures of the stores whose costs are compared
}

func full() scale {
	return scale{
		Signatures: 100_000, Uploads: 1000, Pushes: 100, Blob: 256 << 20, Rounds: 5, For: 4 * time.Second,
		Small: 1000, Disk: 1_000_000, Database: 10_000_000,
	}
}

func short() scale {
	s := full()
	s.Signatures, s.Uploads, s.Pushes, s.Blob, s.Rounds, s.For = 2000, 150, 30, 64<<20, 2, time.Second
	s.Disk, s.Database = 20_000, 50_000
	return s
}

// A bench is one run.
type bench struct {
	scale
	dir      string // of everything that it makes
	programs programs
	say      func(format string, args ...any) // progress, for whoever waits
	report   *report
}

// A part measures some of the goals.
type part struct {
	name    string
	measure func(context.Context, *bench) error
}

func parts(flat bool) []part {
	if flat {
		return []part{{"disk", flatDisk}, {"database", flatDatabase}}
	}
	return []part{{"reads", reads}, {"lists", lists}, {"uploads", uploads}, {"sidecar", sidecar}, {"pushes", pushes}, {"both", both}}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "as" {
		return perform(ctx, args[1:], stdout)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("short", false, "measure less, in under two minutes: to see that all is well, not to compare")
	flat := flags.Bool("flat", false, "measure what a store costs as it grows")
	only := flags.String("only", "", "measure some `parts` only, by name and comma")
	diskSize := flags.Int("disk", 0, "with -flat: `signatures` of the large store on disk (default 1000000)")
	databaseSize := flags.Int("database", 0, "with -flat: `signatures` of the large database (default 10000000)")
	rounds := flags.Int("rounds", 0, "`times` that everything is measured (default 5, with -short 2)")
	work := flags.String("dir", "", "`directory` with room for what is made, about 3 kB a signature (default: a temporary one)")
	out := flags.String("out", "", "`file` of the results (default e2e/bench/results.md, with -flat e2e/bench/flat.md, with -short none)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := full()
	if *quick {
		s = short()
	}
	for at, value := range map[*int]int{&s.Disk: *diskSize, &s.Database: *databaseSize, &s.Rounds: *rounds} {
		if value > 0 {
			*at = value
		}
	}
	if *out == "" && !*quick {
		*out = map[bool]string{false: "e2e/bench/results.md", true: "e2e/bench/flat.md"}[*flat]
	}
	wanted, err := choose(parts(*flat), *only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(*work, "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	b := &bench{scale: s, dir: dir, report: &report{scale: s, flat: *flat}, say: func(format string, args ...any) {
		fmt.Fprintf(stderr, "%5.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}}
	return b.measure(ctx, wanted, *out, stdout)
}

func choose(all []part, only string) ([]part, error) {
	if only == "" {
		return all, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no part %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// measure builds what is measured, and measures it.
func (b *bench) measure(ctx context.Context, wanted []part, out string, stdout io.Writer) error {
	b.say("building")
	var err error
	if b.programs, err = build(ctx, b.dir); err != nil {
		return err
	}
	settled, restore := settle(settings)
	defer restore()
	b.report.machine = append(machine(ctx, b.dir), settled...)
	return b.all(ctx, wanted, out, stdout)
}

// all measures the parts and reports what there is, also where one of them could not be measured: that
// is the error. A goal that is missed is none.
func (b *bench) all(ctx context.Context, wanted []part, out string, stdout io.Writer) error {
	began := time.Now()
	var errs []error
	for _, p := range wanted {
		b.say("%s", p.name)
		unix.Sync() // what the one before left to be written is none of its
		if err := p.measure(ctx, b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			b.report.failed(p.name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	b.report.took = time.Since(began)
	text := b.report.markdown()
	_, err := io.WriteString(stdout, text)
	errs = append(errs, err)
	if out != "" {
		errs = append(errs, os.WriteFile(out, []byte(text), 0o644))
	}
	return errors.Join(errs...)
}
