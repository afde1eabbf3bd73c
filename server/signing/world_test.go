package signing_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
	"github.com/countersign-dev/countersign/store/disk"
)

// hosts are ours; the second is an alias.
var hosts = []string{"registry.example.com", "alias.example.com:5000"}

var signers = sync.OnceValue(func() map[string]*signature.FileSigner {
	made := map[string]*signature.FileSigner{}
	for _, name := range []string{"server", "second", "alice", "bob", "carol"} {
		private, _, err := signature.Generate(name, 3072, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)) // before any clock of a test
		if err != nil {
			panic(err)
		}
		if made[name], err = signature.NewFileSigner(private, nil, time.Now); err != nil {
			panic(err)
		}
	}
	return made
})

// A world is a signing on a real registry and a real store; alice, bob and carol may upload.
type world struct {
	store    *disk.Store
	registry *registry.Embedded
	door     *admission.Door
	signing  *signing.Signing
	config   signing.Config
	between  func() // once, between what a push signs and its tag
}

// everything is what -sign-on makes of the settings.
func everything(on ...signing.Trigger) []signing.Rule { return []signing.Rule{{Key: "server", On: on}} }

// newWorld signs with one key on everything; nil: there is neither key nor rule.
func newWorld(t *testing.T, limit int, signer signature.Signer, on ...signing.Trigger) *world {
	t.Helper()
	if signer == nil || len(on) == 0 {
		return newWorldOf(t, limit, nil, nil)
	}
	return newWorldOf(t, limit, map[string]signature.Signer{"server": signer}, everything(on...))
}

// ruled signs with two keys, server and second, by these rules.
func ruled(t *testing.T, rules ...signing.Rule) *world {
	t.Helper()
	return newWorldOf(t, 100, map[string]signature.Signer{"server": server(), "second": signers()["second"]}, rules)
}

func newWorldOf(t *testing.T, limit int, keys map[string]signature.Signer, rules []signing.Rule) *world {
	t.Helper()
	limits := store.DefaultLimits()
	limits.All = limit
	s, err := disk.Open(t.TempDir(), disk.Options{Limits: limits, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it first
	trusted := policy.Trust(hosts, signature.Join(signers()["alice"].Key(), signers()["bob"].Key(), signers()["carol"].Key()))
	w := &world{store: s, door: admission.New(admission.Config{
		Hosts: hosts, Policy: func() *policy.Policy { return trusted }, Clients: signature.AllClients, Clock: time.Now,
	})}
	w.registry, err = registry.NewEmbedded(t.Context(), registry.EmbeddedConfig{
		Directory: t.TempDir(),
		Pushed: func(ctx context.Context, p registry.Push) error {
			err := w.signing.Pushed(ctx, p)
			if between := w.between; between != nil {
				w.between = nil
				between()
			}
			return err
		},
		Tagged: func(ctx context.Context, p registry.Push) error { return w.signing.Tagged(ctx, p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.registry.Close() })
	w.config = signing.Config{
		Hosts: hosts, Keys: keys, Rules: rules, Registry: w.registry, Store: s, Door: w.door, Limits: limits,
		Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	}
	w.restart(t, rules...)
	return w
}

// restart is a start with other rules on what is there.
func (w *world) restart(t *testing.T, rules ...signing.Rule) {
	t.Helper()
	c := w.config
	c.Rules, c.Metrics = rules, prometheus.NewRegistry()
	var err error
	if w.signing, err = signing.New(c); err != nil {
		t.Fatal(err)
	}
}

func server() *signature.FileSigner { return signers()["server"] }

// do asks the registry, and returns the status.
func (w *world) do(method, path, mediaType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", mediaType)
	answer := httptest.NewRecorder()
	w.registry.ServeHTTP(answer, r)
	return answer
}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	listType  = "application/vnd.oci.image.index.v1+json"
)

// manifest is an image's that says text; its only blob is the empty config, which is pushed.
func (w *world) manifest(t *testing.T, repository, text string) string {
	t.Helper()
	upload := w.do("POST", "/v2/"+repository+"/blobs/uploads/", "", "")
	where := upload.Header().Get("Location")
	if status := w.do("PUT", where+"&digest="+digest.FromString("{}").String(), "application/octet-stream", "{}").Code; status != http.StatusCreated {
		t.Fatalf("push of a blob: %d", status)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"text":%q}}`,
		imageType, digest.FromString("{}"), text)
}

func (w *world) push(t *testing.T, repository, reference, manifest string) int {
	t.Helper()
	mediaType := imageType
	if strings.Contains(manifest, listType) {
		mediaType = listType
	}
	return w.do("PUT", "/v2/"+repository+"/manifests/"+reference, mediaType, manifest).Code
}

func (w *world) mustPush(t *testing.T, repository, reference, manifest string) api.Image {
	t.Helper()
	if status := w.push(t, repository, reference, manifest); status != http.StatusCreated {
		t.Fatalf("push of %s:%s: %d", repository, reference, status)
	}
	return imageOf(repository, manifest)
}

func imageOf(repository, manifest string) api.Image {
	return api.Image{Host: hosts[0], Repository: repository, Digest: digest.FromString(manifest)}
}

// upload does what the server does with a signature of alice's.
func (w *world) upload(t *testing.T, image api.Image, reference string) error {
	t.Helper()
	return w.uploadBy(t, "alice", image, reference)
}

func (w *world) uploadBy(t *testing.T, person string, image api.Image, reference string) error {
	t.Helper()
	content, err := signers()[person].Sign(t.Context(), signature.Claim{Reference: reference, Digest: image.Digest, Timestamp: time.Now(), Creator: rand.Text()})
	if err != nil {
		t.Fatal(err)
	}
	return w.bring(t, image, content)
}

func (w *world) bring(t *testing.T, image api.Image, content signature.Untrusted) error {
	t.Helper()
	admitted, err := w.door.Admit(admission.Upload{Image: image, Content: content, Origin: "upload"})
	if err != nil {
		return err
	}
	before, err := w.store.Get(t.Context(), image)
	if err != nil {
		return err
	}
	change := admitted.Change(0)
	if err := w.signing.Uploading(t.Context(), &change, before); err != nil {
		return err
	}
	if _, err := w.store.Do(t.Context(), change); err != nil {
		return err
	}
	return w.signing.Uploaded(t.Context(), change)
}

func (w *world) mustUpload(t *testing.T, person string, image api.Image, reference string) {
	t.Helper()
	if err := w.uploadBy(t, person, image, reference); err != nil {
		t.Fatalf("upload by %s for %s: %v", person, reference, err)
	}
}

// own returns the references of the server's own signatures, in their order.
func (w *world) own(t *testing.T, image api.Image) []string {
	t.Helper()
	set, err := w.store.Get(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	var references []string
	for _, s := range set.Signatures {
		if s.Own {
			references = append(references, s.Reference)
		}
	}
	return references
}

func (w *world) want(t *testing.T, image api.Image, references ...string) {
	t.Helper()
	if got := w.own(t, image); !slices.Equal(got, references) {
		t.Errorf("%s is signed as %q, want %q", image, got, references)
	}
}

// tasks are what is queued or dead.
func (w *world) tasks(t *testing.T) (all []store.Task) {
	t.Helper()
	entries, _, err := w.store.List(t.Context(), store.Filter{Kind: store.Tasks}, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, *e.Task)
	}
	return all
}

// idle works until nothing is queued that could be done now: what is left waits for something, is
// dead, or is due much later.
func (w *world) idle(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() { w.signing.Run(ctx) })
	defer working.Wait()
	defer stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(time.Minute); ; {
		if !slices.ContainsFunc(w.tasks(t), func(task store.Task) bool {
			return task.State == store.Queued && (task.Lease != "" || task.Due.Before(time.Now().Add(100*time.Millisecond)))
		}) {
			return
		}
		select {
		case <-ticker.C:
		case <-late:
			t.Fatalf("the queue does not become idle: %+v", w.tasks(t))
		}
	}
}

// whileWorking runs the queue while something happens on a test's clock.
func (w *world) whileWorking(t *testing.T, happens func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() { w.signing.Run(ctx) })
	happens()
	stop()
	working.Wait()
	<-time.After(time.Second) // the store finishes what nobody waits for any more
}

// working runs the queue for a time of a test's clock.
func (w *world) working(t *testing.T, d time.Duration) {
	t.Helper()
	w.whileWorking(t, func() { <-time.After(d) })
}

func (w *world) records(t *testing.T) []store.Record {
	t.Helper()
	records, _, err := w.store.Records(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// due makes everything due that is queued and that nobody holds.
func (w *world) due(t *testing.T) {
	t.Helper()
	for _, task := range w.tasks(t) {
		if task.State != store.Queued {
			continue
		}
		if _, err := w.store.Do(t.Context(), store.Change{Image: task.Image, Ends: &store.Task{Key: task.Key, State: store.Queued}}); err != nil {
			t.Fatal(err)
		}
	}
}
