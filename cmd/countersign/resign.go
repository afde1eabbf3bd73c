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

const resignText = `Have the server sign again, with the new key, what the old one has signed, of all images or below SCOPE: host,
host/namespace, host/namespace/name, or that with :tag. Keys are fingerprints, or names in signing.keys; the
server need not have the old one any more. The old signatures stay. What is queued is finished by
the server, also if this command ends; to run it again goes on, and makes nothing twice.`

// resignLook is how often it is asked how much is left.
const resignLook = time.Second

// resign queues everything, then waits until it is done.
func resign(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("resign", resignText)
	flags.optional = "SCOPE"
	c := clientFlags(flags.FlagSet)
	request := api.ResignRequest{}
	flags.StringVar(&request.From, "from", "", "the old `key`")
	flags.StringVar(&request.To, "to", "", "the new `key`")
	wait := flags.Bool("wait", true, "wait until everything is signed")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if request.From == "" || request.To == "" {
		return usageError{errors.New("-from and -to are wanted: fingerprints, or names in signing.keys")}
	}
	request.Scope = flags.Arg(0)
	p := newProgress(t.stderr)
	first, err := c.resign(ctx, request, func(r api.ResignResult) {
		p.show(func() string { return fmt.Sprintf("%s queued, %s signed already", count(r.Lacking), count(r.Signed)) })
	})
	if err != nil {
		return err
	}
	if !*wait {
		p.clear()
		_, err := fmt.Fprintf(t.stdout, "%s signatures are queued; %s tags have one by the new key already.\n", count(first.Lacking), count(first.Signed))
		return err
	}
	dead, err := c.resigned(ctx, func(left int) {
		p.show(func() string { return fmt.Sprintf("%s of %s to go", count(left), count(max(left, first.Lacking))) })
	})
	p.clear()
	if err != nil {
		return fmt.Errorf("%w\nhint: what is queued goes on; countersign queue shows it, and resign again waits again", err)
	}
	request.Look = true
	now, err := c.resign(ctx, request, func(api.ResignResult) {})
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "%s tags and digests are signed by both keys, %s more than before.\n", count(now.Signed), count(now.Signed-first.Signed))
	switch {
	case dead > 0:
		return fmt.Errorf("%s could not be signed\nhint: countersign queue list -dead says why, and queue retry -dead tries again", count(dead))
	case now.Lacking > 0:
		fmt.Fprintf(t.stdout, "%s were not signed: the registry does not have their images any more, or they were withdrawn. countersign audit says which.\n", count(now.Lacking))
	}
	return nil
}

// resign asks for page after page, and returns the sum.
func (c *client) resign(ctx context.Context, request api.ResignRequest, each func(api.ResignResult)) (sum api.ResignResult, err error) {
	for {
		var page api.ResignResult
		if err := c.do(ctx, http.MethodPost, api.ResignPath, request, &page); err != nil {
			return sum, err
		}
		sum.Signed, sum.Lacking = sum.Signed+page.Signed, sum.Lacking+page.Lacking
		each(sum)
		if page.Next == "" {
			return sum, nil
		}
		request.After = page.Next
	}
}

// resigned waits until nothing is queued any more to be signed again, and returns what is dead.
func (c *client) resigned(ctx context.Context, each func(left int)) (dead int, err error) {
	ticker := time.NewTicker(resignLook)
	defer ticker.Stop()
	for {
		left, dead := 0, 0
		q := url.Values{"limit": {"1000"}}
		for next := c.tasks(ctx, q); ; {
			entries, after, err := next()
			if err != nil {
				return 0, err
			}
			for _, e := range entries {
				switch {
				case e.Kind != "resign":
				case e.State == api.TaskDead:
					dead++
				default:
					left++
				}
			}
			if after == "" {
				break
			}
			q.Set("after", after)
		}
		if left == 0 {
			return dead, nil
		}
		each(left)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
