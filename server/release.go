package server

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// isRelease tells sha256=<hex>/signature-<n>, a path without a repository.
func isRelease(path string) bool {
	return strings.HasPrefix(strings.TrimLeft(path, "/"), string(digest.SHA256)+"=")
}

// serveRelease is the layout in which OpenShift looks for signatures of its releases: a digest and
// no repository (protocol.md 1.7). It serves what the repositories that settings name have of it.
func (s *Server) serveRelease(w http.ResponseWriter, r *http.Request, path string) {
	if !isRead(r) {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, errMethod)
		return
	}
	found, index, err := s.release(r, path)
	if err == nil && index > len(found) {
		err = fmt.Errorf("%w: there are %d signatures for a release", errNotFound, len(found))
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	s.writeSignature(w, r, found[index-1])
}

func (s *Server) release(r *http.Request, path string) (found []store.Signature, index int, err error) {
	for _, repository := range s.c.Release {
		image, n, err := api.ParseReleasePath(s.c.Hosts[0], repository, path)
		if err != nil {
			return nil, 0, err
		}
		e := eventOf(r)
		e.image, e.index, index = image.String(), n, n
		if err := s.may(r, access.Pull, image.Host, image.Repository); err != nil && !s.c.ServePrivate {
			if hidden(err) == err {
				return nil, 0, err
			}
			continue
		}
		set, err := s.get(r, image, 10*time.Second)
		if err != nil {
			return nil, 0, err
		}
		found = append(found, set.Signatures...)
	}
	if index == 0 {
		return nil, 0, errNotFound // there are no such repositories
	}
	return releaseOrder(found), index, nil
}

// releaseOrder returns what such clients read, of that what they most likely want: they look at few
// and take the first that verifies. The server's own stand in front, then the newest.
func releaseOrder(all []store.Signature) []store.Signature {
	found := slices.DeleteFunc(all, func(sig store.Signature) bool {
		m, err := signature.Parse(sig.Content)
		return err != nil || !m.HasPlainClaim()
	})
	slices.SortStableFunc(found, func(a, b store.Signature) int {
		if a.Own != b.Own {
			return map[bool]int{true: -1, false: 1}[a.Own]
		}
		return cmp.Or(b.Signed.Compare(a.Signed), b.Added.Compare(a.Added))
	})
	return found[:min(len(found), api.MaxRelease)]
}
