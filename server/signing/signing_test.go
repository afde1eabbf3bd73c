package signing_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	trusted  atomic.Pointer[policy.Policy]
}

// trust has these keys upload, and no others.
func (w *world) trust(keys ...*signature.Keyring) {
	w.trusted.Store(policy.Trust(hosts, signature.Join(keys...)))
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
	w := &world{store: s}
	w.trust(signers()["alice"].Key(), signers()["bob"].Key(), signers()["carol"].Key())
	w.door = admission.New(admission.Config{
		Hosts: hosts, Policy: func(time.Time) *policy.Policy { return w.trusted.Load() }, Clients: signature.AllClients, Clock: time.Now,
	})
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
	change := admitted.Change(0)
	if err := w.signing.Uploading(t.Context(), &change, w.store.Get); err != nil {
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

func TestPushSignsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnPush)
	m := w.manifest(t, "ns/app", "x")
	image := w.mustPush(t, "ns/app", "v1", m)
	w.mustPush(t, "ns/app", "v1", m)
	w.want(t, image, hosts[0]+"/ns/app:v1")
	w.mustPush(t, "ns/app", "v2", m)
	w.mustPush(t, "ns/app", string(image.Digest), m)
	w.want(t, image, hosts[0]+"/ns/app:v1", hosts[0]+"/ns/app:v2", image.String())
}

func TestNothingIsSignedWithoutRuleOrKey(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]*world{
		"no key":  newWorld(t, 100, nil, signing.OnPush, signing.OnUpload),
		"no rule": newWorld(t, 100, server()),
	} {
		image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", name))
		if err := w.upload(t, image, hosts[0]+"/ns/app:v1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w.want(t, image)
	}
}

func TestUploadOfWhatIsThereIsCountersigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnUpload)
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	w.want(t, image)
	for range 2 {
		if err := w.upload(t, image, hosts[0]+"/ns/app:v1"); err != nil {
			t.Fatal(err)
		}
	}
	w.want(t, image, hosts[0]+"/ns/app:v1")
	// An alias of ours is countersigned under the first of our hosts, once.
	if err := w.upload(t, image, hosts[1]+"/ns/app:v1"); err != nil {
		t.Fatal(err)
	}
	w.want(t, image, hosts[0]+"/ns/app:v1")
	if err := w.upload(t, image, image.String()); err != nil {
		t.Fatal(err)
	}
	w.want(t, image, hosts[0]+"/ns/app:v1", image.String())
}

func TestUploadBeforeItsImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnUpload)
	m := w.manifest(t, "ns/app", "x")
	image := imageOf("ns/app", m)
	if err := w.upload(t, image, hosts[0]+"/ns/app:v1"); err != nil {
		t.Fatal(err)
	}
	w.want(t, image) // the registry does not have it
	w.mustPush(t, "ns/app", string(image.Digest), m)
	w.want(t, image) // it is there, and not under that tag
	w.mustPush(t, "ns/app", "v2", m)
	w.want(t, image)
	w.mustPush(t, "ns/app", "v1", m)
	w.want(t, image, hosts[0]+"/ns/app:v1")
}

// A signature may say of any digest that it is v1. The server says so only of what v1 is.
func TestUploadForWhatTheTagIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnUpload)
	old := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "old"))
	w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "new"))
	if err := w.upload(t, old, hosts[0]+"/ns/app:v1"); err != nil {
		t.Fatal(err)
	}
	w.want(t, old)
	if err := w.upload(t, imageOf("ns/app", "never pushed"), hosts[0]+"/ns/app:v1"); err != nil {
		t.Fatal(err)
	}
	w.want(t, imageOf("ns/app", "never pushed"))
}

func TestListSignsItsInstancesUnderItsTag(t *testing.T) {
	t.Parallel()
	for _, on := range []signing.Trigger{signing.OnPush, signing.OnUpload} {
		w := newWorld(t, 100, server(), on)
		m := w.manifest(t, "ns/app", "instance")
		instance := w.mustPush(t, "ns/app", digest.FromString(m).String(), m)
		w.want(t, instance, map[signing.Trigger][]string{signing.OnPush: {instance.String()}}[on]...)
		list := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, listType, imageType, instance.Digest, len(m))
		listed := w.mustPush(t, "ns/app", "v1", list)
		if on == signing.OnUpload {
			for _, image := range []api.Image{instance, listed} {
				if err := w.upload(t, image, hosts[0]+"/ns/app:v1"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := w.own(t, instance); !slices.Contains(got, hosts[0]+"/ns/app:v1") {
			t.Errorf("on %s: the instance is signed as %q, not under the list's tag", on, got)
		}
		w.want(t, listed, hosts[0]+"/ns/app:v1")
	}
}

// Of an upload and a push that race, one sees the other.
func TestUploadAndPushRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnUpload)
	for n := range 20 {
		tag := fmt.Sprintf("v%d", n)
		m := w.manifest(t, "ns/app", tag)
		image := imageOf("ns/app", m)
		var both sync.WaitGroup
		both.Go(func() {
			if err := w.upload(t, image, hosts[0]+"/ns/app:"+tag); err != nil {
				t.Errorf("upload: %v", err)
			}
		})
		both.Go(func() { w.mustPush(t, "ns/app", tag, m) })
		both.Wait()
		w.want(t, image, hosts[0]+"/ns/app:"+tag)
	}
}

// Two hundred tags of one digest: those whose tag left go first, then the oldest, and the
// newest always stay.
func TestTagsThatLeftGoFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, server(), signing.OnPush)
	m, other := w.manifest(t, "ns/app", "x"), w.manifest(t, "ns/app", "y")
	reference := func(tag string) string { return hosts[0] + "/ns/app:" + tag }
	var image api.Image
	for _, tag := range []string{"a", "b", "c", "d"} {
		image = w.mustPush(t, "ns/app", tag, m)
	}
	w.mustPush(t, "ns/app", "c", other) // c leaves
	w.mustPush(t, "ns/app", "e", m)
	w.want(t, image, reference("a"), reference("b"), reference("d"), reference("e"))
	w.mustPush(t, "ns/app", "f", m)
	w.want(t, image, reference("b"), reference("d"), reference("e"), reference("f"))
}

// A person decided about the signature, not about the image.
func TestWithdrawnIsPushedUnsigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100, server(), signing.OnPush)
	m := w.manifest(t, "ns/app", "x")
	image := imageOf("ns/app", m)
	_, err := w.store.Do(t.Context(), store.Change{Image: image, Withdraw: []store.Withdrawal{{ID: "1", Scope: store.ScopeImage, Reason: "bad"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.mustPush(t, "ns/app", "v1", m)
	w.want(t, image)
	if _, err := w.registry.Manifest(t.Context(), "ns/app", "v1"); err != nil {
		t.Errorf("the tag: %v", err)
	}
}

// A tag that nodes would refuse never appears.
func TestPushFailsWithoutItsSignature(t *testing.T) {
	t.Parallel()
	stopped := newWorld(t, 100, server(), signing.OnPush)
	if err := stopped.store.Close(); err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]*world{
		"the store is away":               stopped,
		"the signer fails":                newWorld(t, 100, liar{server(), nil}, signing.OnPush),
		"the signer signs something else": newWorld(t, 100, liar{server(), func(c *signature.Claim) { c.Reference = hosts[0] + "/ns/other:v1" }}, signing.OnPush),
		"the signer signs another digest": newWorld(t, 100, liar{server(), func(c *signature.Claim) { c.Digest = digest.FromString("other") }}, signing.OnPush),
	} {
		status := w.push(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
		if status < 500 {
			t.Errorf("%s: the push is answered %d, want 5xx", name, status)
		}
		if m, err := w.registry.Manifest(t.Context(), "ns/app", "v1"); !errors.Is(err, registry.ErrUnknown) {
			t.Errorf("%s: the tag exists: %s, %v", name, m.Digest, err)
		}
	}
}

// A liar signs something else than it was asked to, or fails.
type liar struct {
	signature.Signer
	change func(*signature.Claim)
}

func (l liar) Sign(ctx context.Context, c signature.Claim) ([]byte, error) {
	if l.change == nil {
		return nil, errors.New("the token was pulled out")
	}
	l.change(&c)
	return l.Signer.Sign(ctx, c)
}
