// Package server is HTTP: the routes of the registry, the signature extension and the
// lookaside, one table of errors, one log line a request. What decides is elsewhere: the door
// in server/admission, what the server signs in server/signing.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/access"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/readthrough"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// A Config is what a Server stands on. All fields are required but where it says otherwise.
type Config struct {
	Hosts    []string // what nodes call this registry, host[:port]; the first is the one images are kept under
	Registry registry.Registry
	Store    store.Store
	Door     *admission.Door
	Signing  *signing.Signing
	Limits   store.Limits // of one image, as the store has them: a dry run asks what it would say
	// Lookasides are asked for what they have of an image before its signatures are read. nil: none.
	Lookasides *readthrough.Lookasides
	// Notifications are taken of a registry beside which this server stands. nil: none.
	Notifications *Notifications
	// Access says who may pull and push here, Own everything else, and who may push signatures for
	// other hosts. They are the same where the registry is ours. Both nil: everybody may do all.
	Access, Own access.Access
	// Issued says whether an Authorization is for this server alone: no registry beside it sees that.
	// nil: static tokens are.
	Issued func(authorization string) bool
	// Writes bounds what one caller writes, where somebody says who may; nil does not.
	Writes *access.Limiter
	// ServePrivate makes the lookaside serve repositories that not everybody may pull, too.
	ServePrivate bool
	// Release are repositories on our host whose signatures the lookaside serves by digest alone, too.
	Release []string
	// Profiles are the policies that nodes enforce, by name. With one, nobody need name it.
	Profiles map[string]func() *policy.Policy
	// Keys are the public keys that the server signs with; nil: none.
	Keys func() *signature.Keyring
	// NodeLookasides are where nodes find signatures that the extension does not serve; nil: nowhere.
	NodeLookasides func() []node.Lookaside
	// DropForeign answers 201 to a signature that clients copied along and that is not admitted,
	// and records it instead of storing it; by default it is refused (design.md 3, Admission).
	DropForeign bool
	// Calendar says when keys end. Nil: there is no such answer.
	Calendar func(context.Context) (api.Calendar, error)
	// Background is called as a thread begins to verify uploads, and what it returns as that ends, when
	// none has come for a while. nil: nothing is.
	Background func() (end func())
	Advertise  bool // X-Registry-Supports-Signatures on /v2/; false: clients use the lookaside they are configured with
	Profiling  bool // /debug/pprof on the debug listener
	Log        *slog.Logger
	Metrics    *prometheus.Registry
	Gather     prometheus.Gatherer // what /metrics tells; nil: Metrics
	Clock      func() time.Time
}

// A Server answers the main listener and the debug listener.
type Server struct {
	c         Config
	names     map[string]bool // host names without ports, for the Host check
	metrics   *metrics
	outage    outage // of the store
	refused   refusalQuota
	undecided outage // of who decides on access
	leaving   atomic.Bool
	verifying chan struct{} // what is verified at a time
	admitting *background   // and of uploads
	notifying chan struct{} // requests with notifications
	lists     sync.Pool     // *[]byte, room for encoded lists
}

// New returns a server. Nothing runs yet and nothing is open: it has handlers.
func New(c Config) (*Server, error) {
	if len(c.Hosts) == 0 {
		return nil, errors.New("hosts is empty: name what nodes call this registry")
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	if c.Background == nil {
		c.Background = alone
	}
	s := &Server{c: c, names: map[string]bool{}, metrics: m, verifying: make(chan struct{}, 2), admitting: newBackground(max(1, runtime.GOMAXPROCS(0)/2), c.Background), notifying: make(chan struct{}, maxNotifying)}
	s.lists.New = func() any { return new([]byte) }
	for _, h := range c.Hosts {
		s.names[hostname(h)] = true
	}
	return s, c.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "countersign_store_away", Help: "1 while the store does not answer.",
	}, s.outage.gauge))
}

// Drain makes /readyz say no: the listener is about to close.
func (s *Server) Drain() { s.leaving.Store(true) }

// refusing answers everything with one error.
func refusing(err error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { writeError(w, r, err) }
}

// plain refuses a path that means one thing as it was sent and another when it is decoded:
// what stands behind this server may read it the other way.
func (s *Server) plain(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !api.Plain(r.URL.Path, r.URL.EscapedPath()) {
			writeError(w, r, errPath)
			return
		}
		next(w, r)
	}
}

// serveRegistry passes /v2/ on, and advertises the signature extension where clients look for
// it: on whatever answers the ping, 200 or 401 (protocol.md 3.1).
func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request) {
	if s.c.Advertise && (r.URL.Path == "/v2" || r.URL.Path == api.RegistryPrefix) {
		w.Header().Set("X-Registry-Supports-Signatures", "1")
	}
	if s.c.Own != nil && s.c.Access == s.c.Own {
		if err := s.mayRegistry(r); err != nil {
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			writeError(w, r, err)
			return
		}
	}
	if s.beside() && slices.ContainsFunc(r.Header.Values("Authorization"), s.issued) {
		r = r.Clone(r.Context()) // the headers may be of requests that repeat this one, too
		r.Header.Del("Authorization")
	}
	s.c.Registry.ServeHTTP(w, r)
}
