package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/lookaside"
)

const exportText = `Write what the server serves as a tree of files, byte for byte, for a web server to stand in:
HOST/REPOSITORY@sha256=HEX/signature-N, or with -host that host's tree at the root. The tree is
brought up to date in place: no file is ever half there, no image's list ever has a hole. What the
server does not serve any more is removed.

With -configmap REFERENCEs stand for DIR, images of the repositories that the server has as release.`

// exporters is how many images are written at a time: each file is made durable.
const exporters = 16

const forever = 100 * 365 * 24 * time.Hour

// readers is how long somebody may be in the middle of reading an image's list.
const readers = 5 * time.Second

// An exporting is one run.
type exporting struct {
	c        *client
	t        terminal
	host     string // empty: all, each in a directory of its own
	known    string // the name that the server keeps that host's images under
	patience *patience
	tree     *lookaside.Writer
	progress *progress

	images, signatures, written, removed int
	seen                                 map[string]struct{} // paths of images that are served
	trims                                []trim
}

// A trim is what is left to do of an image when nobody is in the middle of reading it.
type trim struct {
	path string
	n    int
	due  time.Time
}

func export(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("export", exportText)
	flags.arguments, flags.more = "DIR", "REFERENCE"
	e := &exporting{c: clientFlags(flags.FlagSet), t: t, progress: newProgress(t.stderr)}
	e.patience = &patience{most: importPatience, tell: e.tell}
	flags.StringVar(&e.host, "host", "", "`host[:port]` whose tree it is; empty: all, each below a directory of its name")
	configMap := flags.Bool("configmap", false, "write to standard output what OpenShift's update operator reads, of images of `release` that\nare named, by tag or digest, instead of DIR")
	follow := flags.Bool("follow", false, "go on with what changes from now on, until interrupted")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	switch {
	case *configMap:
		return configMaps(ctx, t, references{c: e.c, host: e.host, named: flags.Args()})
	case flags.NArg() > 1:
		return usageError{fmt.Errorf("what is %q?", flags.Arg(1))}
	}
	kind := "all hosts"
	if e.host != "" {
		kind = "host " + e.host
	}
	var err error
	if e.tree, err = lookaside.NewWriter(flags.Arg(0), kind); err != nil {
		return err
	}
	defer e.tree.Close()
	if *follow {
		e.patience.most = forever // the tree stands in for the server while it is away
		return e.follow(ctx)
	}
	if err := e.all(ctx); err != nil {
		return fmt.Errorf("%w\nhint: what was written is whole; run the same command again to go on", err)
	}
	return e.trimAll(ctx)
}

// tell says something that is no error.
func (e *exporting) tell(what string) {
	e.progress.clear()
	fmt.Fprintf(e.t.stderr, "countersign export: %s\n", what)
}

// all brings the whole tree up to date, and says what it did.
func (e *exporting) all(ctx context.Context) error {
	began := time.Now()
	e.images, e.signatures, e.written, e.removed, e.seen = 0, 0, 0, 0, map[string]struct{}{}
	e.trims = nil // what is there twice is met again, maybe with another list than the one that waited
	err := e.write(ctx)
	if err == nil {
		err = e.sweep(ctx)
	}
	err = errors.Join(err, e.tree.Sync()) // the next one finds what this one did, and takes it for durable
	e.progress.clear()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.t.stdout, "%s, in %v\n", e.line(), time.Since(began).Round(100*time.Millisecond))
	return err
}

func (e *exporting) line() string {
	return fmt.Sprintf("%s signatures of %s images: %s images written, %s removed", count(e.signatures), count(e.images), count(e.written), count(e.removed))
}

// write puts page after page; the next one is on its way meanwhile.
func (e *exporting) write(ctx context.Context) error {
	group, groupContext := errgroup.WithContext(ctx)
	group.SetLimit(exporters)
	results := make(chan put, exporters)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for p := range results {
			e.collect(p)
		}
	}()
	err := e.pages(groupContext, func(image api.ExportImage) error {
		path := e.path(image.Image)
		e.seen[path] = struct{}{}
		group.Go(func() error {
			p, err := e.put(path, image.Signatures)
			results <- p
			return err
		})
		return groupContext.Err()
	})
	if failed := group.Wait(); failed != nil {
		err = failed
	}
	close(results)
	<-collected
	return err
}

// pages calls found with every image that is served, once.
func (e *exporting) pages(ctx context.Context, found func(api.ExportImage) error) error {
	q := url.Values{"host": {e.host}}
	for last := (api.Image{}); ; {
		var page api.ExportPage
		if err := e.c.persist(ctx, e.patience, http.MethodGet, api.ExportPath+"?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		e.known = page.Host
		for _, image := range page.Images {
			if image.Image == last {
				continue
			}
			last = image.Image
			if err := found(image); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		q.Set("after", page.Next)
	}
}

func (e *exporting) path(i api.Image) string {
	if e.host == "" {
		return i.Host + "/" + api.LookasidePath(i)
	}
	return api.LookasidePath(i)
}

// A put is what became of one image.
type put struct {
	path          string
	n             int
	changed, more bool
}

func (e *exporting) put(path string, contents [][]byte) (put, error) {
	changed, more, err := e.tree.Put(path, contents)
	return put{path, len(contents), changed, more}, err
}

func (e *exporting) collect(p put) {
	if p.n > 0 {
		e.images++
		e.signatures += p.n
	}
	switch {
	case p.changed && p.n == 0:
		e.removed++
	case p.changed:
		e.written++
	}
	if p.more {
		e.trims = append(e.trims, trim{p.path, p.n, time.Now().Add(readers)})
	}
	e.progress.show(e.line)
}

// sweep removes the images that are not served. A server that serves nothing at all is more likely
// the wrong one, or has lost its store, than meant: the tree may be all that is left.
func (e *exporting) sweep(ctx context.Context) error {
	return e.tree.Walk(ctx, func(path string) error {
		if _, served := e.seen[path]; served {
			return nil
		}
		if len(e.seen) == 0 {
			return fmt.Errorf("the server serves nothing, and the tree has images, as %s\nhint: is it the right server? To begin anew, remove the tree", path)
		}
		p, err := e.put(path, nil)
		e.collect(p)
		return err
	}, func(path string, reason error) {
		e.tell(fmt.Sprintf("%s is not of this tree: %v", path, reason))
	})
}

// trimAll waits until nobody is in the middle of reading, and ends what was begun.
func (e *exporting) trimAll(ctx context.Context) error {
	if len(e.trims) == 0 {
		return nil
	}
	timer := time.NewTimer(time.Until(e.trims[len(e.trims)-1].due))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.trim(time.Now())
}

// trim ends what is due, and has all that was done outlast a power failure.
func (e *exporting) trim(now time.Time) error {
	for len(e.trims) > 0 && !e.trims[0].due.After(now) {
		if err := e.tree.Trim(e.trims[0].path, e.trims[0].n); err != nil {
			return errors.Join(err, e.tree.Sync())
		}
		e.trims = e.trims[1:]
	}
	return e.tree.Sync()
}

// follow writes everything, and then what the audit trail says has changed since before.
func (e *exporting) follow(ctx context.Context) error {
	for {
		after, err := e.end(ctx)
		if err == nil {
			err = e.all(ctx)
		}
		if err == nil {
			err = errors.Join(e.changes(ctx, after), e.tree.Sync())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errPlace):
			return err
		}
		e.tell("the audit trail is another than before, as after a backup was restored; writing everything again")
	}
}

// lostPlace says whether an error means that the trail does not go on where it was left, if it was.
func lostPlace(err error) bool {
	refused, ok := errors.AsType[refusedError](err)
	return ok && refused.status == http.StatusBadRequest
}

// end returns the cursor behind all that is recorded.
func (e *exporting) end(ctx context.Context) (after string, err error) {
	for {
		page, err := e.records(ctx, after)
		if err != nil || len(page.Records) == 0 {
			return page.Next, err
		}
		after = page.Next
	}
}

func (e *exporting) records(ctx context.Context, after string) (page api.AuditPage, err error) {
	err = e.c.persist(ctx, e.patience, http.MethodGet, api.AuditPath+"?"+url.Values{"limit": {"1000"}, "after": {after}}.Encode(), nil, &page)
	if after != "" && lostPlace(err) {
		err = fmt.Errorf("%w: %w", errPlace, err)
	}
	return page, err
}

// errPlace is that the trail does not go on where it was left. Who has left it nowhere is refused for something else.
var errPlace = errors.New("the audit trail is another than before")

func (e *exporting) changes(ctx context.Context, after string) error {
	ticker := time.NewTicker(followed)
	defer ticker.Stop()
	for {
		page, err := e.records(ctx, after)
		if err != nil {
			return err
		}
		done := map[api.Image]bool{}
		for _, r := range page.Records {
			if r.Image.Repository == "" || r.Action == "refused" || done[r.Image] || e.host != "" && r.Image.Host != e.known {
				continue
			}
			done[r.Image] = true
			if err := e.change(ctx, r.Image); err != nil {
				return err
			}
		}
		after = page.Next
		if err := e.trim(time.Now()); err != nil {
			return err
		}
		if len(page.Records) > 0 {
			continue
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *exporting) change(ctx context.Context, image api.Image) error {
	q := url.Values{"host": {image.Host}, "repository": {image.Repository}, "digest": {image.Digest.String()}}
	var page api.ExportPage
	if err := e.c.persist(ctx, e.patience, http.MethodGet, api.ExportPath+"?"+q.Encode(), nil, &page); err != nil {
		return err
	}
	for _, exported := range page.Images {
		p, err := e.put(e.path(image), exported.Signatures)
		if err != nil {
			return err
		}
		// What waits to be trimmed of this image is of a list that is not there any more.
		e.trims = dropTrims(e.trims, p.path)
		e.collect(p)
	}
	return nil
}

func dropTrims(trims []trim, path string) []trim {
	kept := trims[:0]
	for _, t := range trims {
		if t.path != path {
			kept = append(kept, t)
		}
	}
	return kept
}
