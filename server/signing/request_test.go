package signing_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/registry"
	"github.com/countersign-dev/countersign/server/signing"
)

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
