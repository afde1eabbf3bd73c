package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const verifyText = `Ask the server what a node policy says of an image, and why: for the image, and for each instance
of a list. Exit code 0: accepted, 1: rejected, 2: it could not be told.`

// verify explains. Everything but a verdict ends with exit code 2.
func verify(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("verify", verifyText)
	flags.arguments = "REFERENCE"
	c := clientFlags(flags.FlagSet)
	profile := flags.String("profile", "", "`name` of a node policy of the server; needed where there are several")
	file := flags.String("policy", "", "policy `FILE` of your own; the key files it names are sent along")
	asJSON := flags.Bool("json", false, "write the verdict as JSON")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	request := api.VerifyRequest{Reference: flags.Arg(0), Profile: *profile}
	if *file != "" {
		var err error
		if request.Policy, err = inline(*file); err != nil {
			return exitError{exitUndecided, err}
		}
	}
	var v api.Verdict
	if err := c.do(ctx, http.MethodPost, api.VerifyPath, request, &v); err != nil {
		return exitError{exitUndecided, err}
	}
	if err := printVerdict(t.stdout, v, *asJSON); err != nil {
		return exitError{exitUndecided, err}
	}
	if !v.Accepted {
		return exitError{code: exitFailed}
	}
	return nil
}

func printVerdict(w io.Writer, v api.Verdict, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	by := "your policy"
	if v.Profile != "" {
		by = "profile " + v.Profile
	}
	fmt.Fprintf(w, "%s is %s by %s\n", v.Reference, accepted(v.Accepted), by)
	for _, m := range v.Manifests {
		printManifest(w, m)
	}
	if v.Advice != "" {
		fmt.Fprintf(w, "\nadvice: %s\n", v.Advice)
	}
	return nil
}

func printManifest(w io.Writer, m api.ManifestVerdict) {
	what := m.Platform
	if m.List {
		what = "the list"
	}
	if what != "" {
		what = " (" + what + ")"
	}
	fmt.Fprintf(w, "\n%s%s is %s, by %s\n", m.Digest, what, accepted(m.Accepted), m.Scope)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, s := range m.Signatures {
		fmt.Fprintf(table, "  signature-%d\t%s\t%s\t%s\t%q\n", i+1, s.Fingerprint, s.Signed.UTC().Format(time.RFC3339), s.Reference, s.UserID)
	}
	_ = table.Flush() // a terminal that is gone is nobody to tell
	for _, r := range m.Requirements {
		fmt.Fprintf(w, "  %s at %s is %s: %s\n", r.Type, r.Place, map[bool]string{true: "met", false: "not met"}[r.Accepted], r.Reason)
		for i, reason := range r.Signatures {
			fmt.Fprintf(w, "    signature-%d: %s\n", i+1, reason)
		}
	}
}

func accepted(yes bool) string {
	if yes {
		return "accepted"
	}
	return "rejected"
}

// inline reads a policy file, and puts the keys it names by path into it: the server reads no
// files of ours. What is wrong with the file is said here, where it is.
func inline(file string) (json.RawMessage, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	inlined, err := inlineKeys(data, os.ReadFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return inlined, nil
}
