package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// ServeHTTP passes a request under /v2/ on. It refuses what a registry could read as another
// path than whoever decided on the request, and methods that registries do not have.
func (r *Remote) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !forwardable(req.URL) {
		serveError(w, errcode.ErrorCodeNameInvalid.WithMessage("the path means something else to others: send it without escapes, dots and empty segments"))
		return
	}
	if !slices.Contains(methods, req.Method) {
		serveError(w, errcode.ErrorCodeUnsupported.WithMessage("registries have no such method"))
		return
	}
	w.Header()["Content-Type"] = nil // what the registry says, or none: net/http would guess one, package repeat does not
	if r.isPlainRead(req) {
		r.read(w, req)
		return
	}
	ctx := WithAuthorization(req.Context(), req.Header.Get("Authorization"))
	if _, _, ok := manifestPath(req.URL.Path); ok && (req.Method == http.MethodPut || req.Method == http.MethodDelete) {
		// The registry may have done it when the client leaves, and then it must not go unseen. That
		// it ends is up to the registry, which has so long, and to the watchers.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
	}
	if req.Method == http.MethodPut {
		push, leave, err := r.receive(w, req)
		defer leave()
		if err != nil {
			serveError(w, err)
			return
		}
		ctx = context.WithValue(ctx, pushKey{}, push)
	}
	req = req.WithContext(ctx)
	if out, leave, ok := r.relay(w, req); ok {
		defer leave()
		r.relays.ServeHTTP(out, req.WithContext(context.WithValue(req.Context(), relayKey{}, out)))
		return
	}
	r.proxy.ServeHTTP(w, req)
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func forwardable(u *url.URL) bool {
	path := u.Path
	if path == strings.TrimSuffix(api.RegistryPrefix, "/") {
		path = api.RegistryPrefix
	}
	return strings.HasPrefix(path, api.RegistryPrefix) && !strings.Contains(path, "//") && api.Plain(u.Path, u.EscapedPath())
}

type pushKey struct{}

// receive returns the manifest that a request would push, read whole and put back; nil if it
// pushes none, or one of a kind that has no signatures. Content that could be read as another
// kind of manifest than it comes as goes no further, as with an embedded registry. leave gives up
// its room, when the request is over.
func (p *Remote) receive(w http.ResponseWriter, r *http.Request) (push *Push, leave func(), err error) {
	leave = func() {}
	repository, ref, ok := manifestPath(r.URL.Path)
	asked, err := parseReference(repository, ref)
	if !ok || err != nil {
		return nil, leave, nil // the registry says what is wrong with it
	}
	size := int64(maxManifest)
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength)
	}
	waiting, cancel := context.WithTimeout(r.Context(), roomPatience)
	defer cancel()
	if err := p.room.Acquire(waiting, size); err != nil {
		return nil, leave, errcode.ErrorCodeTooManyRequests.WithMessage("too many manifests are being pushed: try again")
	}
	leave = func() { p.room.Release(size) }
	push, err = readPush(w, r, repository, ref, asked)
	return push, leave, err
}

// readPush reads what is sent for half a minute: who sends slower than that holds memory.
func readPush(w http.ResponseWriter, r *http.Request, repository, ref string, asked digest.Digest) (*Push, error) {
	slow := time.AfterFunc(receivePatience, func() {
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // a recorder has none
	})
	defer slow.Stop()
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, errcode.ErrorCodeManifestInvalid.WithMessage("the manifest is larger than 4 MiB")
	}
	if err != nil {
		return nil, errcode.ErrorCodeManifestInvalid.WithMessage("the manifest ended early")
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
	m := Manifest{Digest: digest.FromBytes(content), MediaType: mediaType(r.Header), Content: content}
	if _, _, err := parts(m.MediaType); err != nil {
		return nil, nil
	}
	if _, err := m.entries(); err != nil {
		return nil, errcode.ErrorCodeManifestInvalid.WithMessage(err.Error())
	}
	if asked != "" {
		ref = "" // the registry refuses a digest that is not the content's, or is not believed
	}
	return &Push{Repository: repository, Tag: ref, Manifest: m}, nil
}

// rewrite makes of a request the one that the registry gets.
func (r *Remote) rewrite(p *httputil.ProxyRequest) {
	in, out := p.In, p.Out
	out.URL.Scheme, out.URL.Host, out.URL.RawPath = r.c.URL.Scheme, r.c.URL.Host, ""
	out.Header["X-Forwarded-For"] = in.Header["X-Forwarded-For"]
	p.SetXForwarded() // adds the address that this request is from
	for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
		if value := in.Header.Get(name); value != "" {
			out.Header.Set(name, value) // of the proxy before this; it changes what the asker is told, and nobody else
		}
	}
	if r.c.Host != "" {
		out.Host = r.c.Host
	}
	for _, name := range []string{"Connection", "Upgrade"} {
		out.Header.Del(name) // through another protocol nobody would see what passes
	}
	if isForm(in.Header.Get("Content-Type")) {
		out.Header.Del("Content-Type")
	}
}

// passed sees every answer of the registry before the client does.
func (r *Remote) passed(answer *http.Response) error {
	r.clean(answer)
	if answer.Request.Method == http.MethodDelete {
		return r.deleted(answer)
	}
	push, _ := answer.Request.Context().Value(pushKey{}).(*Push)
	if push == nil || answer.StatusCode != http.StatusCreated {
		return nil
	}
	if said := answer.Header.Get(contentDigest); said != push.Manifest.Digest.String() {
		r.c.Log.Warn("a push went unseen: the registry calls it something else than it is", "repository", push.Repository,
			"tag", push.Tag, "digest", push.Manifest.Digest, "called", said)
		return nil
	}
	return r.watch(answer.Request.Context(), *push)
}

// clean takes out of an answer what is not for clients of this server.
func (r *Remote) clean(answer *http.Response) {
	answer.Header.Del("X-Registry-Supports-Signatures") // what it supports is not what this server does
	if answer.Header["Location"] != nil || answer.Header["Link"] != nil {
		r.relative(answer)
	}
}

// deleted reports a manifest or a tag that the registry says it has deleted.
func (r *Remote) deleted(answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
	default:
		return nil
	}
	repository, ref, ok := manifestPath(answer.Request.URL.Path)
	d, err := parseReference(repository, ref)
	if !ok || err != nil {
		return nil
	}
	if d != "" {
		ref = ""
	}
	deleted := Delete{Repository: repository, Tag: ref, Digest: d}
	if err := r.watched.report(answer.Request.Context(), deleted); err != nil {
		name, message := r.watched.refusal(err)
		return errcode.ParseErrorCode(name).WithMessage(message)
	}
	return nil
}

// manifestPath splits /v2/<repository>/manifests/<reference>.
func manifestPath(path string) (repository, ref string, ok bool) {
	path = strings.TrimPrefix(path, api.RegistryPrefix)
	at := strings.LastIndex(path, "/manifests/")
	if at < 0 {
		return "", "", false
	}
	return path[:at], path[at+len("/manifests/"):], true
}

// watch runs the hooks. The registry has the tag by then: if they fail, the client hears that
// the push failed, but whoever asks for the tag gets what it pushed, unsigned. It cannot be
// taken back, since what the tag was before, nobody knows; the client pushes again.
func (r *Remote) watch(ctx context.Context, push Push) error {
	for _, hook := range []Watcher{r.watched.pushed, r.watched.tagged} {
		if err := hook(ctx, push); err != nil {
			return r.watched.refuse(ctx, push, err)
		}
	}
	return nil
}

// failed answers in place of the registry: one that is away, or a push that a hook refused.
func (r *Remote) failed(w http.ResponseWriter, req *http.Request, err error) {
	if refusal, ok := errors.AsType[errcode.Error](err); ok {
		serveError(w, refusal)
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, context.Canceled) {
		level = slog.LevelDebug // the client is who left
	}
	r.c.Log.Log(req.Context(), level, "the registry did not answer", "method", req.Method, "path", req.URL.Path, "error", err)
	serveError(w, errcode.ErrorCodeUnavailable.WithMessage("the registry is away: try again"))
}

func serveError(w http.ResponseWriter, err error) {
	_ = errcode.ServeJSON(&discreet{ResponseWriter: w}, err) // the client is gone: there is nobody left to tell
}

// relative takes the registry's own name out of where it sends clients: they know it by
// others. What it sends elsewhere, as to an object storage, stays as it is.
func (r *Remote) relative(answer *http.Response) {
	sent := answer.Request
	own := []string{r.c.URL.Host, r.c.Host, sent.Host, sent.Header.Get("X-Forwarded-Host")}
	if u, err := url.Parse(answer.Header.Get("Location")); err == nil && isOwn(u, own) {
		answer.Header.Set("Location", pathOf(u))
	}
	link := answer.Header.Get("Link")
	target, parameters, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if u, err := url.Parse(target); ok && err == nil && isOwn(u, own) {
		answer.Header.Set("Link", "<"+pathOf(u)+">"+parameters)
	}
}

func isOwn(u *url.URL, hosts []string) bool {
	return u.Host != "" && strings.HasPrefix(u.Path, api.RegistryPrefix) &&
		slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, u.Host) })
}

func pathOf(u *url.URL) string {
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
}

// buffers keeps what bodies are copied through.
type buffers struct {
	size int
	pool sync.Pool
}

// Sizes of buffers. A blob is as many bytes as all else together, and few system calls are wanted for
// it; what is relayed leaves its buffer untouched, which then is no memory.
const (
	copySize  = 256 << 10
	relaySize = 1 << 20
)

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, b.size)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
