package registry

import (
	"context"
	"errors"
	"log/slog"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// watched is distribution's registry with pushes reported. It wraps the registry, not each
// repository, since that also decides which names there are.
type watched struct {
	distribution.Namespace
	distribution.RepositoryRemover
	watcher Watcher
	log     *slog.Logger
}

func (w *watched) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	if _, err := parseRepository(name.Name()); err != nil {
		return nil, distribution.ErrRepositoryNameInvalid{Name: name.Name(), Reason: err}
	}
	r, err := w.Namespace.Repository(ctx, name)
	return watchedRepository{r, w}, err
}

// parseRepository takes no name that begins with a host and port, or an upper-case host:
// distribution does, but then cannot store it, and no docker reference can name it.
func parseRepository(name string) (reference.Named, error) {
	under, err := reference.WithName("h/" + name)
	if err != nil {
		return nil, err
	}
	if reference.Path(under) != name {
		return nil, reference.ErrNameNotCanonical
	}
	return reference.WithName(name)
}

type watchedRepository struct {
	distribution.Repository
	watched *watched
}

func (r watchedRepository) Manifests(ctx context.Context, options ...distribution.ManifestServiceOption) (distribution.ManifestService, error) {
	m, err := r.Repository.Manifests(ctx, options...)
	return watchedManifests{m, r.watched, r.Named().Name()}, err
}

type watchedManifests struct {
	distribution.ManifestService
	watched    *watched
	repository string
}

// Put stores the manifest before the watcher hears of it, and the tag is written by whoever
// called, after both: a push that failed half way leaves a manifest without a tag, and pushing
// again does all of it again.
func (m watchedManifests) Put(ctx context.Context, manifest distribution.Manifest, options ...distribution.ManifestServiceOption) (digest.Digest, error) {
	pushed, err := read(manifest)
	if err != nil {
		return "", err
	}
	if _, err := pushed.entries(); err != nil {
		return "", errcode.ErrorCodeManifestInvalid.WithMessage(err.Error())
	}
	if _, err := m.ManifestService.Put(ctx, manifest, options...); err != nil {
		return "", err
	}
	push := Push{Repository: m.repository, Tag: tagOf(options), Manifest: pushed}
	if err := m.watched.watcher(ctx, push); err != nil {
		return "", m.watched.answer(ctx, push, err)
	}
	return pushed.Digest, nil
}

// answer is what distribution serves as it is. It would put any other error's text into the
// answer's detail.
func (w *watched) answer(ctx context.Context, push Push, err error) error {
	if e, ok := errors.AsType[errcode.Error](err); ok {
		return e
	}
	w.log.ErrorContext(ctx, "push failed", "repository", push.Repository, "tag", push.Tag,
		"digest", push.Manifest.Digest, "error", err)
	return errcode.ErrorCodeUnknown.WithMessage("the push could not be finished; push again")
}

func tagOf(options []distribution.ManifestServiceOption) string {
	for _, option := range options {
		if with, ok := option.(distribution.WithTagOption); ok {
			return with.Tag
		}
	}
	return ""
}

func read(manifest distribution.Manifest) (Manifest, error) {
	mediaType, content, err := manifest.Payload()
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{Digest: digest.FromBytes(content), MediaType: mediaType, Content: content}, nil
}
