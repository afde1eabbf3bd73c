package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const auditText = `Show the audit trail, oldest first: who did what, to which image, and why.`

// followed is how often a trail that is followed is asked for more.
const followed = time.Second

func audit(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("audit", auditText)
	c := clientFlags(flags.FlagSet)
	follow := flags.Bool("follow", false, "go on with what is recorded from now on, until interrupted")
	asJSON := flags.Bool("json", false, "one JSON object a line")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	for after := ""; ; {
		var page api.AuditPage
		query := url.Values{"limit": {"1000"}, "after": {after}}
		if err := c.do(ctx, http.MethodGet, api.AuditPath+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, r := range page.Records {
			if err := printRecord(t, r, *asJSON); err != nil {
				return err
			}
		}
		after = page.Next
		if len(page.Records) > 0 {
			continue
		}
		if !*follow {
			return nil
		}
		select {
		case <-time.After(followed):
		case <-ctx.Done():
			return nil
		}
	}
}

func printRecord(t terminal, r api.AuditRecord, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(t.stdout).Encode(r)
	}
	words := []string{r.Time.UTC().Format(time.RFC3339), r.Action, "by " + r.Subject}
	if r.Address != "" {
		words = append(words, "from "+r.Address)
	}
	if r.Image.Repository != "" {
		words = append(words, r.Image.String())
	}
	if r.Reference != "" {
		words = append(words, "as "+r.Reference)
	}
	if r.Fingerprint != "" {
		words = append(words, "key "+r.Fingerprint)
	}
	if r.Reason != "" {
		words = append(words, fmt.Sprintf("(%s)", r.Reason))
	}
	_, err := fmt.Fprintln(t.stdout, printable(strings.Join(words, " ")))
	return err
}
