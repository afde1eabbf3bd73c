package signing_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

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
