// Package registry is what Countersign stands in front of, or brings along: the handler of
// /v2/, and a way to ask what a tag or digest is. It reports what is pushed.
//
// Trusted for: what a tag is at this moment, since nothing else knows, and whether a digest
// is there. With an embedded registry that trusts the file system and whoever can write to
// its directory, the files in it being private to the server's user.
//
// Not trusted for: content. A manifest's digest is always computed from the bytes at hand,
// never taken from a header, a name or a file's place; bytes that do not hash to what was
// asked for are no manifest. Not trusted either: media types that disagree with the content,
// which Manifest.Instances refuses, and the names in requests. Nothing here says who may push.
package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Errors of Manifest and of Instances.
var (
	ErrUnknown     = errors.New("manifest unknown") // neither this repository nor this tag or digest
	ErrUnavailable = errors.New("registry is away") // it could not be asked
	ErrInvalid     = errors.New("manifest invalid") // Instances: the message around it is fit for whoever pushed it
)

// A Registry serves /v2/ and knows manifests.
type Registry interface {
	http.Handler
	// Manifest returns what a tag, or a digest, of the repository is at this moment. Its digest
	// is the hash of its bytes. Errors: ErrUnknown, ErrUnavailable.
	Manifest(ctx context.Context, repository, reference string) (Manifest, error)
	// Tags returns some tags of the repository, MaxPage at most, in the registry's order, and what
	// comes next: the argument after that goes on behind them, empty at the end. A page may be
	// empty and still have a next. Errors: ErrUnknown, ErrUnavailable.
	Tags(ctx context.Context, repository, after string) (tags []string, next string, err error)
	// Repositories returns names of repositories in the same way.
	Repositories(ctx context.Context, after string) (names []string, next string, err error)
}

// MaxPage bounds a page of tags or repositories.
const MaxPage = 1000

// A Push is a manifest that is about to be answered with 201.
type Push struct {
	Repository string
	Tag        string // empty: pushed by digest
	Manifest   Manifest
}

// A Watcher is told of every push. Its context is the request's. Its error fails the push,
// which whoever pushed repeats whole: a Watcher hears of the same push more than once.
type Watcher func(ctx context.Context, push Push) error

// A Delete is a manifest, or only a tag of it, that the registry has just deleted.
type Delete struct {
	Repository string
	Tag        string        // with it only the tag is gone
	Digest     digest.Digest // without Tag: the manifest and, with an embedded registry, all its tags
}

// A DeleteWatcher is told of every deletion that succeeded, before its answer. Its context is the
// request's. Its error fails the answer and brings nothing back: repeated, the deletion finds
// nothing. The same manifest may have been pushed again meanwhile: ask the registry.
type DeleteWatcher func(ctx context.Context, deleted Delete) error
