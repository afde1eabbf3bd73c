package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/lookaside"
)

const importText = `Bring in what a lookaside has, every signature through the door: a staging directory of skopeo's, a
mirror, an export of countersign's, or a lookaside behind a URL. Gaps in the numbering are closed;
what is there already is passed over, so an import that ended early is run again. What is refused is
listed with the reason.

A lookaside behind a URL has no listing. It is asked about the images that are named, by digest, by
tag or by repository, here or with -references, one a line; if none is, about all that the server's
registry has. Exit code 1: something was refused, or could not be read.`

// importers is how many images are under way at a time; the server shares their writes.
const importers = 8

// An importing is one run.
type importing struct {
	c        *client
	t        terminal
	host     string // of images whose host nothing else tells; empty: the server's own
	dry      bool
	patience *patience
	progress *progress
	tally    *tally
}

// An importItem is one image of a source.
type importItem struct {
	image api.Image // its host may be empty: the server's own
	where string    // for people
	read  func(context.Context) ([]lookaside.Found, error)
}

// A source calls found with every image it has, and skipped with what it cannot tell.
type source func(ctx context.Context, found func(importItem) error, skipped func(where string, reason error)) error

func importLookaside(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("import", importText)
	flags.arguments, flags.more = "DIR|URL", "REFERENCE"
	i := &importing{c: clientFlags(flags.FlagSet), t: t, progress: newProgress(t.stderr)}
	i.patience = &patience{most: importPatience, tell: func(string) {}} // who ask side by side would say it by turns
	flags.StringVar(&i.host, "host", "", "`host[:port]` of the images, if it is not the server's own")
	hosts := flags.Bool("hosts", false, "the tree has a directory for each host, as countersign export writes it")
	file := flags.String("references", "", "`FILE` with references, one a line; - is standard input")
	flags.BoolVar(&i.dry, "dry-run", false, "say what would happen, and change nothing")
	asJSON := flags.Bool("json", false, "one JSON object a signature, and one for the sum")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	i.tally = newTally(t.stdout, i.progress, *asJSON, i.dry)
	references := references{c: i.c, host: i.host, named: flags.Args()[1:], file: *file}
	from := flags.Arg(0)
	var each source
	if isRemote(from) {
		remote, err := lookaside.NewRemote(from)
		if err != nil {
			return usageError{fmt.Errorf("the URL: %w", err)}
		}
		if *hosts {
			return usageError{errors.New("-hosts is for directories; to a lookaside's URL belongs one host")}
		}
		each = fromRemote(remote, references)
	} else {
		if len(references.named) > 0 || references.file != "" {
			return usageError{errors.New("a directory is imported whole; references are for a URL")}
		}
		tree, err := lookaside.OpenTree(strings.TrimPrefix(from, "file://"))
		if err != nil {
			return err
		}
		defer tree.Close()
		each = fromTree(tree, i.host, *hosts)
	}
	return i.run(ctx, each)
}

func isRemote(from string) bool {
	scheme, _, ok := strings.Cut(from, "://")
	return ok && scheme != "file"
}

func (i *importing) run(ctx context.Context, each source) error {
	group, groupContext := errgroup.WithContext(ctx)
	group.SetLimit(importers)
	began := time.Now()
	err := each(groupContext, func(item importItem) error {
		group.Go(func() error { return i.image(groupContext, item) })
		return groupContext.Err()
	}, i.tally.unread)
	if failed := group.Wait(); failed != nil {
		err = failed // the context that it ended is why the source stopped
	}
	i.progress.clear()
	if sumErr := i.tally.sum(time.Since(began)); err == nil {
		err = sumErr
	}
	if err != nil {
		return fmt.Errorf("%w\nhint: what was imported stays; run the same command again to go on", err)
	}
	if i.tally.refused+i.tally.failed > 0 {
		return exitError{code: exitFailed}
	}
	return nil
}

// image sends what one image has, in requests of a bounded size.
func (i *importing) image(ctx context.Context, item importItem) error {
	found, err := item.read(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		i.tally.unread(item.where, err)
		if i.tally.hopeless() {
			return fmt.Errorf("%d images in a row could not be read, the last one so: %w", maxFailures, err)
		}
	} else {
		i.tally.readable()
	}
	request := api.ImportRequest{Host: item.image.Host, Repository: item.image.Repository, Digest: item.image.Digest.String(), DryRun: i.dry}
	var indexes []int
	size := 0
	for _, f := range found {
		if f.Err != nil {
			i.tally.add(where(item, f.Index), api.ImportResult{Outcome: api.Refused, Reason: f.Err.Error()})
			continue
		}
		if size+len(f.Content) > api.MaxImport {
			if err := i.send(ctx, item, request, indexes); err != nil {
				return err
			}
			request.Signatures, indexes, size = nil, nil, 0
		}
		request.Signatures, indexes, size = append(request.Signatures, f.Content), append(indexes, f.Index), size+len(f.Content)
	}
	if err := i.send(ctx, item, request, indexes); err != nil {
		return err
	}
	i.tally.image()
	return nil
}

func where(item importItem, index int) string { return item.where + "/" + api.SignatureName(index) }

func (i *importing) send(ctx context.Context, item importItem, request api.ImportRequest, indexes []int) error {
	if len(indexes) == 0 {
		return nil
	}
	var answer api.ImportAnswer
	if err := i.c.persist(ctx, i.patience, http.MethodPost, api.ImportPath, request, &answer); err != nil {
		return fmt.Errorf("%s: %w", item.where, err)
	}
	if len(answer.Results) != len(indexes) {
		return fmt.Errorf("%s: the server answered for %d signatures, and was asked about %d", item.where, len(answer.Results), len(indexes))
	}
	for n, result := range answer.Results {
		i.tally.add(where(item, indexes[n]), result)
	}
	return nil
}

// fromTree finds images in a directory. host is that of all of them, or with hosts the first
// directory on the way is.
func fromTree(tree *lookaside.Tree, host string, hosts bool) source {
	return func(ctx context.Context, found func(importItem) error, skipped func(string, error)) error {
		return tree.Walk(ctx, func(path string) error {
			host, rest := host, path
			if hosts {
				var ok bool
				if host, rest, ok = strings.Cut(path, "/"); !ok {
					skipped(path, errors.New("it is not below a host's directory, which -hosts says there is"))
					return nil
				}
			}
			image, err := parseImagePath(host, rest)
			if err != nil {
				skipped(path, err)
				return nil
			}
			return found(importItem{image, path, func(context.Context) ([]lookaside.Found, error) { return tree.Read(path) }})
		}, skipped)
	}
}

// parseImagePath reads <repository>@sha256=<hex>; an empty host stays empty.
func parseImagePath(host, path string) (api.Image, error) {
	any := host
	if any == "" {
		any = "localhost"
	}
	image, _, err := api.ParseLookasidePath(any, path)
	image.Host = host
	return image, err
}

// fromRemote asks a lookaside about the images that references name.
func fromRemote(remote *lookaside.Remote, r references) source {
	return func(ctx context.Context, found func(importItem) error, skipped func(string, error)) error {
		return r.each(ctx, func(image api.Image) error {
			known := image
			if known.Host == "" {
				known.Host = "localhost" // a lookaside's paths have no host
			}
			return found(importItem{image, api.LookasidePath(image), func(ctx context.Context) ([]lookaside.Found, error) {
				return remote.Fetch(ctx, known)
			}})
		}, skipped)
	}
}
