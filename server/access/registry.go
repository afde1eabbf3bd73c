package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/countersign-dev/countersign/server/bearer"
)

// Bounds of what asking a registry may cost.
const (
	verdictKept = 30 * time.Second // a right that was given or taken counts after that
	maxVerdicts = 1 << 14
	probeTime   = 5 * time.Second // for all that one question takes
	maxProbes   = 64              // at a time; half of them for one address
)

// Vouched is the subject of whom the registry lets pull, under a name that it was not asked for.
const Vouched = "registry"

// RegistryConfig is what is needed to ask a registry. Realms and Host may be empty, see
// bearer.Client.
type RegistryConfig struct {
	URL       *url.URL
	Host      string
	Realms    []string
	Transport http.RoundTripper // takes no redirects
	Clock     func() time.Time
	Metrics   prometheus.Registerer
}

// A Registry answers what a registry would: it replays a caller's Authorization there, and tells
// from the answer whether they may pull from a repository, or push to it. Nothing else: of signing,
// withdrawing and administration registries know nothing.
//
// A verdict is kept for 30 seconds, by a keyed hash of the credentials. That a registry did not
// answer is not a verdict.
type Registry struct {
	client   bearer.Client
	clock    func() time.Time
	key      []byte // of the hash: what is kept tells nobody a credential
	verdicts *lru[[sha256.Size]byte, verdict]
	flights  singleflight.Group
	probes   chan struct{}
	shares   *lru[string, chan struct{}] // of them, by address
	asked    *prometheus.CounterVec
}

var _ Access = (*Registry)(nil)

// A verdict is what the registry has said of some credentials.
type verdict struct {
	no        error // a *Challenge, or ErrForbidden; nil: they may
	anonymous bool  // as everybody may; the credentials themselves are good for nothing here
	once      bool  // it is about one manifest, and says nothing of the repository
	until     time.Time
}

// NewRegistry returns an Access that has not asked anything yet.
func NewRegistry(c RegistryConfig) (*Registry, error) {
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "countersign_registry_questions_total", Help: "Questions to the registry whether somebody may pull or push, by its answer.",
	}, []string{"action", "answer"})
	if err := c.Metrics.Register(asked); err != nil {
		return nil, err
	}
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return &Registry{
		client:   bearer.Client{Transport: c.Transport, Registry: c.URL, Host: c.Host, Realms: c.Realms},
		clock:    c.Clock,
		key:      key,
		verdicts: newLRU[[sha256.Size]byte, verdict](maxVerdicts),
		probes:   make(chan struct{}, maxProbes),
		shares:   newLRU[string, chan struct{}](maxLimits),
		asked:    asked,
	}, nil
}

// A question is one that a registry can answer.
type question struct {
	authorization string
	action        Action
	repository    string        // "": the ping
	digest        digest.Digest // of a manifest that the registry may have; or ""
	address       string        // of whoever asks
}

// Decide implements Access. Whoever pushes is named as the registry knows them, with "registry:"
// in front, if it lets not everybody push there: else nobody has looked at the name.
func (r *Registry) Decide(ctx context.Context, c Credentials, a Action, s Scope) (string, error) {
	if a != Pull && (a != Push || s.Repository == "") {
		return "", fmt.Errorf("%w: a registry decides who may pull from a repository and push to it, nothing else", ErrForbidden)
	}
	if s.Repository != "" {
		if !isRepository(s.Repository) {
			return "", fmt.Errorf("%w: %.100q is no repository", ErrForbidden, s.Repository)
		}
	}
	q := question{c.Authorization, a, s.Repository, s.Digest, c.Address}
	v, err := r.verdict(ctx, q)
	switch {
	case err != nil:
		return "", err
	case v.no != nil:
		return "", v.no
	case q.authorization == "" || v.anonymous:
		return Anonymous, nil
	case a == Pull:
		return Vouched, nil
	}
	q.authorization = ""
	if v, err := r.verdict(ctx, q); err != nil || v.no == nil {
		return Anonymous, nil // or nobody can say; who may push may do so without a name
	}
	return Vouched + ":" + nameIn(c.Authorization), nil
}

// verdict answers from what is kept, or asks the registry: once, however many want to know.
func (r *Registry) verdict(ctx context.Context, q question) (verdict, error) {
	key := r.hash(q)
	if v, ok := r.verdicts.get(key); ok && r.clock().Before(v.until) {
		return v, nil
	}
	// What one manifest's absence means holds for no other, so each has a flight of its own.
	flight := r.flights.DoChan(string(key[:])+string(q.digest), func() (any, error) {
		// It goes on if the first to ask leaves: others wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
		defer cancel()
		v, err := r.probe(ctx, q)
		r.count(q, v.no, err)
		if err != nil {
			return verdict{}, fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		if v.until = r.clock().Add(verdictKept); !v.once {
			r.verdicts.put(key, v)
		}
		return v, nil
	})
	select {
	case result := <-flight:
		v, _ := result.Val.(verdict)
		return v, result.Err
	case <-ctx.Done():
		return verdict{}, fmt.Errorf("%w: %v", ErrUnavailable, context.Cause(ctx))
	}
}

func (r *Registry) hash(q question) (key [sha256.Size]byte) {
	h := hmac.New(sha256.New, r.key)
	for _, part := range []string{string(q.action), q.repository, q.authorization} {
		fmt.Fprintf(h, "%d %s", len(part), part) // no two questions run together
	}
	h.Sum(key[:0])
	return key
}

func (r *Registry) count(q question, no, err error) {
	answer := "yes"
	switch {
	case err != nil:
		answer = "unavailable"
	case no != nil:
		answer = "no"
	}
	r.asked.WithLabelValues(string(q.action), answer).Inc()
}
