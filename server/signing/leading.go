package signing

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
)

// A leading is what tags lead to, as far as the registry was asked.
type leading struct {
	s     *Signing
	known map[tagged][]digest.Digest // the tag's manifest, and its instances
	away  bool
}

type tagged struct{ repository, tag string }

// Leading returns what says whether a reference leads to an image now, or to a list of it: yes where that
// cannot be told. It asks the registry about each tag once, and about none any more once it is away.
func (s *Signing) Leading() func(ctx context.Context, image api.Image, ref string) bool {
	return (&leading{s: s, known: map[tagged][]digest.Digest{}}).leads
}

func (l *leading) leads(ctx context.Context, image api.Image, ref string) bool {
	tag := l.s.claimed(image, ref)
	if image.Host != l.s.c.Hosts[0] || tag == "" || strings.Contains(tag, ":") {
		return true
	}
	at := tagged{image.Repository, tag}
	members, ok := l.known[at]
	switch {
	case ok:
		return slices.Contains(members, image.Digest)
	case l.away:
		return true
	}
	m, err := l.s.c.Registry.Manifest(ctx, image.Repository, tag)
	if err == nil {
		members, err = m.Instances()
		members = append([]digest.Digest{m.Digest}, members...)
	}
	switch {
	case errors.Is(err, registry.ErrInvalid):
		return true
	case err != nil && !errors.Is(err, registry.ErrUnknown):
		l.away = true
		return true
	}
	l.known[at] = members
	return slices.Contains(members, image.Digest)
}
