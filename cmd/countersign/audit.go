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
	trail := &auditing{c: c, t: t, follow: *follow, asJSON: *asJSON}
	trail.patience = &patience{tell: trail.tell}
	return trail.run(ctx)
}

// An auditing is one run.
type auditing struct {
	c              *client
	t              terminal
	follow, asJSON bool
	patience       *patience
}

// tell says something that is no error.
func (a *auditing) tell(what string) { fmt.Fprintf(a.t.stderr, "countersign audit: %s\n", what) }

func (a *auditing) run(ctx context.Context) error {
	for after := ""; ; {
		query := url.Values{"limit": {"1000"}, "after": {after}}
		var page api.AuditPage
		err := a.c.do(ctx, http.MethodGet, api.AuditPath+"?"+query.Encode(), nil, &page)
		switch {
		case ctx.Err() != nil && a.follow:
			return nil
		case err != nil && after != "" && lostPlace(err) && a.follow:
			a.tell("the audit trail is another than before, as after a backup was restored; showing it from its beginning")
			after = ""
			continue
		case err != nil && !a.outlasts(err):
			return err
		case err == nil:
			a.patience.answered()
			after = page.Next
		}
		for _, r := range page.Records {
			if err := printRecord(a.t, r, a.asJSON); err != nil {
				return err
			}
		}
		if len(page.Records) > 0 {
			continue
		}
		if !a.follow {
			return nil
		}
		select {
		case <-time.After(followed):
		case <-ctx.Done():
			return nil
		}
	}
}

// outlasts says whether to go on although the server does not answer: it may be started anew, and
// what it records from then on is wanted. One that has never answered is not waited for.
func (a *auditing) outlasts(err error) bool {
	return a.follow && a.patience.begun && a.patience.outlasts(err)
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
