// Package access says who a caller is and what they may do. There is one decision for every
// protocol: the registry's own, the signature extension, writes to the lookaside, and the API.
//
// Nothing but the Authorization header, a client certificate that the server itself verified,
// and the address of the connection makes an identity: no Host and no forwarding header does.
package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// An Action is what a caller wants to do. None implies another: who may push may not by that
// sign, and who may admin may not by that push. Where somebody may do several, each is listed.
type Action string

// The actions of design.md 4.
const (
	Pull     Action = "pull"     // read the registry, signatures and what a policy says of them
	Push     Action = "push"     // write images, and upload signatures
	Sign     Action = "sign"     // have the server sign
	Withdraw Action = "withdraw" // withdraw signatures
	Admin    Action = "admin"    // lift withdrawals; list across repositories; audit, queue, import
)

// Actions returns all there are.
func Actions() []Action { return []Action{Pull, Push, Sign, Withdraw, Admin} }

// Anonymous is the subject of a caller without credentials.
const Anonymous = "anonymous"

// Credentials are all of a request that may make an identity.
type Credentials struct {
	Authorization string            // the header, as sent; "" is anonymous unless there is a certificate
	Certificate   *x509.Certificate // the client's, verified against the configured authorities; or nil
	Address       string            // of the connection, host:port or host; what failed logins are counted by
}

// A Scope is where something is to be done.
type Scope struct {
	Host       string // canonical: the first of the server's own for any of them
	Repository string // "" for what belongs to no single repository, as the ping and listings
	// Digest is of the manifest that it is about, where it is about one. No grant depends on it: a
	// registry that is asked whether somebody may pull is best asked for what it has.
	Digest digest.Digest
}

// An Access decides. It is safe for concurrent use.
type Access interface {
	// Decide says who the credentials are of, and whether they may do that there. The subject
	// is named with ErrForbidden too. Every error wraps exactly one of the errors of this
	// package; its text is fit for the caller and holds no credential.
	//
	// For a scope of no repository: Pull is the registry's ping, for which whoever has
	// credentials is let in; the other actions ask for a grant over everything of the host.
	Decide(ctx context.Context, c Credentials, a Action, s Scope) (subject string, err error)
}

// What keeps a caller from something. They are told apart with errors.Is.
var (
	ErrUnauthorized = errors.New("authentication required") // no or bad credentials; comes with a *Challenge
	ErrForbidden    = errors.New("not allowed")             // good credentials, which may not do this here
	ErrUnavailable  = errors.New("cannot decide now")       // who decides does not answer; nothing is known
	ErrTooMany      = errors.New("too many")                // comes with a *Wait
)

// A Challenge is an ErrUnauthorized, and what to answer it with.
type Challenge struct {
	Header []string // values of WWW-Authenticate, one header line each
	Reason string   // for the caller
}

func (c *Challenge) Error() string {
	if c.Reason == "" {
		return ErrUnauthorized.Error()
	}
	return ErrUnauthorized.Error() + ": " + c.Reason
}

func (c *Challenge) Unwrap() error { return ErrUnauthorized }

// A Wait is an ErrTooMany: of what, and what Retry-After should say.
type Wait struct {
	What string // "failed logins", "writes"
	For  time.Duration
}

func (w *Wait) Error() string {
	return fmt.Sprintf("%v %s: try again in %v", ErrTooMany, w.What, max(w.For.Round(time.Second), time.Second))
}

func (w *Wait) Unwrap() error { return ErrTooMany }
