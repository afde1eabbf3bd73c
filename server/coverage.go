package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/signature"
)

// Bounds of one page of coverage: what it looks at, and how long it begins to look at more.
const (
	maxCovered  = 100
	coverWithin = 10 * time.Second
)

// tags lists the tags of a repository.
func (s *Server) tags(r *http.Request) (api.TagPage, error) {
	repository, err := s.pulled(r)
	if err != nil {
		return api.TagPage{}, err
	}
	tags, next, err := s.c.Registry.Tags(asCaller(r), repository, r.URL.Query().Get("after"))
	return api.TagPage{Repository: s.c.Hosts[0] + "/" + repository, Tags: append([]string{}, tags...), Next: next}, err
}

// repositories lists what the registry has.
func (s *Server) repositories(r *http.Request) (api.RepositoryPage, error) {
	if err := s.may(r, access.Admin, s.c.Hosts[0], ""); err != nil {
		return api.RepositoryPage{}, err
	}
	names, next, err := s.c.Registry.Repositories(r.Context(), r.URL.Query().Get("after"))
	return api.RepositoryPage{Repositories: append([]string{}, names...), Next: next}, err
}

// pulled reads the repository of a query, with our host or without, and asks whether the caller
// may pull from it.
func (s *Server) pulled(r *http.Request) (string, error) {
	repository := r.URL.Query().Get("repository")
	if named, err := signature.ParseReference(repository); err == nil && s.kept(reference.Domain(named)) == s.c.Hosts[0] {
		repository = reference.Path(named)
	}
	if named, err := reference.WithName(s.c.Hosts[0] + "/" + repository); err != nil || reference.Path(named) != repository {
		return "", fmt.Errorf("%w: repository %.200q is the name of none", errRequest, repository)
	}
	return repository, s.may(r, access.Pull, s.c.Hosts[0], repository)
}

// coverage says of the tags of a repository what nodes of a profile would reject.
func (s *Server) coverage(r *http.Request) (page api.CoveragePage, err error) {
	repository, err := s.pulled(r)
	if err != nil {
		return page, err
	}
	ctx, q := asCaller(r), r.URL.Query()
	page.Repository, page.Tags = s.c.Hosts[0]+"/"+repository, []api.TagCoverage{}
	if _, page.Profile, err = s.policyOf(api.VerifyRequest{Profile: q.Get("profile")}); err != nil {
		return page, err
	}
	tags, next, err := s.c.Registry.Tags(ctx, repository, q.Get("after"))
	if err != nil {
		return page, err
	}
	page.Next = next
	until := time.Now().Add(coverWithin)
	for i, tag := range tags {
		if i == maxCovered || i > 0 && time.Now().After(until) {
			page.Next = tags[i-1]
			return page, nil
		}
		covered, err := s.covered(ctx, page.Repository, tag, page.Profile)
		if errors.Is(err, registry.ErrUnknown) {
			continue // it is gone meanwhile
		}
		if err != nil {
			return page, err
		}
		page.Tags = append(page.Tags, covered)
	}
	return page, nil
}

// covered judges one tag, as verify does.
func (s *Server) covered(ctx context.Context, repository, tag, profile string) (api.TagCoverage, error) {
	c := api.TagCoverage{Tag: tag}
	select {
	case s.verifying <- struct{}{}:
		defer func() { <-s.verifying }()
	case <-ctx.Done():
		return c, ctx.Err()
	}
	named, err := signature.ParseReference(repository + ":" + tag)
	if err != nil {
		return c, fmt.Errorf("%w: %v", errRequest, err)
	}
	v, err := s.verify(ctx, api.VerifyRequest{Profile: profile}, named)
	if errors.Is(err, registry.ErrInvalid) {
		c.Rejected = []api.RejectedManifest{{Reasons: []string{said(err)}}}
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.Accepted, c.Advice, c.Digest = v.Accepted, v.Advice, v.Manifests[0].Digest
	for _, m := range v.Manifests {
		if m.Accepted || m.List || m.Platform == attestation {
			continue
		}
		rejected := api.RejectedManifest{Digest: m.Digest, Platform: m.Platform, Scope: m.Scope}
		for _, requirement := range m.Requirements {
			if !requirement.Accepted {
				rejected.Reasons = append(rejected.Reasons, requirement.Reason)
			}
		}
		c.Rejected = append(c.Rejected, rejected)
	}
	return c, nil
}
