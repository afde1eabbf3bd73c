package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const listText = `List the signatures that the server keeps, of one repository or of all.`

func list(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("list", listText)
	flags.optional = "REPOSITORY"
	c := clientFlags(flags.FlagSet)
	q := url.Values{}
	queryFlag(flags, q, "host", "`host[:port]` of the images, if it is not the server's own")
	queryFlag(flags, q, "digest", "`digest` of a manifest")
	queryFlag(flags, q, "key", "`fingerprint` of who signed")
	withdrawn := flags.Bool("withdrawn", false, "list what was withdrawn instead; as -state withdrawn")
	flags.Func("state", "`served` (the default) or withdrawn", func(v string) error {
		if v != api.StateServed && v != api.StateWithdrawn {
			return fmt.Errorf("%q is neither served nor withdrawn", v)
		}
		*withdrawn = v == api.StateWithdrawn
		return nil
	})
	asJSON := flags.Bool("json", false, "one JSON object a line")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		q.Set("repository", flags.Arg(0))
	}
	q.Set("limit", "1000")
	if *withdrawn {
		return pages(t.stdout, q, *asJSON, []string{"IMAGE", "SCOPE", "WHAT", "SINCE", "BY", "REASON", "ID"}, withdrawalRow, func() ([]api.WithdrawalEntry, string, error) {
			var page api.WithdrawalPage
			err := c.do(ctx, http.MethodGet, api.WithdrawalsPath+"?"+q.Encode(), nil, &page)
			return page.Withdrawals, page.Next, err
		})
	}
	return pages(t.stdout, q, *asJSON, []string{"IMAGE", "INDEX", "FINGERPRINT", "USER", "REFERENCE", "SIGNED", "ADDED", "ORIGIN", "NAME"}, signatureRow, func() ([]api.SignatureEntry, string, error) {
		var page api.SignaturePage
		err := c.do(ctx, http.MethodGet, api.SignaturesPath+"?"+q.Encode(), nil, &page)
		return page.Signatures, page.Next, err
	})
}

// queryFlag is a flag that becomes a member of a query.
func queryFlag(flags *flagSet, q url.Values, name, usage string) {
	flags.Func(name, usage, func(v string) error {
		q.Set(name, v)
		return nil
	})
}

func signatureRow(e api.SignatureEntry) []string {
	origin := e.Origin
	if e.Uploader != "" {
		origin += " by " + e.Uploader
	}
	return []string{
		e.Image.String(), fmt.Sprint(e.Index), e.Fingerprint, e.UserID, e.Reference,
		e.Signed.UTC().Format(time.RFC3339), e.Added.UTC().Format(time.RFC3339), origin, e.Name,
	}
}

func withdrawalRow(e api.WithdrawalEntry) []string {
	return []string{e.Image.String(), e.Scope, e.Name + e.Key, e.Time.UTC().Format(time.RFC3339), e.Subject, e.Reason, e.ID}
}

// pages writes page after page as a table, or as JSON, until there is no next.
func pages[T any](w io.Writer, q url.Values, asJSON bool, heads []string, row func(T) []string, next func() ([]T, string, error)) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, strings.Join(heads, "\t"))
	}
	for {
		entries, after, err := next()
		if err != nil {
			return err
		}
		for _, e := range entries {
			if asJSON {
				if err := json.NewEncoder(w).Encode(e); err != nil {
					return err
				}
				continue
			}
			cells := row(e)
			for i := range cells {
				cells[i] = printable(cells[i])
			}
			fmt.Fprintln(table, strings.Join(cells, "\t"))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if after == "" {
			return nil
		}
		q.Set("after", after)
	}
}
