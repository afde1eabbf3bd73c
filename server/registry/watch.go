package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign-dev/countersign/api"
)

// watched is distribution's registry with pushes reported. It wraps the registry, not each
// repository, since that also decides which names there are.
type watched struct {
	distribution.Namespace
	distribution.RepositoryRemover
	pushed  Watcher
	tagged  Watcher
	deleted DeleteWatcher
	refusal func(error) (code, message string)
	log     *slog.Logger
}

func (w *watched) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	if _, err := parseRepository(name.Name()); err != nil {
		return nil, distribution.ErrRepositoryNameInvalid{Name: name.Name(), Reason: err}
	}
	r, err := w.Namespace.Repository(ctx, name)
	return &watchedRepository{Repository: r, watched: w}, err
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

// A watchedRepository lives as long as one request.
type watchedRepository struct {
	distribution.Repository
	watched *watched
	tagged  string        // by Put, as
	as      digest.Digest // this
	deleted bool          // the manifest; its tags go with it
}

func (r *watchedRepository) Manifests(ctx context.Context, options ...distribution.ManifestServiceOption) (distribution.ManifestService, error) {
	m, err := r.Repository.Manifests(ctx, options...)
	return watchedManifests{m, r}, err
}

func (r *watchedRepository) Tags(ctx context.Context) distribution.TagService {
	return watchedTags{r.Repository.Tags(ctx), r}
}

type watchedTags struct {
	distribution.TagService
	repository *watchedRepository
}

// Tag has nothing left to do for a tag that Put has written.
func (t watchedTags) Tag(ctx context.Context, tag string, d v1.Descriptor) error {
	if tag == t.repository.tagged && d.Digest == t.repository.as {
		return nil
	}
	return t.TagService.Tag(ctx, tag, d)
}

// Untag reports a tag that was deleted alone. After a manifest distribution untags several at once.
func (t watchedTags) Untag(ctx context.Context, tag string) error {
	r := t.repository
	if err := t.TagService.Untag(ctx, tag); err != nil || r.deleted {
		return err
	}
	return r.watched.report(ctx, Delete{Repository: r.Named().Name(), Tag: tag})
}

type watchedManifests struct {
	distribution.ManifestService
	repository *watchedRepository
}

// Put does all of a push: manifest, Pushed, tag, Tagged. It writes the tag itself, since the
// caller, who would do that next, hides what went wrong there. A push that failed half way is
// pushed again, and all of it is done again.
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
	r := m.repository
	push := Push{Repository: r.Named().Name(), Tag: tagOf(options), Manifest: pushed}
	if err := r.watched.pushed(ctx, push); err != nil {
		return "", r.watched.refuse(ctx, push, err)
	}
	if err := r.tag(ctx, push); err != nil {
		return "", err
	}
	if err := r.watched.tagged(ctx, push); err != nil {
		return "", r.watched.refuse(ctx, push, err)
	}
	return pushed.Digest, nil
}

// Delete reports what was deleted before distribution removes the tags.
func (m watchedManifests) Delete(ctx context.Context, d digest.Digest) error {
	if err := m.ManifestService.Delete(ctx, d); err != nil {
		return err
	}
	r := m.repository
	r.deleted = true
	return r.watched.report(ctx, Delete{Repository: r.Named().Name(), Digest: d})
}

// report tells of a deletion, and logs why a watcher failed it: distribution does not.
func (w *watched) report(ctx context.Context, deleted Delete) error {
	err := w.deleted(ctx, deleted)
	if err != nil {
		w.log.Log(ctx, slog.LevelError, "deleted, and what follows a deletion failed", "repository", deleted.Repository,
			"tag", deleted.Tag, "digest", deleted.Digest, "error", err)
	}
	return err
}

func (r *watchedRepository) tag(ctx context.Context, push Push) error {
	if push.Tag == "" {
		return nil
	}
	m := push.Manifest
	err := r.Repository.Tags(ctx).Tag(ctx, push.Tag, v1.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Content))})
	if err == nil {
		r.tagged, r.as = push.Tag, m.Digest
	}
	return err
}

// refuse logs why a watcher failed the push, and returns what distribution answers as it is. It
// would put any other error's text into the answer.
func (w *watched) refuse(ctx context.Context, push Push, cause error) error {
	name, message := w.refusal(cause)
	code := errcode.ParseErrorCode(name)
	level := slog.LevelWarn
	if code.Descriptor().HTTPStatusCode >= http.StatusInternalServerError && !errors.Is(cause, context.Canceled) {
		level = slog.LevelError
	}
	w.log.Log(ctx, level, "push failed", "repository", push.Repository, "tag", push.Tag,
		"digest", push.Manifest.Digest, "code", name, "error", cause)
	return code.WithMessage(message)
}

// unfinished is the refusal that says nothing.
func unfinished(error) (code, message string) {
	return api.CodeUnknown, "the push could not be finished; push again"
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
