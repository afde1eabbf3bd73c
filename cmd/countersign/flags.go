package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// newFlags returns the flags of a command whose help starts with this text.
func newFlags(name, text string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: countersign %s [flags]\n\n%s\n\n", name, text)
		flags.PrintDefaults()
	}
	return flags
}

// parse reads the command line, and for what it leaves out the environment. What is left is one
// mistake: no command with flags takes anything else.
func parse(t terminal, flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard) // a mistake is reported once, by report
	usage := flags.Usage
	flags.Usage = func() {}
	if err := flags.Parse(args); err == flag.ErrHelp {
		flags.SetOutput(t.stdout)
		usage()
		return err
	} else if err != nil {
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("what is %q?", flags.Arg(0))}
	}
	return fromEnvironment(t, flags)
}

// fromEnvironment sets every flag that was not given from its twin, COUNTERSIGN_LISTEN for -listen.
func fromEnvironment(t terminal, flags *flag.FlagSet) (err error) {
	given := givenFlags(flags)
	flags.VisitAll(func(f *flag.Flag) {
		name := "COUNTERSIGN_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := t.lookup(name)
		if !ok || given[f.Name] || err != nil {
			return
		}
		if e := flags.Set(f.Name, value); e != nil {
			err = usageError{fmt.Errorf("%s=%q: %w", name, value, e)}
		}
	})
	return err
}

// givenFlags are those that were set, wherever they come from.
func givenFlags(flags *flag.FlagSet) map[string]bool {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
}
