package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign-dev/countersign/api"
)

const signText = `Have the server sign what is in its registry, as signing.rules say for on: [request]. Nothing is
copied, and what is signed already stays as it is. Of a list every instance is signed, too.
REFERENCE is host[:port]/repository:tag or @digest. Exit code 1 if any could not be signed.`

// sign asks for one reference after the other. One that is refused does not keep the others from
// being signed.
func sign(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("sign", signText)
	flags.more = "REFERENCE"
	c := clientFlags(flags.FlagSet)
	all := flags.String("all-tags", "", "every tag of this `repository`")
	asJSON := flags.Bool("json", false, "one JSON object a reference")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	s := asker{client: c, t: t, asJSON: *asJSON, progress: newProgress(t.stderr)}
	switch {
	case *all == "" && flags.NArg() == 0:
		return usageError{errors.New("REFERENCE is missing")}
	case *all != "" && flags.NArg() > 0:
		return usageError{errors.New("-all-tags takes a repository, and stands alone")}
	case *all != "":
		if err := s.allTags(ctx, *all); err != nil {
			s.progress.clear()
			return err
		}
	}
	for _, ref := range flags.Args() {
		s.sign(ctx, ref)
	}
	s.progress.clear()
	if s.failed > 0 {
		return errors.Join(fmt.Errorf("%d of %d could not be signed", s.failed, s.asked), s.unsaid)
	}
	return errors.Join(ctx.Err(), s.unsaid)
}

// An asker asks for one signature after the other, and counts.
type asker struct {
	*client
	t             terminal
	asJSON        bool
	progress      *progress
	asked, failed int
	unsaid        error // why what was signed could not be written down, at first
	expected      int   // at least
}

func (s *asker) allTags(ctx context.Context, repository string) error {
	for after := ""; ctx.Err() == nil; {
		var page api.TagPage
		query := url.Values{"repository": {repository}, "after": {after}}
		if err := s.do(ctx, http.MethodGet, api.TagsPath+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		s.expected += len(page.Tags)
		for _, tag := range page.Tags {
			s.sign(ctx, page.Repository+":"+tag)
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
	return ctx.Err()
}

func (s *asker) sign(ctx context.Context, ref string) {
	if ctx.Err() != nil {
		return
	}
	s.asked++
	var result api.SignResult
	err := s.do(ctx, http.MethodPost, api.SignPath, api.SignRequest{Reference: ref}, &result)
	s.progress.clear()
	switch {
	case err != nil:
		s.failed++
		fmt.Fprintf(s.t.stderr, "%s: %v\n", ref, err)
	case s.asJSON:
		s.unsaid = cmp.Or(s.unsaid, json.NewEncoder(s.t.stdout).Encode(result))
	default:
		s.unsaid = cmp.Or(s.unsaid, printSigned(s.t.stdout, result))
	}
	s.progress.show(func() string {
		return fmt.Sprintf("%s of %s signed", count(s.asked-s.failed), count(max(s.expected, s.asked)))
	})
}

func printSigned(w io.Writer, result api.SignResult) error {
	var out strings.Builder
	for _, sig := range result.Signatures {
		what := "signed"
		if !sig.Made {
			what = "was signed"
		}
		fmt.Fprintf(&out, "%s %s as %s with key %s\n", what, sig.Digest, sig.Reference, sig.Fingerprint)
	}
	if result.Queued {
		fmt.Fprintf(&out, "queued: the rest of %s is signed later; countersign queue shows it\n", result.Reference)
	}
	_, err := io.WriteString(w, out.String())
	return err
}
