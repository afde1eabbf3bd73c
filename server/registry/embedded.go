package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/distribution/v3/registry/handlers"
	middleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers itself as the driver named below
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
)

// maxListed bounds a page of repositories or tags that a client asks a number of.
const maxListed = 1000

// EmbeddedConfig is what an embedded registry needs.
type EmbeddedConfig struct {
	// Directory is made, private, if it is not there. Several processes may share one.
	Directory string
	// Pushed is called when a manifest is stored and has no tag yet, and Tagged when its tag is
	// written; both before the push is answered, and for a push by digest, too. nil: nobody is
	// told. If Pushed fails there is no tag, or it is still what it was; if Tagged fails there is.
	Pushed, Tagged Watcher
	// Deleted is called when a manifest or a tag is deleted. nil: nobody is told.
	Deleted DeleteWatcher
	// Refusal says how the answer to a push names what failed it: one of api's codes, which
	// decides on the status, and a message. nil: UNKNOWN, and nothing of the error.
	Refusal func(error) (code, message string)
	// Log gets what distribution says, too; its lines on every request at level debug. There is
	// one such logger for the process: with several registries the last one's. nil: no log.
	Log *slog.Logger
}

// Embedded is distribution's registry, in this process, on a directory of the file system.
type Embedded struct {
	app      *handlers.App
	registry distribution.Namespace
}

// NewEmbedded opens the registry in c.Directory. Abandoned uploads are removed after a week,
// until ctx ends; nothing else depends on ctx, and requests are served beyond it.
//
// The directory keeps the secret that signs the state of uploads in its file "secret".
func NewEmbedded(ctx context.Context, c EmbeddedConfig) (*Embedded, error) {
	e, err := newEmbedded(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("embedded registry: %w", err)
	}
	return e, nil
}

func newEmbedded(ctx context.Context, c EmbeddedConfig) (_ *Embedded, err error) {
	c = c.filled()
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return nil, err
	}
	secret, err := readSecret(c.Directory)
	if err != nil {
		return nil, err
	}
	if err := register(); err != nil {
		return nil, err
	}
	bridge(c.Log)
	e := &Embedded{}
	defer recovered(&err) // NewApp panics where others return an error
	e.app = handlers.NewApp(ctx, settings(c.Directory, secret, func(n distribution.Namespace) distribution.Namespace {
		remover, _ := n.(distribution.RepositoryRemover)
		e.registry = &watched{n, remover, c.Pushed, c.Tagged, c.Deleted, c.Refusal, c.Log}
		return e.registry
	}))
	return e, nil
}

func (c EmbeddedConfig) filled() EmbeddedConfig {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, w := range []*Watcher{&c.Pushed, &c.Tagged} {
		if *w == nil {
			*w = func(context.Context, Push) error { return nil }
		}
	}
	if c.Deleted == nil {
		c.Deleted = func(context.Context, Delete) error { return nil }
	}
	if c.Refusal == nil {
		c.Refusal = unfinished
	}
	return c
}

// Close ends the removal of abandoned uploads. Requests end before.
func (e *Embedded) Close() error { return e.app.Shutdown() }

// settings is the whole configuration. Of the defaults that configuration.Parse would fill in,
// from the environment too, these are the ones that matter without its server.
func settings(directory, secret string, wrap wrapper) *configuration.Configuration {
	return &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": directory},
			"delete":     {"enabled": true},
			"redirect":   {"disable": true},
		},
		HTTP:    configuration.HTTP{Secret: secret, RelativeURLs: true}, // relative: clients know us by names that we do not
		Catalog: configuration.Catalog{MaxEntries: maxListed},
		Tags:    configuration.Tags{MaxTags: maxListed},
		Middleware: map[string][]configuration.Middleware{
			"registry": {{Name: middlewareName, Options: configuration.Parameters{middlewareName: wrap}}},
		},
	}
}

const middlewareName = "countersign"

// A wrapper travels through distribution's configuration to its registry middleware.
type wrapper func(distribution.Namespace) distribution.Namespace

// register makes the middleware known, and those of our error codes that distribution lacks;
// once, before any registry is there: distribution keeps both in unguarded maps of the process
// and takes no name twice.
var register = sync.OnceValue(func() (err error) {
	defer recovered(&err)
	for code, status := range map[string]int{
		api.CodeSignatureInvalid: http.StatusBadRequest,
		api.CodeSignatureExists:  http.StatusConflict,
		api.CodeSignatureLimit:   http.StatusConflict,
	} {
		errcode.Register("countersign", errcode.ErrorDescriptor{Value: code, HTTPStatusCode: status})
	}
	return middleware.Register(middlewareName, func(_ context.Context, n distribution.Namespace, _ driver.StorageDriver, options map[string]any) (distribution.Namespace, error) {
		return options[middlewareName].(wrapper)(n), nil
	})
})

func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("distribution: %v", r)
	}
}

// ServeHTTP serves /v2/. Who may do what was decided before: distribution asks nobody.
func (e *Embedded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = r.Clone(r.Context())
	if isForm(r.Header.Get("Content-Type")) {
		r.Header.Del("Content-Type")
	}
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip"} {
		r.Header.Del(name) // of no use here; distribution warns, aloud, of what is no address
	}
	if len(repositoryIn(r.URL.Path)) > reference.RepositoryNameTotalLengthMax {
		_ = errcode.ServeJSON(w, errcode.ErrorCodeNameInvalid) // distribution calls this its own failure
		return
	}
	e.app.ServeHTTP(&discreet{ResponseWriter: w}, r)
}

// repositoryIn returns what stands where distribution's routes have a name: what follows it has
// no slash but those of the route.
func repositoryIn(path string) string {
	path = strings.TrimPrefix(path, api.RegistryPrefix)
	return path[:max(0, strings.LastIndex(path, "/manifests/"), strings.LastIndex(path, "/blobs/"), strings.LastIndex(path, "/tags/"))]
}

// isForm reports whether distribution would take a body for a form. There it would find
// another repository to mount a blob of, where whoever decides on the request did not look; and
// files of a form would stay behind in the temporary directory.
func isForm(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(mediaType)) {
	case "application/x-www-form-urlencoded", "multipart/form-data":
		return true
	}
	return false
}

// Manifest implements Registry, without HTTP and without asking who may.
func (e *Embedded) Manifest(ctx context.Context, repository, reference string) (Manifest, error) {
	m, err := e.manifest(ctx, repository, reference)
	if err == nil || errors.Is(err, ErrUnknown) {
		return m, err
	}
	return Manifest{}, fmt.Errorf("%w: %v", ErrUnavailable, err)
}

func (e *Embedded) manifest(ctx context.Context, repository, ref string) (_ Manifest, err error) {
	named, err := parseRepository(repository)
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: repository %q: %v", ErrUnknown, repository, err)
	}
	r, err := e.registry.Repository(ctx, named)
	if err != nil {
		return Manifest{}, err
	}
	d, err := resolve(ctx, r, ref)
	if err != nil {
		return Manifest{}, err
	}
	manifests, err := r.Manifests(ctx)
	if err != nil {
		return Manifest{}, err
	}
	defer recovered(&err) // stored before Put looked closely, some content makes Get panic
	stored, err := manifests.Get(ctx, d)
	if _, unknown := errors.AsType[distribution.ErrManifestUnknownRevision](err); unknown {
		return Manifest{}, fmt.Errorf("%w: %s@%s", ErrUnknown, repository, d)
	}
	if err != nil {
		return Manifest{}, err
	}
	m, err := read(stored)
	if err == nil && m.Digest != d {
		return Manifest{}, fmt.Errorf("what is stored as %s@%s is %s", repository, d, m.Digest)
	}
	return m, err
}

// resolve looks at the reference first: distribution would use a tag in a path as it is.
func resolve(ctx context.Context, r distribution.Repository, ref string) (digest.Digest, error) {
	if d, err := digest.Parse(ref); err == nil {
		return d, nil
	}
	if _, err := reference.WithTag(r.Named(), ref); err != nil {
		return "", fmt.Errorf("%w: %q is neither a tag nor a digest", ErrUnknown, ref)
	}
	tagged, err := r.Tags(ctx).Get(ctx, ref)
	if _, unknown := errors.AsType[distribution.ErrTagUnknown](err); unknown {
		return "", fmt.Errorf("%w: %s:%s", ErrUnknown, r.Named(), ref)
	}
	return tagged.Digest, err
}
