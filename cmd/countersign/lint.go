package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/node/lint"
)

const lintText = `Say what is wrong with the files of a node: policy.json, registries.d, registries.conf and the keys
that they name. Each FILE|DIR is of the same node; of a directory like /etc/containers what clients
read there is read. Every finding has a file, a place, why it matters and what to do; what each of
them means is in doc/lint.md. It asks nobody, but with -online.
Exit code 0: no error, also where there are warnings; 1: errors; 2: there was nothing to read.`

func lintFiles(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("lint", lintText)
	flags.arguments, flags.more = "FILE|DIR", "FILE|DIR"
	o := lint.Options{Now: time.Now()}
	version := flags.String("client", "", "oldest `version` that reads the files: podman-4.3, skopeo-1.9, or 5.23 of containers/image (default: any)")
	flags.BoolVar(&o.Signs, "signs", false, "images are signed and pushed on the node, too")
	flags.StringVar(&o.Root, "root", "", "`directory` that is / of the node, where its key files are")
	flags.StringVar(&o.Prefix, "prefix", "", "`directory` that the node has DIR as (default /etc/containers)")
	flags.BoolVar(&o.Online, "online", false, "ask the lookasides and registries that the files name")
	strict := flags.Bool("strict", false, "exit with 1 for warnings, too")
	asJSON := flags.Bool("json", false, "write the findings as JSON")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if *version != "" {
		var err error
		if o.Client, err = lint.ParseClient(*version); err != nil {
			return usageError{fmt.Errorf("-client: %w", err)}
		}
	}
	p := newProgress(t.stderr)
	o.Progress = func(done, all int) {
		p.show(func() string { return fmt.Sprintf("%d of %d servers have answered", done, all) })
	}
	r, err := lint.Run(ctx, flags.Args(), o)
	p.clear()
	if err != nil {
		return exitError{exitUsage, err}
	}
	if err := printReport(t.stdout, r, *asJSON); err != nil {
		return err
	}
	if r.Count(lint.Error) > 0 || *strict && r.Count(lint.Warning) > 0 {
		return exitError{code: exitFailed}
	}
	return nil
}

func printReport(w io.Writer, r lint.Report, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var out strings.Builder
	for _, f := range append(r.Findings, r.Notes...) {
		fmt.Fprintf(&out, "%s: %s: %s [%s]\n    why: %s\n    do:  %s\n", f.At(), f.Severity, f.What, f.ID, f.Why, f.Remedy)
	}
	if r.More > 0 {
		fmt.Fprintf(&out, "%d more are left out: of each severity the first thousand are shown\n", r.More)
	}
	fmt.Fprintf(&out, "%s read: %s, %s, %s\n", counted(len(r.Files), "file"),
		counted(r.Count(lint.Error), "error"), counted(r.Count(lint.Warning), "warning"), counted(len(r.Notes), "note"))
	_, err := io.WriteString(w, printableLines(out.String()))
	return err
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// printableLines is printable for text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
