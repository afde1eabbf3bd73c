package lookaside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/signature"
)

// Bounds of one image of a Remote: each request with its body, all of them, and redirects of one.
const (
	requestTime  = 15 * time.Second
	imageTime    = time.Minute
	maxRedirects = 5
)

// A Remote is a lookaside behind a URL. It is safe for concurrent use.
type Remote struct {
	base   *url.URL
	client *http.Client
	most   int           // files of an image
	time   time.Duration // for all of one
}

// NewRemote returns the lookaside below a base URL, http or https. Its query and user are sent
// along, as clients do.
func NewRemote(base string) (*Remote, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("it is no URL") // not the error: it has the URL, which may have a password
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q is not http or https", u.Scheme)
	case u.Host == "":
		return nil, errors.New("it names no host")
	}
	r := &Remote{base: u, most: MaxIndex, time: imageTime}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: r.dialer(), ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: requestTime,
		ResponseHeaderTimeout: requestTime, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, // what inflates is bounded nowhere
	}
	r.client = &http.Client{Transport: transport, Timeout: requestTime, CheckRedirect: r.redirect}
	return r, nil
}

// String is the URL without a password, and without its query, which may be as good as one.
func (r *Remote) String() string {
	u := *r.base
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// dialer reaches what a person named, and a proxy that the environment names; what only a redirect
// named must be a public address. It looks at the address that is connected to, whatever names say.
func (r *Remote) dialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: requestTime}
	public := &net.Dialer{Timeout: requestTime, Control: func(_, address string, _ syscall.RawConn) error {
		return checkPublic(address)
	}}
	named := map[string]bool{authority(r.base): true}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: r.base}); err == nil && proxy != nil {
		named[authority(proxy)] = true
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if named[address] {
			return plain.DialContext(ctx, network, address)
		}
		return public.DialContext(ctx, network, address)
	}
}

// authority is host:port as a transport dials it.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// redirect follows few, never to another protocol or from https to http, and to an IP address that
// is not public only where the base is there: a proxy would dial it.
func (r *Remote) redirect(next *http.Request, via []*http.Request) error {
	switch u := next.URL; {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d redirects", ErrElsewhere, maxRedirects)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%w: a redirect to %q", ErrElsewhere, u.Scheme+":")
	case u.Scheme == "http" && r.base.Scheme == "https":
		return fmt.Errorf("%w: a redirect from https to http", ErrElsewhere)
	case authority(u) == authority(r.base):
		return nil
	case strings.EqualFold(u.Hostname(), "localhost"):
		return fmt.Errorf("%w: a redirect to localhost", ErrElsewhere)
	default:
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			return nil // the dialer looks at what it resolves to
		}
		return checkPublic(authority(u))
	}
}

// Fetch returns what the lookaside has of an image: signature-1, signature-2 and so on, until there
// is none (404). A file that is too large has an error of its own. Errors: ErrEndless after MaxIndex
// files (MaxGuarded of a guarded one), ErrStatus, ErrElsewhere, ErrAway; what came before one is returned with it.
func (r *Remote) Fetch(ctx context.Context, image api.Image) (found []Found, err error) {
	within, cancel := context.WithTimeout(ctx, r.time)
	defer cancel()
	for index := 1; index <= r.most; index++ {
		content, err := r.get(within, image, index)
		switch {
		case errors.Is(err, errNone):
			return found, nil
		case errors.Is(err, ErrTooLarge):
			found = append(found, Found{Index: index, Err: err})
		case err != nil:
			return found, fmt.Errorf("%s of %s: %w", api.SignatureName(index), image, err)
		default:
			found = append(found, Found{Index: index, Content: content})
		}
	}
	if r.most < MaxIndex {
		return found, fmt.Errorf("%w: of %s no more than %d files are read", ErrEndless, image, r.most)
	}
	if _, err := r.get(within, image, MaxIndex+1); errors.Is(err, errNone) {
		return found, nil
	}
	return found, fmt.Errorf("%w: %s has more than %d files", ErrEndless, image, MaxIndex)
}

// errNone is a 404.
var errNone = errors.New("not there")

func (r *Remote) get(ctx context.Context, image api.Image, index int) (signature.Untrusted, error) {
	u := *r.base
	u.Path = strings.TrimRight(u.Path, "/") + "/" + api.LookasidePath(image) + "/" + api.SignatureName(index)
	u.RawPath, u.Fragment = "", ""
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrAway, "the URL does not read")
	}
	answer, err := r.client.Do(request)
	if err != nil {
		return nil, away(ctx, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotFound:
		_, _ = io.CopyN(io.Discard, answer.Body, 4<<10) // so that the connection is used again
		return nil, errNone
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("%w: %d", ErrStatus, answer.StatusCode)
	}
	content, err := io.ReadAll(io.LimitReader(answer.Body, signature.MaxSize+1))
	if err != nil {
		return nil, away(ctx, err)
	}
	if len(content) > signature.MaxSize {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, signature.MaxSize)
	}
	return content, nil
}

// away leaves out the URL, which net/http puts in front and which may have a password.
func away(ctx context.Context, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, ErrElsewhere):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	}
	return fmt.Errorf("%w: %v", ErrAway, err)
}
