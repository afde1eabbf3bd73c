// Package registry is what Countersign stands in front of, or brings along: the handler of
// /v2/, and a way to ask what a tag or digest is. It reports what is pushed.
package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Errors of Manifest.
var (
	ErrUnknown     = errors.New("manifest unknown") // neither this repository nor this tag or digest
	ErrUnavailable = errors.New("registry is away") // it could not be asked
)

// A Registry serves /v2/ and knows manifests.
type Registry interface {
	http.Handler
	// Manifest returns what a tag, or a digest, of the repository is at this moment. Its digest
	// is the hash of its bytes. Errors: ErrUnknown, ErrUnavailable.
	Manifest(ctx context.Context, repository, reference string) (Manifest, error)
}

// A Manifest is an image's, or a list's.
type Manifest struct {
	Digest    digest.Digest // sha256 of Content
	MediaType string
	Content   []byte
}

// A Push is a manifest that is about to be answered with 201.
type Push struct {
	Repository string
	Tag        string // empty: pushed by digest
	Manifest   Manifest
}

// A Watcher is told of every push: after the manifest is stored, before its tag exists. Its
// error fails the push; the registry answers with it.
type Watcher func(ctx context.Context, push Push) error
