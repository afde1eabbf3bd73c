package lint

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"

	"github.com/countersign-dev/countersign/policy"
)

// Bounds of asking: one request, all of them, and how many at a time.
const (
	requestTime = 10 * time.Second
	onlineTime  = 2 * time.Minute
	atATime     = 8
	maxSniffed  = 512 // bytes of an answer
)

// A question is asked of a server, and the answer told when all have been.
type question struct {
	ask  func(ctx context.Context) error
	tell func(err error)
}

// online asks the registries and lookasides that the files name.
func (l *linter) online(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, onlineTime)
	defer cancel()
	o := asking{linter: l, registries: map[string]*registryAnswer{}}
	for _, n := range l.sources {
		o.namespace(n)
	}
	for _, p := range l.policies {
		for _, s := range p.Scopes() {
			o.scope(p, s)
		}
	}
	o.all(ctx)
}

// An asking is one run of all questions.
type asking struct {
	*linter
	questions  []question
	registries map[string]*registryAnswer // by host
	done       int
	mu         sync.Mutex
}

// A registryAnswer says whether a registry advertises the signature extension.
type registryAnswer struct {
	advertises bool
	err        error
}

// all asks everything, some at a time, and then tells it in the order of the files.
func (o *asking) all(ctx context.Context) {
	errs := make([]error, len(o.questions))
	var group errgroup.Group
	group.SetLimit(atATime)
	for i, q := range o.questions {
		group.Go(func() error {
			within, cancel := context.WithTimeout(ctx, requestTime)
			defer cancel()
			errs[i] = q.ask(within)
			o.mu.Lock()
			defer o.mu.Unlock()
			o.done++
			if o.Progress != nil {
				o.Progress(o.done, len(o.questions))
			}
			return nil
		})
	}
	_ = group.Wait() // each has its own error
	for i, q := range o.questions {
		q.tell(errs[i])
	}
}

// registry asks a registry once, however many want to know.
func (o *asking) registry(host string) *registryAnswer {
	if known := o.registries[host]; known != nil {
		return known
	}
	answer := &registryAnswer{}
	o.registries[host] = answer
	o.questions = append(o.questions, question{
		ask: func(ctx context.Context) error {
			answer.advertises, answer.err = o.ping(ctx, host)
			return nil
		},
		tell: func(error) {},
	})
	return answer
}

// namespace asks for the signatures of one.
func (o *asking) namespace(n namespace) {
	image, ok := policy.Example(n.name)
	if !ok {
		return
	}
	read := n.own()
	host, answer := reference.Domain(image), &registryAnswer{}
	if !n.isDefault && !strings.HasPrefix(n.name, "*") {
		answer = o.registry(host)
	}
	if u, err := url.Parse(read.text); err == nil && u.Host != "" && strings.HasPrefix(u.Scheme, "http") {
		o.lookaside(read, u, image, n.isDefault, answer)
	}
	o.questions = append(o.questions, question{
		ask: func(context.Context) error { return nil },
		tell: func(error) {
			for _, key := range []string{lookaside, staging, sigstore, sigstoreStaging} {
				if v := n.values[key]; v.text != "" && answer.advertises {
					o.find(lookasideDead, v.at, "%s advertises the signature extension, and clients pass over %s", quoted(host), quoted(redacted(v.text)))
				}
			}
			if answer.err != nil {
				o.find(registryAway, n.at, "%s: %v", quoted(host), answer.err)
			}
		},
	})
}

// lookaside asks for a signature that nobody has. It must be 404, unless clients pass over it.
func (o *asking) lookaside(v value, base *url.URL, image reference.Named, anyHost bool, registry *registryAnswer) {
	host := reference.Domain(image)
	if anyHost {
		host = ""
	}
	u := *base
	u.Path += "/" + reference.Path(image) + "@sha256=" + strings.Repeat("0", 64) + "/signature-1"
	u.RawPath, u.Fragment = "", ""
	o.questions = append(o.questions, question{
		ask: func(ctx context.Context) error { return o.none(ctx, host, &u) },
		tell: func(err error) {
			id := lookasideAway
			status, isStatus := errors.AsType[statusError](err)
			switch {
			case err == nil, registry.advertises:
				return
			case isStatus && status.code == http.StatusOK:
				id = lookasideHTML
			case isStatus:
				id = lookasideStatus
			}
			o.find(id, v.at, "asked for a signature that nobody has, %s", err)
		},
	})
}

// scope asks where the signatures of a scope are that requires some.
func (o *asking) scope(p nodePolicy, s policy.Scope) {
	image, ok := policy.Example(s.Name)
	wants := slices.ContainsFunc(s.Requirements, func(r policy.Requirement) bool { return r.Type == "signedBy" })
	if !ok || !wants || s.Transport != docker || s.Name == "" || strings.HasPrefix(s.Name, "*") || p.file.directory == "" && len(o.sources) == 0 {
		return
	}
	if _, known := o.topLevel(image, lookaside, sigstore); known {
		return
	}
	host := reference.Domain(image)
	answer := o.registry(host)
	o.questions = append(o.questions, question{
		ask: func(context.Context) error { return nil },
		tell: func(error) {
			switch at := at(p.file, s); {
			case answer.err != nil:
				o.find(registryAway, at, "%s: %v", quoted(host), answer.err)
			case !answer.advertises:
				o.find(sourceMissing, at, "%s advertises no signature extension, and registries.d has no lookaside for it", quoted(host))
			}
		},
	})
}

// A statusError is an answer that is not 404.
type statusError struct {
	host, what string
	code       int
}

func (e statusError) Error() string { return fmt.Sprintf("%s answers %d %s", e.host, e.code, e.what) }

// none reports what is wrong with an answer for something that is not there.
func (o *asking) none(ctx context.Context, host string, u *url.URL) error {
	answer, err := o.get(ctx, host, u.String())
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", quoted(u.Host), err)
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return nil
	}
	begin, _ := io.ReadAll(io.LimitReader(answer.Body, maxSniffed)) // whatever came says enough
	what := "(" + http.StatusText(answer.StatusCode) + ")"
	if answer.StatusCode == http.StatusOK {
		what = fmt.Sprintf("with %d bytes that are no signature", len(begin))
		if strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html") || bytes.HasPrefix(bytes.TrimSpace(begin), []byte("<")) {
			what = "with a page of HTML"
		}
	}
	return statusError{quoted(answer.Request.URL.Host), what, answer.StatusCode}
}

// ping asks a registry as clients do, where they would ask it.
func (o *asking) ping(ctx context.Context, host string) (advertises bool, err error) {
	where, insecure := o.physical(host)
	answer, err := o.get(ctx, where, "https://"+where+"/v2/")
	if err != nil && insecure {
		answer, err = o.get(ctx, where, "http://"+where+"/v2/")
	}
	if err != nil {
		return false, fmt.Errorf("it does not answer: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusUnauthorized {
		return false, fmt.Errorf("it answers %d to /v2/, and is no registry to clients", answer.StatusCode)
	}
	return answer.Header.Get("X-Registry-Supports-Signatures") == "1", nil
}

// physical is where registries.conf has a registry, and whether it may be without TLS.
func (l *linter) physical(host string) (where string, insecure bool) {
	for _, r := range l.mirrors {
		if r.Prefix != host && r.Location != host {
			continue
		}
		where, _, _ := strings.Cut(r.Location, "/")
		return where, r.Insecure
	}
	return host, false
}

// get asks with the certificates that the node has for a registry: clients use the same for its
// lookaside.
func (o *asking) get(ctx context.Context, host, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	_, insecure := o.physical(host)
	client := http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: &tls.Config{RootCAs: o.roots(host), InsecureSkipVerify: insecure}, // as the node's own setting has it
	}}
	answer, err := client.Do(request)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its URL may have a password
	}
	return answer, err
}

// roots are the system's, and those of certs.d for a registry.
func (o *asking) roots(host string) *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	var found []string
	for _, f := range o.files {
		found = append(found, filepath.Join(f.directory, "certs.d", host))
	}
	for _, directory := range slices.Compact(append(found, o.Root+"/etc/containers/certs.d/"+host, o.Root+"/etc/docker/certs.d/"+host)) {
		names, _ := filepath.Glob(filepath.Join(directory, "*.crt")) // a host has nothing that Glob minds
		for _, name := range names {
			if content, err := os.ReadFile(name); err == nil && host != "" {
				pool.AppendCertsFromPEM(content)
			}
		}
	}
	return pool
}
