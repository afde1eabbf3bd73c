package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
)

// Tags implements Registry.
func (e *Embedded) Tags(ctx context.Context, repository, after string) (tags []string, next string, err error) {
	named, err := parseRepository(repository)
	if err != nil {
		return nil, "", fmt.Errorf("%w: repository %q: %v", ErrUnknown, repository, err)
	}
	r, err := e.registry.Repository(ctx, named)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	tags, err = r.Tags(ctx).List(ctx, MaxPage, after)
	if _, unknown := errors.AsType[distribution.ErrRepositoryUnknown](err); unknown {
		return nil, "", fmt.Errorf("%w: repository %s", ErrUnknown, repository)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return tags, following(tags, err == nil), nil
}

// Repositories implements Registry.
func (e *Embedded) Repositories(ctx context.Context, after string) (names []string, next string, err error) {
	names = make([]string, MaxPage)
	n, err := e.registry.Repositories(ctx, names, after)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	names = names[:n]
	return names, following(names, err == nil), nil
}

// following is the last of a page, if there may be more.
func following(page []string, more bool) string {
	if !more || len(page) == 0 {
		return ""
	}
	return page[len(page)-1]
}

// Tags implements Registry, and asks as Manifest does.
func (r *Remote) Tags(ctx context.Context, repository, after string) (tags []string, next string, err error) {
	named, err := parseRepository(repository)
	if err != nil {
		return nil, "", fmt.Errorf("%w: repository %q: %v", ErrUnknown, repository, err)
	}
	var page struct{ Tags []string }
	next, err = r.page(ctx, api.RegistryPrefix+repository+"/tags/list", "repository:"+repository+":pull", after, &page)
	if err != nil {
		return nil, "", err
	}
	tags = slices.DeleteFunc(page.Tags, func(tag string) bool {
		_, err := reference.WithTag(named, tag)
		return err != nil || tag == after
	})
	return tags, next, nil
}

// Repositories implements Registry. Many registries list them to nobody: that is ErrUnavailable and
// ErrRefused, or ErrUnknown.
func (r *Remote) Repositories(ctx context.Context, after string) (names []string, next string, err error) {
	var page struct{ Repositories []string }
	next, err = r.page(ctx, api.RegistryPrefix+"_catalog", "registry:catalog:*", after, &page)
	if err != nil {
		return nil, "", err
	}
	names = slices.DeleteFunc(page.Repositories, func(name string) bool {
		_, err := parseRepository(name)
		return err != nil || name == after
	})
	return names, next, nil
}

// maxList bounds what a registry answers with a list, in bytes: some ignore how many were asked for.
const maxList = 16 << 20

// page reads one page of a list, and what the registry calls the next.
func (r *Remote) page(ctx context.Context, path, scope, after string, into any) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, manifestPatience)
	defer cancel()
	query := url.Values{"n": {strconv.Itoa(MaxPage)}}
	if after != "" {
		query.Set("last", after)
	}
	answer, err := r.ask(ctx, &url.URL{Path: path, RawQuery: query.Encode()}, scope, "application/json")
	if err == nil {
		defer answer.Body.Close()
		next, err = readPage(answer, into)
	}
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnavailable) {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if next == after {
		next = "" // it would go on for ever
	}
	return next, err
}

func readPage(answer *http.Response, into any) (next string, err error) {
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxList+1))
	if err == nil && len(content) > maxList {
		err = fmt.Errorf("a list of more than %d bytes", maxList)
	}
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	if err != nil {
		return "", err
	}
	link, relation, _ := strings.Cut(strings.TrimPrefix(answer.Header.Get("Link"), "<"), ">")
	u, err := url.Parse(link)
	if link == "" || err != nil || !strings.Contains(relation, "next") {
		return "", nil
	}
	return u.Query().Get("last"), nil
}
