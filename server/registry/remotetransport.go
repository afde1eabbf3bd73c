package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// errStalled is why a request to a registry that stopped in the middle was ended.
var errStalled = errors.New("nothing came for too long")

// Limits of what a registry may cost.
const (
	connecting       = 5 * time.Second  // TCP and TLS, each
	idleConnections  = 64               // kept open
	idlePatience     = 30 * time.Second // for the next request: before a server's, which would break the next upload
	maxHeader        = 64 << 10         // of an answer
	defaultPatience  = 60 * time.Second // for the next byte: object storages take their time at the end of an upload
	manifestPatience = 15 * time.Second // for all of a manifest
)

// Transport returns connections to a registry: HTTP/1.1 and 2, bounded in everything but the
// time that an answer takes, without compression of its own and without proxies from the
// environment. For a Remote and for whoever else asks the same registry. t may be nil.
func Transport(t *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            dialer().DialContext,
		TLSClientConfig:        t.Clone(),
		TLSHandshakeTimeout:    connecting,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // what is hashed is what was sent
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idlePatience,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// dialer makes connections to a registry.
func dialer() *net.Dialer { return &net.Dialer{Timeout: connecting, KeepAlive: 15 * time.Second} }

// A patient transport ends requests to a registry that stopped answering, or stopped taking
// what it is sent. Waiting for the client does not count: some clients are slow.
type patient struct {
	http.RoundTripper
	patience time.Duration
}

// RoundTrip lets none of the request's trace through: ReverseProxy hands on 1xx answers that
// way, and clears what headers the server has set for the final one.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(valueless{r.Context()})
	w := &watchdog{patience: p.patience, bite: func() { cancel(errStalled) }}
	out := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = &sending{r.Body, w}
	}
	w.wait()
	answer, err := p.RoundTripper.RoundTrip(out)
	w.answered()
	if err == nil {
		if err = understood(answer); err != nil {
			answer.Body.Close()
		}
	}
	if err != nil {
		defer cancel(nil)
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = fmt.Errorf("%w within %v", cause, p.patience)
		}
		return nil, err
	}
	answer.Request = r
	answer.Body = &receiving{answer.Body, w, cancel}
	return answer, nil
}

// understood is an error for an answer that cannot be passed on.
func understood(answer *http.Response) error {
	switch {
	case answer.StatusCode == http.StatusSwitchingProtocols:
		return errors.New("it wants to speak another protocol")
	case answer.StatusCode < 100:
		return fmt.Errorf("its status is %q", answer.Status)
	}
	return nil
}

type valueless struct{ context.Context }

func (valueless) Value(any) any { return nil }

// A watchdog runs while it is the registry's turn.
type watchdog struct {
	patience time.Duration
	bite     func()

	mu     sync.Mutex
	timer  *time.Timer
	answer bool // has begun: what is still being sent counts no more
}

func (w *watchdog) wait() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(w.patience, w.bite)
		return
	}
	w.timer.Reset(w.patience)
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

func (w *watchdog) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = true
	w.timer.Stop()
}

// sending runs or stops the watchdog for what is being sent.
func (w *watchdog) sending(registrysTurn bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.answer:
	case registrysTurn:
		w.timer.Reset(w.patience)
	default:
		w.timer.Stop()
	}
}

// sending is the body of a request.
type sending struct {
	io.ReadCloser
	watchdog *watchdog
}

func (s *sending) Read(p []byte) (int, error) {
	s.watchdog.sending(false)
	defer s.watchdog.sending(true)
	return s.ReadCloser.Read(p)
}

// receiving is the body of an answer.
type receiving struct {
	io.ReadCloser
	watchdog *watchdog
	cancel   context.CancelCauseFunc
}

func (r *receiving) Read(p []byte) (int, error) {
	r.watchdog.wait()
	defer r.watchdog.stop()
	return r.ReadCloser.Read(p)
}

func (r *receiving) Close() error {
	r.watchdog.stop()
	defer r.cancel(nil)
	return r.ReadCloser.Close()
}
