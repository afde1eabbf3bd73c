package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/bearer"
)

// ErrRefused is wrapped together with ErrUnavailable when the registry answered, but not to
// the credentials that it was asked with: WithAuthorization's, or none.
var ErrRefused = errors.New("the registry wants other credentials")

// Bounds of what is read of answers.
const (
	maxManifest = 4 << 20 // what registries commonly take
	maxRefusal  = 64 << 10
)

// Bounds of manifests that are being pushed: they are read before the registry has said who may.
const (
	maxReceiving    = 128 << 20        // of all, in bytes
	roomPatience    = 10 * time.Second // for room among them
	receivePatience = 30 * time.Second // for one to come
)

// RemoteConfig is what a remote registry needs.
type RemoteConfig struct {
	URL *url.URL // http or https, a host and nothing more: the registry is at its /v2/
	// Host is what the registry is asked for in place of what the client wrote, for registries
	// that serve several names. Empty: the client's, and URL's where there is no client.
	Host string
	// Realms are hosts beside the registry's own that credentials may be exchanged at for a token,
	// by Manifest.
	Realms []string
	// Authorization is what Manifest asks with, as an Authorization header, read anew each time. nil:
	// with the context's.
	Authorization func() (string, error)
	// Pushed, and then Tagged for a push by tag and by digest alike, are called when the registry
	// has taken a manifest, before the client hears of it. nil: nobody is told. Other than with
	// an embedded registry its tag is there already, and stays if they fail.
	Pushed, Tagged Watcher
	// Deleted is called when the registry has deleted a manifest or a tag, before the client hears
	// of it. nil: nobody is told.
	Deleted DeleteWatcher
	// Refusal is as in EmbeddedConfig.
	Refusal func(error) (code, message string)
	// Transport carries everything. nil: Transport(nil).
	Transport http.RoundTripper
	// Patience is how long the registry may keep silent, before an answer or within it, and how
	// long it may take none of what it is sent. 0: a minute.
	Patience time.Duration
	Log      *slog.Logger // nil: no log
}

// Remote is somebody else's registry, and passes everything on to it as it comes. Who may do
// what is that registry's answer to the client's own credentials: a Remote has some only to read
// manifests for the server.
type Remote struct {
	c        RemoteConfig
	client   bearer.Client
	direct   *direct
	proxy    *httputil.ReverseProxy
	relays   *httputil.ReverseProxy // the same, for what is relayed
	relaying chan struct{}          // what is
	watched  *watched
	room     *semaphore.Weighted // for manifests that are being pushed, in bytes
}

// NewRemote returns a registry that is not asked anything yet.
func NewRemote(c RemoteConfig) (*Remote, error) {
	if err := CheckURL(c.URL); err != nil {
		return nil, fmt.Errorf("remote registry: %w", err)
	}
	if err := register(); err != nil {
		return nil, fmt.Errorf("remote registry: %w", err)
	}
	e := EmbeddedConfig{Pushed: c.Pushed, Tagged: c.Tagged, Deleted: c.Deleted, Refusal: c.Refusal, Log: c.Log}.filled()
	if c.Log = e.Log; c.Transport == nil {
		c.Transport = Transport(nil)
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	transport := patient{c.Transport, c.Patience}
	r := &Remote{
		c:        c,
		room:     semaphore.NewWeighted(maxReceiving),
		relaying: make(chan struct{}, maxRelays),
		client:   bearer.Client{Transport: transport, Registry: c.URL, Host: c.Host, Realms: c.Realms},
		watched:  &watched{pushed: e.Pushed, tagged: e.Tagged, deleted: e.Deleted, refusal: e.Refusal, log: e.Log},
	}
	r.direct = newDirect(transport, c)
	r.proxy, r.relays = r.through(r.direct, copySize, 0), r.through(r.direct, relaySize, -1)
	return r, nil
}

// through returns a proxy that copies through buffers of this size, and flushes every so often: at once
// if negative. With 0 a short answer of known length goes out in one piece; of unknown length, what comes.
func (r *Remote) through(transport http.RoundTripper, buffer int, flush time.Duration) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        r.rewrite,
		Transport:      transport,
		FlushInterval:  flush,
		BufferPool:     &buffers{size: buffer},
		ModifyResponse: r.passed,
		ErrorHandler:   r.failed,
		ErrorLog:       slog.NewLogLogger(r.c.Log.Handler(), slog.LevelDebug), // the client left, or the registry stopped within an answer
	}
}

// CheckURL says what is wrong with the address of a registry.
func CheckURL(u *url.URL) error {
	switch {
	case u == nil:
		return errors.New("no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q: a URL that begins with http:// or https:// is wanted", u.Redacted())
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host", u.Redacted())
	case u.User != nil:
		return fmt.Errorf("%q has credentials: clients bring their own, and the server's are in registry.authFile", u.Redacted())
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return fmt.Errorf("%q: a registry is at /v2/ of its host, leave out what follows the host", u.Redacted())
	}
	return nil
}

type authorizationKey struct{}

// WithAuthorization returns a context in which Manifest asks with this Authorization header,
// which was sent to this server for that registry. Of a request under /v2/ watchers have it.
func WithAuthorization(ctx context.Context, header string) context.Context {
	return context.WithValue(ctx, authorizationKey{}, header)
}

// Manifest implements Registry. It asks with the server's own authorization if there is one, and
// else with the context's, takes no redirects, and waits for 15 s at most. Where its error is for
// the credentials, it wraps ErrRefused too.
func (r *Remote) Manifest(ctx context.Context, repository, reference string) (Manifest, error) {
	want, err := parseReference(repository, reference)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, manifestPatience)
	defer cancel()
	m, err := r.manifest(ctx, repository, reference)
	switch {
	case err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnavailable):
		return Manifest{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil:
		return Manifest{}, err
	case want != "" && m.Digest != want:
		return Manifest{}, fmt.Errorf("%w: what it has as %s@%s is %s", ErrUnavailable, repository, want, m.Digest)
	}
	return m, nil
}

// parseReference returns the digest, and none for a tag. No string reaches a path unparsed.
func parseReference(repository, ref string) (digest.Digest, error) {
	named, err := parseRepository(repository)
	if err != nil {
		return "", fmt.Errorf("%w: repository %q: %v", ErrUnknown, repository, err)
	}
	if d, err := digest.Parse(ref); err == nil {
		if d.Algorithm() != digest.SHA256 {
			return "", fmt.Errorf("%w: %s: signatures are for sha256 digests", ErrUnknown, d)
		}
		return d, nil
	}
	if _, err := reference.WithTag(named, ref); err != nil {
		return "", fmt.Errorf("%w: %q is neither a tag nor a digest", ErrUnknown, ref)
	}
	return "", nil
}

func (r *Remote) manifest(ctx context.Context, repository, reference string) (Manifest, error) {
	u := &url.URL{Path: api.RegistryPrefix + repository + "/manifests/" + reference}
	answer, err := r.ask(ctx, u, "repository:"+repository+":pull", ociImage, ociList, dockerImage, dockerList)
	if errors.Is(err, ErrUnknown) {
		return Manifest{}, fmt.Errorf("%w: %s, %s", ErrUnknown, repository, reference)
	}
	if err != nil {
		return Manifest{}, err
	}
	defer answer.Body.Close()
	return received(answer)
}

// ask returns an answer of 200, whose body is to be closed. Another one is an error.
func (r *Remote) ask(ctx context.Context, u *url.URL, scope string, accept ...string) (*http.Response, error) {
	request := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Accept": accept, "User-Agent": {"countersign"}}}
	authorization, _ := ctx.Value(authorizationKey{}).(string)
	if r.c.Authorization != nil {
		own, err := r.c.Authorization()
		if err != nil {
			return nil, err
		}
		authorization = own
	}
	answer, err := r.client.Do(request.WithContext(ctx), authorization, scope)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Response, nil
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotFound:
		if isRefusal(answer.Body) {
			return nil, ErrUnknown
		}
		return nil, fmt.Errorf("it answered %s without a registry's error. hint: something else than a registry answers at registry.url", answer.Status)
	case http.StatusUnauthorized, http.StatusForbidden:
		if answer.Problem != nil {
			return nil, fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrRefused, answer.Problem)
		}
		return nil, fmt.Errorf("%w: %w: %s", ErrUnavailable, ErrRefused, answer.Status)
	}
	return nil, fmt.Errorf("it answered %s", answer.Status)
}

// isRefusal reports whether this is what a registry says of what it does not have, by whichever code. What
// stands in front of one that is away has pages and texts of its own.
func isRefusal(body io.Reader) bool {
	var said struct{ Errors []json.RawMessage }
	err := json.NewDecoder(io.LimitReader(body, maxRefusal)).Decode(&said)
	return err == nil && len(said.Errors) > 0
}

// received reads a manifest. The registry's word on its digest makes no difference but this:
// if it is not that of the bytes, one of the two is not what was asked for.
func received(answer *http.Response) (Manifest, error) {
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	if len(content) > maxManifest {
		return Manifest{}, fmt.Errorf("a manifest of more than %d bytes", maxManifest)
	}
	m := Manifest{Digest: digest.FromBytes(content), MediaType: mediaType(answer.Header), Content: content}
	_, _, err = parts(m.MediaType)
	if err != nil && strings.HasPrefix(m.MediaType, "application/vnd.") { // of schema 1, or of what is no image
		return Manifest{}, fmt.Errorf("%w: %v", ErrUnknown, err)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("it sent %q for a manifest. hint: something else than a registry answers at registry.url", m.MediaType)
	}
	if said := answer.Header.Get(contentDigest); strings.HasPrefix(said, "sha256:") && said != m.Digest.String() {
		return Manifest{}, fmt.Errorf("it sent %s and called it %s", m.Digest, said)
	}
	return m, nil
}

const contentDigest = "Docker-Content-Digest"

// mediaType returns the one of a body, in lower case and without parameters, or nothing.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
