package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/countersign-dev/countersign/server/access"
)

const tokenText = `Make a token for NAME, which callers send as Bearer, or as the password of any user. It is written to
standard output, and only here: the server's file of tokens (access.tokens) has its hash. A line for
that file is added to -file, or written to standard error. To take a token back, delete its line.`

// makeToken needs no server: what it adds to the file counts from the next request on.
func makeToken(_ context.Context, t terminal, args []string) error {
	flags := newFlags("token", tokenText)
	flags.arguments = "NAME"
	file := flags.String("file", "", "the server's `FILE` of tokens, to add the line to; it is made where there is none")
	days := flags.Int("days", 0, "`number` of days from now that it is good for; 0 is for ever")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	var expires time.Time
	if *days < 0 || *days > 36500 {
		return usageError{errors.New("-days is a number from 0 to 36500")}
	} else if *days > 0 {
		expires = time.Now().AddDate(0, 0, *days)
	}
	secret, line, err := access.NewToken(flags.Arg(0), expires)
	if err != nil {
		return usageError{err}
	}
	if *file == "" {
		fmt.Fprintf(t.stderr, "for the server's file of tokens:\n%s\n", line)
	} else if err := addLine(*file, line); err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, secret)
	return err
}

// addLine appends in one write, behind a last line that lacks its end too.
func addLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Sync()
}
