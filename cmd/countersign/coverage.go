package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign-dev/countersign/api"
)

const coverageText = `Say which tags of a repository, or of all, nodes of a profile would reject, for which architectures
and why: for CI, and for the day before nodes begin to enforce. Exit code 0: every tag is accepted,
1: some are rejected, 2: it could not be told.`

func coverage(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("coverage", coverageText)
	flags.optional = "REPOSITORY"
	c := clientFlags(flags.FlagSet)
	profile := flags.String("profile", "", "`name` of a node policy of the server; needed where there are several")
	asJSON := flags.Bool("json", false, "one JSON object a tag, accepted ones included")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	v := coverer{client: c, t: t, profile: *profile, asJSON: *asJSON, progress: newProgress(t.stderr)}
	var err error
	if flags.NArg() > 0 {
		err = v.repository(ctx, flags.Arg(0))
	} else {
		err = v.everything(ctx)
	}
	v.progress.clear()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return exitError{exitUndecided, err}
	}
	if !*asJSON {
		fmt.Fprintf(t.stdout, "%d of %d tags are accepted by profile %s\n", v.tags-v.rejected, v.tags, v.profile)
	}
	if v.rejected > 0 {
		return exitError{code: exitFailed}
	}
	return nil
}

// A coverer looks at tags, and counts.
type coverer struct {
	*client
	t              terminal
	profile        string
	asJSON         bool
	progress       *progress
	tags, rejected int
}

func (v *coverer) everything(ctx context.Context) error {
	for after := ""; ; {
		var page api.RepositoryPage
		if err := v.do(ctx, http.MethodGet, api.RepositoriesPath+"?"+url.Values{"after": {after}}.Encode(), nil, &page); err != nil {
			return err
		}
		for _, repository := range page.Repositories {
			if err := v.repository(ctx, repository); err != nil {
				return fmt.Errorf("%s: %w", repository, err)
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (v *coverer) repository(ctx context.Context, repository string) error {
	q := url.Values{"repository": {repository}, "profile": {v.profile}}
	for {
		var page api.CoveragePage
		if err := v.do(ctx, http.MethodGet, api.CoveragePath+"?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		v.profile = page.Profile
		for _, tag := range page.Tags {
			if err := v.print(page.Repository, tag); err != nil {
				return err
			}
			v.progress.show(func() string {
				return fmt.Sprintf("%s tags looked at, %s rejected", count(v.tags), count(v.rejected))
			})
		}
		if page.Next == "" {
			return nil
		}
		q.Set("after", page.Next)
	}
}

func (v *coverer) print(repository string, tag api.TagCoverage) error {
	v.tags++
	if !tag.Accepted {
		v.rejected++
	}
	if v.asJSON {
		v.progress.clear()
		return json.NewEncoder(v.t.stdout).Encode(struct {
			Repository string `json:"repository"`
			Profile    string `json:"profile"`
			api.TagCoverage
		}{repository, v.profile, tag})
	}
	if tag.Accepted {
		return nil
	}
	v.progress.clear()
	for _, m := range tag.Rejected {
		what := m.Platform
		if what != "" {
			what = " (" + what + ")"
		}
		fmt.Fprintf(v.t.stdout, "%s:%s%s is rejected: %s\n", repository, tag.Tag, what, strings.Join(m.Reasons, "; "))
	}
	if tag.Advice != "" {
		fmt.Fprintf(v.t.stdout, "  advice: %s\n", tag.Advice)
	}
	return nil
}
