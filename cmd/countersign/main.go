// Countersign is the signature server for container images: see README.md, or run
// "countersign help".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes of every command; a command with more of them says so in its help.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitUndecided = 2 // of verify: neither accepted nor rejected
)

// A terminal is where a command reads its environment and writes.
type terminal struct {
	stdout, stderr *os.File
	lookup         func(name string) (value string, ok bool)
}

// A command is one subcommand: what it is for, in a line, and what it does with its arguments.
type command struct {
	name, summary string
	run           func(ctx context.Context, t terminal, args []string) error
}

func commands() []command {
	return []command{
		{"serve", "run the server", serve},
		{"migrate", "bring the database's schema up", migrate},
		{"verify", "say what a node policy says of an image, and why", verify},
		{"sign", "have the server sign images", sign},
		{"coverage", "say which tags nodes would reject, and why", coverage},
		{"queue", "show what is still to be signed; retry and drop dead tasks", queue},
		{"node-config", "make the files with which nodes enforce signatures", nodeConfig},
		{"lint", "say what is wrong with the files of a node", lintFiles},
		{"list", "list signatures, or with -withdrawn what was withdrawn", list},
		{"withdraw", "stop a signature, a key's signatures or an image for good", withdraw},
		{"lift", "undo a withdrawal", lift},
		{"audit", "show who did what", audit},
		{"import", "bring in what a lookaside has, through the door", importLookaside},
		{"export", "write what is served as a tree of files", export},
		{"move", "copy everything from one store into another", move},
		{"fsck", "check everything that is stored, and mend it", fsck},
		{"keys", "make, trust, adopt and revoke keys", keys},
		{"token", "make a token that callers log in with", makeToken},
		{"resign", "sign again with a new key what an old one has signed", resign},
		{"signer", "sign with a key file for a server that shall not have it", serveSigner},
		{"health", "say whether the server on this machine answers", health},
		{"version", "say which version this is", version},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	os.Exit(run(ctx, terminal{os.Stdout, os.Stderr, os.LookupEnv}, os.Args[1:]))
}

func run(ctx context.Context, t terminal, args []string) int {
	if len(args) == 0 {
		help(t.stderr)
		return exitUsage
	}
	name := strings.TrimLeft(args[0], "-")
	if name == "help" || name == "h" {
		help(t.stdout)
		return 0
	}
	for _, c := range commands() {
		if c.name == name {
			return report(t, c.name, c.run(ctx, t, args[1:]))
		}
	}
	fmt.Fprintf(t.stderr, "countersign: there is no command %q\nhint: countersign help\n", args[0])
	return exitUsage
}

// A usageError is a mistake in the command line.
type usageError struct{ error }

// An exitError ends with a code of its own; without err everything has been said.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprint(e.err) }

func (e exitError) Unwrap() error { return e.err }

func report(t terminal, name string, err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, new(usageError)):
		fmt.Fprintf(t.stderr, "countersign %s: %v\nhint: countersign %s -h\n", name, err, name)
		return exitUsage
	}
	own, ok := errors.AsType[exitError](err)
	if !ok {
		own = exitError{exitFailed, err}
	}
	if own.err != nil {
		fmt.Fprintf(t.stderr, "countersign %s: %v\n", name, own.err)
	}
	return own.code
}

func help(w io.Writer) {
	fmt.Fprint(w, "Countersign keeps, checks and makes the signatures of container images.\n\nusage: countersign COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-13s%s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\ncountersign COMMAND -h tells more. Every flag has a twin in the environment:\n-listen is COUNTERSIGN_LISTEN. A flag wins over the environment, that over the file of -config.\n")
}

func version(_ context.Context, t terminal, _ []string) error {
	v := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	_, err := fmt.Fprintln(t.stdout, "countersign", v)
	return err
}
