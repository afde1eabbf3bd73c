package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// A flagSet is a command's flags, and the arguments it takes behind them, as its help names them:
// those that are wanted, one that may be left out, or any number of more.
type flagSet struct {
	*flag.FlagSet
	arguments, optional, more string
}

// newFlags returns the flags of a command whose help starts with this text.
func newFlags(name, text string) *flagSet {
	flags := &flagSet{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	flags.Usage = func() {
		takes := flags.arguments
		if flags.optional != "" {
			takes = "[" + flags.optional + "]"
		}
		if flags.more != "" {
			takes = strings.TrimSpace(takes + " [" + flags.more + "...]")
		}
		fmt.Fprintf(flags.Output(), "usage: countersign %s [flags] %s\n\n%s\n\n", name, takes, text)
		flags.PrintDefaults()
	}
	return flags
}

// parse reads the command line, and for what it leaves out the environment.
func parse(t terminal, flags *flagSet, args []string) error {
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
	want := strings.Fields(flags.arguments)
	most := len(want) + len(strings.Fields(flags.optional))
	switch {
	case flags.NArg() > most && strings.HasPrefix(flags.Arg(most), "-"):
		return usageError{fmt.Errorf("flags stand in front of arguments: what is %q?", flags.Arg(most))}
	case flags.NArg() > most && flags.more == "":
		return usageError{fmt.Errorf("what is %q?", flags.Arg(most))}
	case flags.NArg() < len(want):
		return usageError{fmt.Errorf("%s is missing", want[flags.NArg()])}
	}
	return fromEnvironment(t, flags.FlagSet)
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
