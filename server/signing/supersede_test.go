package signing_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/store"
)

// A tag that comes and goes: each image keeps its signature for the delay after the tag has left it,
// and what the tag is keeps it for good.
func TestSupersede(t *testing.T) {
	t.Parallel()
	rule := signing.Rule{Key: "server", On: []signing.Trigger{signing.OnPush}, Supersede: 10 * time.Minute}
	w := ruled(t, rule)
	a, b, c := w.manifest(t, "ns/app", "a"), w.manifest(t, "ns/app", "b"), w.manifest(t, "ns/app", "c")
	list, instances, multi := w.list(t, "", "d", "e")
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, rule) // its channels belong to this clock
		began := time.Now()
		at := func(minutes int, present ...string) {
			w.working(t, time.Until(began.Add(time.Duration(minutes)*time.Minute)))
			for name, m := range map[string]string{"a": a, "b": b, "c": c, "list": multi} {
				if got := slices.Contains(w.own(t, imageOf("ns/app", m)), v1); got != slices.Contains(present, name) {
					t.Errorf("after %v minutes: %s has its signature: %v, want %v", minutes, name, got, !got)
				}
			}
		}
		w.mustPush(t, "ns/app", "v1", a)
		w.mustPush(t, "ns/app", "v2", a)
		at(1, "a")
		w.mustPush(t, "ns/app", "v1", b) // leaves a
		at(3, "a", "b")
		w.mustPush(t, "ns/app", "v1", a) // leaves b
		at(5, "a", "b")
		w.mustPush(t, "ns/app", "v1", c) // leaves a again
		at(12, "a", "b", "c")            // a was left for four minutes only
		at(14, "a", "c")
		at(16, "c")
		w.mustPush(t, "ns/app", "v1", multi)
		at(27, "list")
		for _, instance := range instances {
			if !slices.Contains(w.own(t, instance), v1) {
				t.Errorf("an instance of what the tag is has lost its signature")
			}
		}
		w.mustPush(t, "ns/app", "v1", c)
		at(38, "c")
		for _, image := range append(instances, list) {
			if slices.Contains(w.own(t, image), v1) {
				t.Errorf("%s of what the tag has left has its signature still", image.Digest)
			}
		}
		if got := w.own(t, imageOf("ns/app", a)); !slices.Equal(got, []string{hosts[0] + "/ns/app:v2"}) {
			t.Errorf("a is signed as %q; v2 is still there", got)
		}
	})
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
}

// Nobody worked for a while: then several looks are due at once, and none keeps what another has to
// drop.
func TestSupersedeLate(t *testing.T) {
	t.Parallel()
	rule := signing.Rule{Key: "server", On: []signing.Trigger{signing.OnPush}, Supersede: time.Minute}
	w := ruled(t, rule)
	var images []api.Image
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, rule)
		for _, name := range []string{"a", "b", "c", "d"} {
			m := w.manifest(t, "ns/app", name)
			w.mustPush(t, "ns/app", "v1", m)
			images = append(images, imageOf("ns/app", m))
			<-time.After(time.Second)
		}
		<-time.After(10 * time.Minute)
		w.working(t, time.Minute)
	})
	for i, image := range images {
		if got, want := slices.Contains(w.own(t, image), v1), i == len(images)-1; got != want {
			t.Errorf("image %d of %d that were v1: it has its signature: %v, want %v", i+1, len(images), got, want)
		}
	}
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
}

// A counting registry counts what it is asked.
type counting struct {
	*registry.Embedded
	mu    sync.Mutex
	asked int
	after func() // once, before the answer is used
}

func (c *counting) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	m, err := c.Embedded.Manifest(ctx, repository, reference)
	c.mu.Lock()
	c.asked++
	after := c.after
	c.after = nil
	c.mu.Unlock()
	if after != nil {
		after()
	}
	return m, err
}

// superseding is a world whose rule drops after a minute what a tag has left.
func superseding(t *testing.T) (*world, *counting, signing.Rule) {
	t.Helper()
	rule := signing.Rule{Key: "server", On: []signing.Trigger{signing.OnPush}, Supersede: time.Minute}
	w := ruled(t, rule)
	r := &counting{Embedded: w.registry}
	w.config.Registry = r
	return w, r, rule
}

// A tag that is pushed every second has many looks to come. Each asks the registry what the tag is, and
// nothing more.
func TestSupersedeAsksLittle(t *testing.T) {
	t.Parallel()
	const pushes = 12
	w, r, rule := superseding(t)
	var images []api.Image
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, rule)
		for n := range pushes {
			m := w.manifest(t, "ns/app", fmt.Sprint(n))
			images = append(images, w.mustPush(t, "ns/app", "v1", m))
			<-time.After(time.Second)
		}
		r.asked = 0
		w.working(t, 2*time.Minute)
	})
	for i, image := range images {
		if got, want := slices.Contains(w.own(t, image), v1), i == pushes-1; got != want {
			t.Errorf("image %d of %d that were v1: it has its signature: %v, want %v", i+1, pushes, got, want)
		}
	}
	if r.asked > 2*pushes { // once more where something was dropped
		t.Errorf("%d looks have asked the registry %d times", pushes, r.asked)
	}
}

// A list that a later push has brought, and the tag has left since, keeps its instances as long as
// itself.
func TestSupersedeKeepsInstances(t *testing.T) {
	t.Parallel()
	w, _, rule := superseding(t)
	list, instances, multi := w.list(t, "", "d", "e")
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, rule)
		w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "a"))
		<-time.After(10 * time.Second)
		w.mustPush(t, "ns/app", "v1", multi)
		<-time.After(10 * time.Second)
		w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "b"))
		w.working(t, 45*time.Second)
		for _, image := range append(instances, list) {
			if !slices.Contains(w.own(t, image), v1) {
				t.Errorf("%s has lost its signature before the delay was over", image.Digest)
			}
		}
		w.working(t, 20*time.Second)
		for _, image := range append(instances, list) {
			if slices.Contains(w.own(t, image), v1) {
				t.Errorf("%s has its signature still", image.Digest)
			}
		}
	})
}

// What the tag moves between may overlap.
func TestSupersedeOfLists(t *testing.T) {
	t.Parallel()
	w, _, rule := superseding(t)
	d := w.manifest(t, "ns/app", "d")
	list, instances, both := w.list(t, "", "d", "e")
	other, others, more := w.list(t, "", "e", "f")
	all := map[string][]api.Image{d: {imageOf("ns/app", d)}, both: append(instances, list), more: append(others, other)}
	for name, test := range map[string]struct{ from, to string }{
		"list to list":   {both, more},
		"list to image":  {both, d},
		"image to list":  {d, both},
		"image to other": {d, more},
	} {
		synctest.Test(t, func(t *testing.T) {
			w.restart(t, rule)
			w.mustPush(t, "ns/app", "v1", test.from)
			<-time.After(time.Second)
			w.mustPush(t, "ns/app", "v1", test.to)
			w.working(t, 2*time.Minute)
		})
		kept := all[test.to]
		for _, image := range slices.Concat(all[test.from], kept) {
			if got, want := slices.Contains(w.own(t, image), v1), slices.Contains(kept, image); got != want {
				t.Errorf("%s: %s has its signature: %v, want %v", name, image.Digest, got, want)
			}
		}
	}
}

// A list too long to be signed has nothing to keep; what it has replaced goes all the same.
func TestSupersedeByWhatIsNeverSigned(t *testing.T) {
	t.Parallel()
	w, _, rule := superseding(t)
	rule.On = []signing.Trigger{signing.OnRequest}
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, rule)
		a := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "a"))
		named, err := reference.ParseNormalizedNamed(v1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.signing.Request(t.Context(), named, admission.Caller{}); err != nil {
			t.Fatal(err)
		}
		w.want(t, a, v1)
		<-time.After(time.Second)
		entry := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d},`, imageType, a.Digest, len(w.manifest(t, "ns/app", "a")))
		w.mustPush(t, "ns/app", "v1", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`,
			listType, strings.TrimSuffix(strings.Repeat(entry, registry.MaxInstances+1), ",")))
		w.working(t, 2*time.Minute)
		w.want(t, a)
	})
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
}

// An interrupted store lets something happen before a signature is dropped, and is cut off behind it.
type interrupted struct {
	store.Store
	before func() // once
	cut    bool
}

func (i *interrupted) Do(ctx context.Context, c store.Change) (store.Set, error) {
	before := i.before
	if len(c.Drop) == 0 || before == nil {
		return i.Store.Do(ctx, c)
	}
	i.before = nil
	before()
	set, err := i.Store.Do(ctx, c)
	if i.cut {
		return store.Set{}, store.ErrUnavailable
	}
	return set, err
}

// The tag comes back to an image while its signature is being dropped. Whichever of the two sees the
// other, in the end what the tag is has its signature.
func TestSupersedeRacesWithAPush(t *testing.T) {
	t.Parallel()
	for name, race := range map[string]func(t *testing.T, w *world, r *counting, i *interrupted, again func()){
		"pushed when the registry has said what the tag is": func(t *testing.T, w *world, r *counting, _ *interrupted, again func()) {
			r.after = again
			w.working(t, 2*time.Minute)
		},
		"pushed right before": func(t *testing.T, w *world, _ *counting, i *interrupted, again func()) {
			i.before = again
			w.working(t, 2*time.Minute)
		},
		"pushed right before, and the server dies behind it": func(t *testing.T, w *world, _ *counting, i *interrupted, again func()) {
			i.before, i.cut = again, true
			w.working(t, 2*time.Minute)
		},
		"dropped between what a push signs and its tag": func(t *testing.T, w *world, _ *counting, _ *interrupted, again func()) {
			w.between = func() { w.working(t, 2*time.Minute) }
			again()
			w.working(t, time.Minute)
		},
	} {
		w, r, rule := superseding(t)
		i := &interrupted{Store: w.store}
		w.config.Store = i
		a, b := w.manifest(t, "ns/app", "a"), w.manifest(t, "ns/app", "b")
		synctest.Test(t, func(t *testing.T) {
			w.restart(t, rule)
			w.mustPush(t, "ns/app", "v1", a)
			<-time.After(30 * time.Second)
			w.mustPush(t, "ns/app", "v1", b)
			w.working(t, 45*time.Second) // the first look is over, the second is to come
			raced := false
			race(t, w, r, i, func() {
				raced = true
				w.mustPush(t, "ns/app", "v1", a)
			})
			if got := w.own(t, imageOf("ns/app", a)); !raced || !slices.Contains(got, v1) {
				t.Errorf("%s: raced: %v; the image that the tag is has %q", name, raced, got)
			}
		})
	}
}
