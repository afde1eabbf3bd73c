package signing_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/signature"
	"github.com/countersign-dev/countersign/store"
)

// While a task waits, what it depends on changes. It is looked at again before it signs. In each row
// the change is left out once: then it is signed.
func TestEverythingIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(t *testing.T, w *world, image api.Image)
		state  string // of the task; empty: it is gone
		says   string // its problem, or the record of the refusal
	}{
		"the rule is gone":       {func(t *testing.T, w *world, _ api.Image) { w.restart(t) }, store.Dead, "no signing rule"},
		"the rule has no upload": {func(t *testing.T, w *world, _ api.Image) { w.restart(t, gated(t, signing.OnRequest)) }, store.Dead, "no signing rule"},
		"the rule has another key": {func(t *testing.T, w *world, _ api.Image) {
			r := gated(t)
			r.Key = "second"
			w.restart(t, r)
		}, store.Dead, "no signing rule"},
		"a more precise rule": {func(t *testing.T, w *world, _ api.Image) {
			w.restart(t, gated(t), signing.Rule{Scope: v1, Key: "second", On: []signing.Trigger{signing.OnPush}})
		}, store.Dead, "no signing rule"},
		"the gate wants carol, too": {func(t *testing.T, w *world, _ api.Image) {
			r := gated(t)
			r.Require = gate(t, "alice", "bob", "carol")
			w.restart(t, r)
		}, "", "the gate is shut"},
		"a signature is withdrawn": {func(t *testing.T, w *world, image api.Image) {
			w.withdraw(t, image, store.Withdrawal{Scope: store.ScopeKey, Key: signers()["alice"].Key().Keys()[0].Fingerprint})
		}, "", "the gate is shut"},
		"the image is withdrawn": {func(t *testing.T, w *world, image api.Image) {
			w.withdraw(t, image, store.Withdrawal{Scope: store.ScopeImage})
		}, "", "not signed"},
		"the server's key is withdrawn": {func(t *testing.T, w *world, image api.Image) {
			w.withdraw(t, image, store.Withdrawal{Scope: store.ScopeKey, Key: server().Key().Keys()[0].Fingerprint})
		}, "", "withdrawn"},
		"the tag moves": {func(t *testing.T, w *world, _ api.Image) {
			w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "another"))
		}, "", "does not lead to it"},
		"the tag is deleted": {func(t *testing.T, w *world, _ api.Image) {
			if status := w.do("DELETE", "/v2/ns/app/manifests/v1", "", "").Code; status != http.StatusAccepted {
				t.Fatalf("the tag is not deleted: %d", status)
			}
		}, "", "does not lead to it"},
	} {
		for _, changed := range []bool{true, false} {
			w := ruled(t, gated(t))
			image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", name))
			w.mustUpload(t, "alice", image, v1)
			w.queueOnly(t, "bob", image, v1)
			if changed {
				test.change(t, w, image)
			}
			w.due(t)
			w.idle(t)
			if !changed {
				w.want(t, image, v1)
				continue
			}
			w.want(t, image)
			left, says := w.tasks(t), ""
			if len(left) > 0 {
				says = left[0].Problem
			} else {
				records := w.records(t)
				says = records[len(records)-1].Reason
			}
			if (len(left) > 0) != (test.state != "") || len(left) > 0 && left[0].State != test.state || !strings.Contains(says, test.says) {
				t.Errorf("%s: left are %+v, and it says %q; want %q, %q", name, left, says, test.state, test.says)
			}
		}
	}
}

// queueOnly stores an upload with its task and dies there, as a server that is killed.
func (w *world) queueOnly(t *testing.T, person string, image api.Image, ref string) store.Change {
	t.Helper()
	content, err := signers()[person].Sign(t.Context(), signature.Claim{Reference: ref, Digest: image.Digest})
	if err != nil {
		t.Fatal(err)
	}
	return w.storeOnly(t, image, content)
}

// storeOnly is queueOnly of what somebody has signed.
func (w *world) storeOnly(t *testing.T, image api.Image, content signature.Untrusted) store.Change {
	t.Helper()
	admitted, err := w.door.Admit(admission.Upload{Image: image, Content: content, Origin: "upload"})
	if err != nil {
		t.Fatal(err)
	}
	change := admitted.Change(0)
	if err := w.signing.Uploading(t.Context(), &change, w.store.Get); err != nil {
		t.Fatal(err)
	}
	if len(change.Then) != 1 {
		t.Fatalf("the upload queues %d tasks, want 1", len(change.Then))
	}
	if _, err := w.store.Do(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	return change
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

// A list waits for an instance that the registry lacks; the others are signed meanwhile. Its twin
// lacks a signature, and nothing of it is ever signed.
func TestListWaitsForAnInstance(t *testing.T) {
	t.Parallel()
	for _, short := range []bool{false, true} {
		w := ruled(t, gated(t))
		list, instances, _ := w.list(t, "v1", "here", "away")
		if status := w.do("DELETE", "/v2/ns/app/manifests/"+instances[1].Digest.String(), "", "").Code; status != http.StatusAccepted {
			t.Fatalf("the instance is not deleted: %d", status)
		}
		for i, instance := range instances {
			w.mustUpload(t, "alice", instance, v1)
			if !short || i == 1 {
				w.mustUpload(t, "bob", instance, v1)
			}
		}
		if short {
			w.shut(t, append(instances, list)...)
			w.mustPush(t, "ns/app", instances[1].Digest.String(), w.manifest(t, "ns/app", "away"))
			w.shut(t, append(instances, list)...)
			continue
		}
		w.due(t)
		w.idle(t)
		w.want(t, instances[0], v1)
		w.want(t, instances[1])
		w.want(t, list)
		if left := w.tasks(t); len(left) != 1 || left[0].State != store.Queued || !strings.Contains(left[0].Problem, instances[1].Digest.String()) {
			t.Errorf("queued are %+v; want the list, waiting for %s", left, instances[1].Digest)
		}
		w.mustPush(t, "ns/app", instances[1].Digest.String(), w.manifest(t, "ns/app", "away"))
		w.due(t)
		w.idle(t)
		for _, image := range append(instances, list) {
			w.want(t, image, v1)
		}
		if left := w.tasks(t); len(left) > 0 {
			t.Errorf("left are %+v", left)
		}
	}
}

// What fails for ever is dead in the end, says why, and can be retried and dropped.
func TestDeadLetter(t *testing.T) {
	t.Parallel()
	failing := &switched{Signer: server()}
	failing.broken.Store(true)
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": failing}, everything(signing.OnUpload))
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, everything(signing.OnUpload)...) // its channels belong to this clock
		w.mustUpload(t, "alice", image, v1)           // the upload is in order, whatever becomes of ours
		w.want(t, image)
		w.due(t)
		began := time.Now()
		w.whileWorking(t, func() {
			for len(w.tasks(t)) == 1 && w.tasks(t)[0].State == store.Queued && time.Since(began) < 2*time.Hour {
				<-time.After(time.Minute)
			}
		})
		left := w.tasks(t)
		if len(left) != 1 || left[0].State != store.Dead || left[0].Attempts != 15 || !strings.Contains(left[0].Problem, "pulled out") {
			t.Errorf("after %v there is %+v, want a dead task of 15 attempts", time.Since(began), left)
		}
	})
	w.restart(t, everything(signing.OnUpload)...)
	left := w.tasks(t)
	if err := w.signing.Retry(t.Context(), "none"); !errors.Is(err, signing.ErrNoTask) {
		t.Errorf("a retry of nothing: %v", err)
	}
	failing.broken.Store(false)
	if err := w.signing.Retry(t.Context(), signing.TaskID(left[0])); err != nil {
		t.Fatal(err)
	}
	w.idle(t)
	w.want(t, image, v1)
	if err := w.signing.Drop(t.Context(), signing.TaskID(left[0]), admission.Caller{}); !errors.Is(err, signing.ErrNoTask) {
		t.Errorf("what is done can be dropped: %v", err)
	}
}

// A signer that is away ends nothing, however long: what is queued is signed when it is back.
func TestSignerAwayEndsNothing(t *testing.T) {
	t.Parallel()
	absent := &switched{Signer: server(), cause: fmt.Errorf("%w: there is no signer", signature.ErrSigner)}
	absent.broken.Store(true)
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": absent}, everything(signing.OnUpload))
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, everything(signing.OnUpload)...) // its channels belong to this clock
		w.mustUpload(t, "alice", image, v1)
		w.due(t)
		w.working(t, 2*time.Hour)
		if left := w.tasks(t); len(left) != 1 || left[0].State != store.Queued || left[0].Attempts < 20 || !strings.Contains(left[0].Problem, "no signer") {
			t.Errorf("after two hours there is %+v, want a queued task of 20 attempts or more", left)
		}
		absent.broken.Store(false)
		w.working(t, 10*time.Minute)
	})
	w.want(t, image, v1)
}

// A switched signer works, or does not.
type switched struct {
	signature.Signer
	broken atomic.Bool
	cause  error
}

func (s *switched) Sign(ctx context.Context, c signature.Claim) ([]byte, error) {
	if s.broken.Load() {
		return nil, cmp.Or(s.cause, errors.New("the token was pulled out"))
	}
	return s.Signer.Sign(ctx, c)
}

// A slow signer does not answer while it is told so.
type slow struct {
	signature.Signer
	now atomic.Bool
}

func newSlow() *slow {
	s := &slow{Signer: server()}
	s.now.Store(true)
	return s
}

func (s *slow) Sign(ctx context.Context, c signature.Claim) ([]byte, error) {
	if s.now.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Signer.Sign(ctx, c)
}

// A push waits ten seconds for its signature at most. Then it is answered, and the queue finishes.
func TestPushIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	signer := newSlow()
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": signer}, everything(signing.OnPush, signing.OnUpload))
	m := w.manifest(t, "ns/app", "x")
	image := imageOf("ns/app", m)
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, everything(signing.OnPush, signing.OnUpload)...)
		began := time.Now()
		status := w.push(t, "ns/app", "v1", m)
		if took := time.Since(began); status != http.StatusCreated || took < time.Second || took > 10*time.Second {
			t.Errorf("the push is answered %d after %v, want 201 within 10s", status, took)
		}
		began = time.Now()
		if err := w.upload(t, image, v1); err != nil || time.Since(began) > 10*time.Second+time.Second/2 { // and what the store takes
			t.Errorf("the upload is answered after %v: %v", time.Since(began), err)
		}
	})
	w.want(t, image)
	if queued := w.tasks(t); len(queued) != 1 || queued[0].State != store.Queued {
		t.Fatalf("queued are %+v, want one", queued)
	}
	signer.now.Store(false)
	w.restart(t, everything(signing.OnPush, signing.OnUpload)...)
	w.due(t)
	w.idle(t)
	w.want(t, image, v1)
}

// An away registry can be asked nothing.
type away struct {
	*registry.Embedded
	now atomic.Bool
}

func (a *away) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if a.now.Load() {
		return registry.Manifest{}, registry.ErrUnavailable
	}
	return a.Embedded.Manifest(ctx, repository, reference)
}

// An upload is in order while the registry is away. What could be signed then is queued, and what
// could not is not.
func TestUploadWhileTheRegistryIsAway(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	r := &away{Embedded: w.registry}
	w.config.Registry = r
	w.restart(t, gated(t))
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	r.now.Store(true)
	w.mustUpload(t, "alice", image, v1)
	w.shut(t, image)
	w.mustUpload(t, "bob", image, v1)
	if queued := w.tasks(t); len(queued) != 1 || queued[0].State != store.Queued {
		t.Errorf("queued are %+v, want one", queued)
	}
	w.want(t, image)
	r.now.Store(false)
	w.due(t)
	w.idle(t)
	w.want(t, image, v1)
}

// A push waits for no gate that is shut.
func TestPushDoesNotWaitForAGate(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, 100, map[string]signature.Signer{"server": newSlow()}, []signing.Rule{gated(t, signing.OnPush, signing.OnUpload)})
	m := w.manifest(t, "ns/app", "x")
	synctest.Test(t, func(t *testing.T) {
		w.restart(t, gated(t, signing.OnPush, signing.OnUpload))
		began := time.Now()
		if status := w.push(t, "ns/app", "v1", m); status != http.StatusCreated || time.Since(began) > 0 {
			t.Errorf("the push is answered %d after %v, want 201 at once", status, time.Since(began))
		}
	})
}

// A request signs what is there, with the keys that rules have for requests; what it lacks is in
// the error.
func TestRequest(t *testing.T) {
	t.Parallel()
	request := []signing.Trigger{signing.OnRequest}
	w := ruled(t,
		signing.Rule{Scope: hosts[0] + "/ns", Key: "server", On: request},
		signing.Rule{Scope: hosts[0] + "/ns", Key: "second", On: []signing.Trigger{signing.OnPush}},
		signing.Rule{Scope: hosts[0] + "/ns/gated", Key: "server", On: request, Require: gate(t, "alice", "bob")},
		signing.Rule{Scope: hosts[0] + "/ns/push", Key: "server", On: []signing.Trigger{signing.OnPush}},
	)
	ask := func(ref string) (signing.Requested, error) {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			t.Fatal(err)
		}
		return w.signing.Request(t.Context(), named, admission.Caller{Subject: "user:ci", Address: "192.0.2.1"})
	}
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	pushed := w.own(t, image)
	for _, ref := range []string{v1, hosts[1] + "/ns/app:v1", v1 + "@" + image.Digest.String()} {
		r, err := ask(ref)
		if err != nil || len(r.Made) != 1 || r.Reference.String() != v1 || r.Made[0].New != (ref == v1) || r.Queued {
			t.Errorf("%s: %+v, %v", ref, r, err)
		}
	}
	w.want(t, image, append(pushed, v1)...)
	records := w.records(t)
	if r := records[len(records)-1]; r.Subject != "user:ci" || r.Address != "192.0.2.1" || !strings.Contains(r.Reason, "on request") {
		t.Errorf("the record does not say who asked: %+v", r)
	}

	gatedImage := w.mustPush(t, "ns/gated", "v1", w.manifest(t, "ns/gated", "x"))
	const gatedRef = "registry.example.com/ns/gated:v1"
	for _, person := range []string{"alice", "bob"} {
		if _, err := ask(gatedRef); !errors.Is(err, signing.ErrShut) || !strings.Contains(err.Error(), signers()["bob"].Key().Keys()[0].Fingerprint) {
			t.Errorf("a gate that is shut: %v", err)
		}
		w.shut(t, gatedImage)
		w.mustUpload(t, person, gatedImage, gatedRef)
	}
	w.shut(t, gatedImage) // an upload asks for nothing here
	if _, err := ask(gatedRef); err != nil {
		t.Error(err)
	}
	w.want(t, gatedImage, gatedRef)

	w.mustPush(t, "ns/push", "v1", w.manifest(t, "ns/push", "x"))
	w.mustPush(t, "else/app", "v1", w.manifest(t, "else/app", "another"))
	for ref, want := range map[string]error{
		"registry.example.com/ns/push:v1":                                       signing.ErrNoRule,
		"registry.example.com/else/app:v1":                                      signing.ErrNoRule,
		"registry.example.com/ns/app:v2":                                        registry.ErrUnknown,
		"registry.example.com/ns/none:v1":                                       registry.ErrUnknown,
		"registry.example.com/ns/app@" + digest.FromString("never").String():    registry.ErrUnknown,
		"registry.example.com/ns/app:v1@" + digest.FromString("never").String(): registry.ErrUnknown,
		"registry.example.com/else/app@" + image.Digest.String():                registry.ErrUnknown,
	} {
		if r, err := ask(ref); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v, want %v", ref, r, err, want)
		}
	}
}

// A request for a list of which the registry lacks an instance signs the rest, and queues the list.
func TestRequestOfAListThatWaits(t *testing.T) {
	t.Parallel()
	w := ruled(t, signing.Rule{Key: "server", On: []signing.Trigger{signing.OnRequest}})
	list, instances, _ := w.list(t, "v1", "here", "away")
	w.do("DELETE", "/v2/ns/app/manifests/"+instances[1].Digest.String(), "", "")
	named, err := reference.ParseNormalizedNamed(v1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.signing.Request(t.Context(), named, admission.Caller{Subject: "user:ci"})
	if err != nil || !r.Queued || len(r.Made) != 1 || r.Made[0].Image != instances[0] {
		t.Errorf("got %+v, %v, want the one instance, and the rest queued", r, err)
	}
	w.mustPush(t, "ns/app", instances[1].Digest.String(), w.manifest(t, "ns/app", "away"))
	w.due(t)
	w.idle(t)
	w.want(t, list, v1)
	w.want(t, instances[1], v1)
}
