package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const queueText = `usage: countersign queue [list|retry|drop] [flags] [ID...]

  list      show what is still to be done, and what was given up (dead); also without a word
  retry     try dead tasks again, or at once what waits for its next attempt
  drop      give tasks up for good; it is recorded who did

countersign queue list -h tells more.
`

func queue(ctx context.Context, t terminal, args []string) error {
	word := "list"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		word, args = args[0], args[1:]
	}
	switch word {
	case "list":
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			fmt.Fprint(t.stdout, queueText, "\n")
		}
		return queueList(ctx, t, args)
	case "retry":
		return queueChange(ctx, t, args, "retry", retryText, func(id string) (method, path string) {
			return http.MethodPost, api.QueuePath + "/" + id + api.RetrySegment
		})
	case "drop":
		return queueChange(ctx, t, args, "drop", dropText, func(id string) (method, path string) {
			return http.MethodDelete, api.QueuePath + "/" + id
		})
	case "help":
		_, err := fmt.Fprint(t.stdout, queueText)
		return err
	}
	return usageError{fmt.Errorf("there is no %q; list, retry and drop there are", word)}
}

const queueListText = `Show what is still to be signed: what is queued, with when it is tried next, and what is dead,
because it failed too often or no rule wants it any more. PROBLEM is why the last attempt failed.`

func queueList(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("queue list", queueListText)
	c := clientFlags(flags.FlagSet)
	q := url.Values{"limit": {"1000"}}
	queryFlag(flags, q, "repository", "only of this `repository`")
	dead := flags.Bool("dead", false, "only what was given up")
	asJSON := flags.Bool("json", false, "one JSON object a line")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if *dead {
		q.Set("state", api.TaskDead)
	}
	return pages(t.stdout, q, *asJSON, []string{"STATE", "KIND", "IMAGE", "AS", "KEY", "ATTEMPTS", "NEXT", "QUEUED", "ID", "PROBLEM"}, taskRow, c.tasks(ctx, q))
}

// tasks asks for page after page.
func (c *client) tasks(ctx context.Context, q url.Values) func() ([]api.TaskEntry, string, error) {
	return func() ([]api.TaskEntry, string, error) {
		var page api.TaskPage
		err := c.do(ctx, http.MethodGet, api.QueuePath+"?"+q.Encode(), nil, &page)
		return page.Tasks, page.Next, err
	}
}

func taskRow(e api.TaskEntry) []string {
	next := "-"
	if e.State == api.TaskQueued {
		next = e.Due.UTC().Format(time.RFC3339)
	}
	return []string{e.State, e.Kind, e.Image.String(), e.Tag, e.Key, fmt.Sprint(e.Attempts), next, e.Queued.UTC().Format(time.RFC3339), e.ID, e.Problem}
}

const (
	retryText = `Try tasks again now, as if they had never been tried. ID is what countersign queue shows.`
	dropText  = `Give tasks up for good. ID is what countersign queue shows. It is recorded who did.`
)

// queueChange does the same to several tasks. One that cannot be changed does not keep the others
// from it.
func queueChange(ctx context.Context, t terminal, args []string, word, text string, request func(id string) (method, path string)) error {
	flags := newFlags("queue "+word, text)
	flags.more = "ID"
	c := clientFlags(flags.FlagSet)
	dead := flags.Bool("dead", false, "all that are dead")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	ids := flags.Args()
	if *dead == (len(ids) > 0) {
		return usageError{errors.New("an ID or more, or -dead, is wanted")}
	}
	if *dead {
		q := url.Values{"limit": {"1000"}, "state": {api.TaskDead}}
		for next := c.tasks(ctx, q); ; {
			entries, after, err := next()
			if err != nil {
				return err
			}
			for _, e := range entries {
				ids = append(ids, e.ID)
			}
			if after == "" {
				break
			}
			q.Set("after", after)
		}
	}
	var failed error
	for _, id := range ids {
		method, path := request(url.PathEscape(id))
		if err := c.do(ctx, method, path, nil, nil); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", id, err))
		}
	}
	if *dead && failed == nil {
		_, err := fmt.Fprintf(t.stdout, "%s: %d\n", word, len(ids))
		return err
	}
	return failed
}
