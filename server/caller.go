package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
)

// errNobody is for what only our own access settings can allow, where there are none.
var errNobody = fmt.Errorf("%w: nothing says who may. hint: access.grants in the server's settings", access.ErrForbidden)

// may says whether the caller may do that there, and remembers who it is. Pull and push on our own
// host are the registry's to answer where it is another's; all else is in our own settings. With
// no access at all, which only loopback may have, everybody may do everything.
func (s *Server) may(r *http.Request, a access.Action, host, repository string) error {
	return s.mayAt(r, a, access.Scope{Host: host, Repository: repository})
}

// mayImage is may for what is about one image.
func (s *Server) mayImage(r *http.Request, a access.Action, image api.Image) error {
	return s.mayAt(r, a, access.Scope{Host: image.Host, Repository: image.Repository, Digest: image.Digest})
}

func (s *Server) mayAt(r *http.Request, a access.Action, at access.Scope) error {
	e := eventOf(r)
	e.subject = access.Anonymous
	ours := at.Host == s.c.Hosts[0]
	switch {
	case s.c.Access == nil && s.c.Own == nil:
		return nil
	case !ours && a == access.Pull:
		return nil
	}
	decides := s.c.Own
	if ours && (a == access.Pull || a == access.Push) {
		decides = s.c.Access
	}
	if decides == nil {
		return errNobody
	}
	c, theirs := credentials(r), s.beside() && decides == s.c.Access
	if theirs && s.issued(c.Authorization) {
		c.Authorization = ""
	}
	subject, err := decides.Decide(r.Context(), c, a, at)
	if subject != "" {
		e.subject = subject
	}
	e.lent = err == nil && theirs && c.Authorization != ""
	if err == nil && a != access.Pull && s.c.Writes != nil && counted(r) {
		err = s.c.Writes.Take(s.payer(r))
	}
	return err
}

// beside says whether the registry is another's, which answers itself who may pull and push there.
func (s *Server) beside() bool { return s.c.Access != nil && s.c.Access != s.c.Own }

// issued says whether credentials are for this server alone. A registry never sees them: it could use
// them here. Who sends them is anonymous there.
func (s *Server) issued(authorization string) bool {
	if s.c.Issued != nil {
		return s.c.Issued(authorization)
	}
	return access.IsToken(authorization)
}

// counted says whether a request is one of those that a caller may only do so many of: it makes the
// server sign, verify or store. Blobs only cost what they weigh.
func counted(r *http.Request) bool {
	if isRead(r) {
		return false
	}
	return eventOf(r).route != routeRegistry || !isBlob(r.URL.Path)
}

// payer is whom a write is counted for: who it is, or where an anonymous one comes from.
func (s *Server) payer(r *http.Request) string {
	if subject := eventOf(r).subject; subject != access.Anonymous {
		return subject
	}
	return "from " + access.Bucket(r.RemoteAddr)
}

// asCaller is the context to ask the registry for manifests in. Credentials that were meant for that
// registry, and that it took, go there with it; those for this server never do.
func asCaller(r *http.Request) context.Context {
	if !eventOf(r).lent {
		return r.Context()
	}
	return registry.WithAuthorization(r.Context(), r.Header.Get("Authorization"))
}

// credentials are what of a request may make an identity: never a forwarding header, a Host, or
// a certificate that nobody has verified.
func credentials(r *http.Request) access.Credentials {
	c := access.Credentials{Authorization: r.Header.Get("Authorization"), Address: r.RemoteAddr}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c.Certificate = r.TLS.VerifiedChains[0][0]
	}
	return c
}

// caller is who asks, as access has said, and from where: an address is the connection's.
func caller(r *http.Request) admission.Caller {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return admission.Caller{Subject: eventOf(r).subject, Address: host}
}

// hidden is what a reader of the lookaside is told of a repository that they may not pull: the
// same as of one that is not there, since clients send a lookaside no credentials and fail on
// everything but 404 (protocol.md 1.3, 1.5).
func hidden(err error) error {
	if errors.Is(err, access.ErrUnauthorized) || errors.Is(err, access.ErrForbidden) || errors.Is(err, access.ErrTooMany) {
		return fmt.Errorf("%w: not everybody may pull it", errNotFound)
	}
	return err
}

// mayRegistry decides on a request to the embedded registry by its path and method. One that is
// none of the registry's paths is not passed on.
func (s *Server) mayRegistry(r *http.Request) error {
	path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(api.RegistryPrefix, "/"))
	switch strings.TrimPrefix(path, "/") {
	case "":
		return s.may(r, access.Pull, s.c.Hosts[0], "")
	case "_catalog":
		return s.may(r, access.Admin, s.c.Hosts[0], "")
	}
	repository, ok := repositoryOf(path)
	if !ok {
		return errNotFound
	}
	action := access.Push
	if isRead(r) || r.Method == http.MethodOptions {
		action = access.Pull
	}
	if err := api.CheckRepository(repository); err != nil {
		return err
	}
	if err := s.may(r, action, s.c.Hosts[0], repository); err != nil {
		return err
	}
	return s.mayMount(r)
}

// mayMount takes a mount from a repository that the caller may not pull out of the request: to mount
// copies a blob without sending it. The registry then asks for the blob, as when it lacks it. It
// looks for no parameters elsewhere: the embedded one takes no body for a form.
func (s *Server) mayMount(r *http.Request) error {
	query := r.URL.Query()
	for _, from := range query["from"] {
		err := s.may(r, access.Pull, s.c.Hosts[0], from)
		if errors.Is(err, access.ErrForbidden) || errors.Is(err, access.ErrUnauthorized) {
			query.Del("from")
			query.Del("mount")
			r.URL.RawQuery = query.Encode()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isBlob tells paths of blobs and their uploads.
func isBlob(path string) bool {
	segments := strings.Split(path, "/")
	n := len(segments)
	return n > 2 && segments[n-2] == "blobs" || n > 3 && segments[n-3] == "blobs" && segments[n-2] == "uploads"
}

// repositoryOf reads the name out of a path of the distribution API, from the right: what is
// behind it has no slashes, and names may have segments of the same words.
func repositoryOf(path string) (string, bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	n := len(segments)
	at := func(back int) string {
		if n <= back {
			return ""
		}
		return segments[n-1-back]
	}
	cut := 0
	switch {
	case at(1) == "manifests", at(1) == "referrers", at(1) == "tags" && at(0) == "list":
		cut = 2
	case at(2) == "blobs" && at(1) == "uploads":
		cut = 3
	case at(1) == "blobs":
		cut = 2
	}
	if cut == 0 || n <= cut {
		return "", false
	}
	return strings.Join(segments[:n-cut], "/"), true
}
