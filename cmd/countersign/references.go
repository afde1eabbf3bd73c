package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// references say which images something is about. One is a repository, host/repository, either with
// a tag or a digest, or neither: all its tags. Without any, it is all that the registry has.
type references struct {
	c     *client
	host  string // of those that name none; empty: the server's own
	named []string
	file  string // more of them, one a line; - is standard input
}

// each calls found with every image; with those of a list, too. What does not resolve is skipped.
func (r references) each(ctx context.Context, found func(api.Image) error, skipped func(string, error)) error {
	if len(r.named) == 0 && r.file == "" {
		if r.foreign(r.host) {
			return usageError{fmt.Errorf("the server's registry does not know what %s has: name images by digest", r.host)}
		}
		return r.pages(ctx, "/v2/_catalog", func(page listPage) error {
			for _, repository := range page.Repositories {
				if err := r.repository(ctx, repository, found, skipped); err != nil {
					return err
				}
			}
			return nil
		})
	}
	one := func(line string) error { return r.one(ctx, line, found, skipped) }
	for _, name := range r.named {
		if err := one(name); err != nil {
			return err
		}
	}
	return r.lines(one)
}

func (r references) lines(one func(string) error) error {
	in := os.Stdin
	switch r.file {
	case "":
		return nil
	case "-":
	default:
		f, err := os.Open(r.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := one(line); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (r references) one(ctx context.Context, line string, found func(api.Image) error, skipped func(string, error)) error {
	host, rest := r.host, line
	if first, after, ok := strings.Cut(line, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, rest = first, after
	}
	named, err := reference.ParseNormalizedNamed("localhost/" + rest)
	if err != nil {
		skipped(line, err)
		return nil
	}
	repository := reference.Path(named)
	if digested, ok := named.(reference.Digested); ok {
		image, err := api.NewImage("localhost", repository, string(digested.Digest()))
		if err != nil {
			skipped(line, err)
			return nil
		}
		image.Host = host
		return found(image)
	}
	if r.foreign(host) {
		skipped(line, fmt.Errorf("the server's registry does not know the tags of %s: name images by digest", host))
		return nil
	}
	if tagged, ok := named.(reference.Tagged); ok {
		return r.tag(ctx, repository, tagged.Tag(), found, skipped)
	}
	return r.repository(ctx, repository, found, skipped)
}

// foreign says whether a host is another than the one that is asked.
func (r references) foreign(host string) bool {
	u, err := url.Parse(r.c.server)
	return host != "" && (err != nil || u.Host != host)
}

func (r references) repository(ctx context.Context, repository string, found func(api.Image) error, skipped func(string, error)) error {
	err := r.pages(ctx, "/v2/"+repository+"/tags/list", func(page listPage) error {
		for _, tag := range page.Tags {
			if err := r.tag(ctx, repository, tag, found, skipped); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.As(err, new(refusedError)) {
		skipped(repository, err)
		return nil
	}
	return err
}

// manifestTypes are what a tag may be.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}

func (r references) tag(ctx context.Context, repository, tag string, found func(api.Image) error, skipped func(string, error)) error {
	content, _, err := r.c.ask(ctx, http.MethodGet, "/v2/"+repository+"/manifests/"+tag, http.Header{"Accept": manifestTypes}, nil)
	if errors.As(err, new(refusedError)) {
		skipped(repository+":"+tag, err)
		return nil
	}
	if err != nil {
		return err
	}
	var list struct {
		Manifests []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal(content, &list); err != nil {
		skipped(repository+":"+tag, err)
		return nil
	}
	digests := []digest.Digest{digest.FromBytes(content)}
	for _, m := range list.Manifests {
		digests = append(digests, m.Digest)
	}
	for _, d := range digests {
		image, err := api.NewImage("localhost", repository, string(d))
		if err != nil {
			skipped(repository+":"+tag, err)
			continue
		}
		image.Host = r.host
		if err := found(image); err != nil {
			return err
		}
	}
	return nil
}

type listPage struct{ Repositories, Tags []string }

// maxPages bounds a listing of a registry, at a hundred names a page or more.
const maxPages = 100_000

// pages follows a listing of the registry, which says in Link where it goes on.
func (r references) pages(ctx context.Context, path string, each func(listPage) error) error {
	path += "?n=1000"
	for range maxPages {
		content, header, err := r.c.ask(ctx, http.MethodGet, path, http.Header{}, nil)
		if err != nil {
			return err
		}
		var page listPage
		if err := json.Unmarshal(content, &page); err != nil {
			return fmt.Errorf("%s answered no listing: %w", path, err)
		}
		if err := each(page); err != nil {
			return err
		}
		next, ok := nextLink(header.Get("Link"))
		if !ok {
			return nil
		}
		path = next
	}
	return fmt.Errorf("%s has more than %d pages", path, maxPages)
}

// nextLink reads </v2/…>; rel="next". Of a URL only path and query count: the server is who was asked.
func nextLink(link string) (string, bool) {
	target, _, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	u, err := url.Parse(target)
	if !ok || err != nil || !strings.HasPrefix(u.Path, "/v2/") {
		return "", false
	}
	return u.RequestURI(), true
}
