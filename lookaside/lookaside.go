// Package lookaside reads and writes lookasides that are not this server's own: a tree of files
// <repository>@sha256=<hex>/signature-<n>, in a directory or behind a URL (protocol.md 1).
//
// Nothing that is read here is trusted, neither the content nor the tree: sizes, counts and times
// are bounded, links lead nowhere else, and redirects do not reach what only this machine reaches.
package lookaside

import (
	"errors"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

// MaxIndex is the last index that every client reads (protocol.md 1.3).
const MaxIndex = api.MaxIndex

// What is wrong with a lookaside, or with one file of it.
var (
	ErrTooLarge  = errors.New("too large for a signature")
	ErrEndless   = errors.New("there is no end to the list")
	ErrElsewhere = errors.New("it leads elsewhere")
	ErrStatus    = errors.New("the lookaside answers something else than 200 or 404")
	ErrAway      = errors.New("the lookaside does not answer")
)

// A Found is one file of an image. Its index is the file's own: there may be gaps.
type Found struct {
	Index   int
	Content signature.Untrusted
	Err     error // why it has no content
}
