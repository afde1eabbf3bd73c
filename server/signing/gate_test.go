package signing_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/server/signing"
	"github.com/countersign-dev/countersign/store"
)

// gate is the policy that wants a signature by each of these, on everything of our host.
func gate(t *testing.T, persons ...string) func() *policy.Policy {
	t.Helper()
	var requirements []string
	for _, person := range persons {
		requirements = append(requirements, fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyData":%q}`,
			base64.StdEncoding.EncodeToString(signers()[person].Key().Binary())))
	}
	return gateOf(t, strings.Join(requirements, ","))
}

func gateOf(t *testing.T, requirements string) func() *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[%s]}}}`, hosts[0], requirements)))
	if err != nil {
		t.Fatal(err)
	}
	return func() *policy.Policy { return p }
}

// gated is the rule that countersigns what alice and bob have signed.
func gated(t *testing.T, on ...signing.Trigger) signing.Rule {
	t.Helper()
	if len(on) == 0 {
		on = []signing.Trigger{signing.OnUpload}
	}
	return signing.Rule{Key: "server", On: on, Require: gate(t, "alice", "bob")}
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

// shut asserts that nothing is signed, now or when the queue is idle, and that nothing is queued.
func (w *world) shut(t *testing.T, images ...api.Image) {
	t.Helper()
	w.idle(t)
	for _, image := range images {
		w.want(t, image)
	}
	if left := w.tasks(t); len(left) > 0 {
		t.Errorf("a shut gate has queued %+v", left)
	}
}

const v1 = "registry.example.com/ns/app:v1"

// A gate opens with the second signature, whichever it is, and wherever the push comes among them.
// One signature short it stays shut.
func TestGateOpens(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"push alice bob", "push bob alice", "alice push bob", "bob push alice", "alice bob push", "bob alice push"} {
		steps := strings.Fields(order)
		w := ruled(t, gated(t))
		for short := range 4 { // 3: none is left out
			m := w.manifest(t, "ns/app", fmt.Sprint(order, short))
			image := imageOf("ns/app", m)
			for i, step := range steps {
				switch {
				case i == short:
				case step == "push":
					w.mustPush(t, "ns/app", "v1", m)
				default:
					w.mustUpload(t, step, image, v1)
				}
			}
			if short == 3 {
				w.want(t, image, v1)
				w.idle(t)
				w.want(t, image, v1)
				continue
			}
			w.shut(t, image)
		}
	}
}

// What is almost what the gate wants does not open it. The twin that does is in every row: bob's
// right signature, which comes last.
func TestGateStaysShut(t *testing.T) {
	t.Parallel()
	for name, almost := range map[string]func(t *testing.T, w *world, image api.Image){
		"alice twice":   func(t *testing.T, w *world, image api.Image) { w.mustUpload(t, "alice", image, v1) },
		"somebody else": func(t *testing.T, w *world, image api.Image) { w.mustUpload(t, "carol", image, v1) },
		"bob for another tag": func(t *testing.T, w *world, image api.Image) {
			w.mustUpload(t, "bob", image, "registry.example.com/ns/app:v2")
		},
		"bob by digest": func(t *testing.T, w *world, image api.Image) { w.mustUpload(t, "bob", image, image.String()) },
		"bob for another digest": func(t *testing.T, w *world, _ api.Image) {
			other := w.mustPush(t, "ns/app", "other", w.manifest(t, "ns/app", "other"))
			w.mustUpload(t, "bob", other, v1)
		},
		"bob for another repository": func(t *testing.T, w *world, image api.Image) {
			elsewhere := api.Image{Host: image.Host, Repository: "ns/other", Digest: image.Digest}
			w.mustUpload(t, "bob", elsewhere, "registry.example.com/ns/other:v1")
		},
	} {
		w := ruled(t, gated(t, signing.OnPush, signing.OnUpload))
		m := w.manifest(t, "ns/app", name)
		image := w.mustPush(t, "ns/app", "v1", m)
		w.mustUpload(t, "alice", image, v1)
		almost(t, w, image)
		w.mustPush(t, "ns/app", "v1", m)
		w.idle(t)
		if got := w.own(t, image); len(got) > 0 {
			t.Errorf("%s: signed as %q", name, got)
		}
		if left := w.tasks(t); len(left) > 0 {
			t.Errorf("%s: a shut gate has queued %+v", name, left)
		}
		w.mustUpload(t, "bob", image, v1)
		w.want(t, image, v1)
	}
}

func (w *world) withdraw(t *testing.T, image api.Image, wd store.Withdrawal) {
	t.Helper()
	wd.ID, wd.Reason = "1", "bad"
	if _, err := w.store.Do(t.Context(), store.Change{Image: image, Withdraw: []store.Withdrawal{wd}}); err != nil {
		t.Fatal(err)
	}
}

// What is withdrawn opens nothing, and when it is lifted a push looks again.
func TestGateOfWhatIsWithdrawn(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	m := w.manifest(t, "ns/app", "x")
	image := w.mustPush(t, "ns/app", "v1", m)
	w.mustUpload(t, "alice", image, v1)
	alices := store.Withdrawal{Scope: store.ScopeKey, Key: signers()["alice"].Key().Keys()[0].Fingerprint}
	w.withdraw(t, image, alices)
	w.mustUpload(t, "bob", image, v1)
	w.shut(t, image)
	alices.ID = "1"
	if _, err := w.store.Do(t.Context(), store.Change{Image: image, Lift: []store.Withdrawal{alices}}); err != nil {
		t.Fatal(err)
	}
	w.mustPush(t, "ns/app", "v1", m)
	w.shut(t, image) // lifted is not back
	w.mustUpload(t, "alice", image, v1)
	w.want(t, image, v1)
}

// Any of our hosts counts as the first, and what is signed is the first.
func TestGateTakesAliases(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	w.mustUpload(t, "alice", image, hosts[1]+"/ns/app:v1")
	w.shut(t, image)
	w.mustUpload(t, "bob", image, v1)
	w.want(t, image, v1)
}

// The tag must be this image's when it is signed.
func TestGateOfATagThatMoved(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	m := w.manifest(t, "ns/app", "old")
	old := w.mustPush(t, "ns/app", "v1", m)
	w.mustUpload(t, "alice", old, v1)
	w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "new"))
	w.mustUpload(t, "bob", old, v1)
	w.shut(t, old)
	w.mustPush(t, "ns/app", "v1", m) // it comes back: every push of the tag looks again
	w.want(t, old, v1)
}

// A list, of instances that are pushed by digest before it.
func (w *world) list(t *testing.T, tag string, texts ...string) (list api.Image, instances []api.Image, manifest string) {
	t.Helper()
	var entries []string
	for _, text := range texts {
		m := w.manifest(t, "ns/app", text)
		instances = append(instances, w.mustPush(t, "ns/app", digest.FromString(m).String(), m))
		entries = append(entries, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, imageType, digest.FromString(m), len(m)))
	}
	manifest = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, listType, strings.Join(entries, ","))
	if tag == "" {
		return imageOf("ns/app", manifest), instances, manifest
	}
	return w.mustPush(t, "ns/app", tag, manifest), instances, manifest
}

// A list's gate is met when every instance's is; nobody need sign the list. The last signature may
// be of any instance, or the push; one short, nothing of it is signed.
func TestGateOfAList(t *testing.T) {
	t.Parallel()
	for n, last := range []string{"alice 0", "bob 1", "push"} {
		w := ruled(t, gated(t))
		list, instances, manifest := w.list(t, "", fmt.Sprint("a", n), fmt.Sprint("b", n))
		final := func() {}
		do := func(what string, f func()) {
			if what == last {
				final = f
				return
			}
			f()
		}
		do("push", func() { w.mustPush(t, "ns/app", "v1", manifest) })
		for i, instance := range instances {
			for _, person := range []string{"alice", "bob"} {
				do(fmt.Sprint(person, " ", i), func() { w.mustUpload(t, person, instance, v1) })
			}
		}
		all := append(slices.Clone(instances), list)
		w.shut(t, all...)
		final()
		w.idle(t)
		for _, image := range all {
			w.want(t, image, v1)
		}
		if made := w.signed(t); len(made) != 3 || made[2] != list {
			t.Errorf("%s last: signed in the order %v; the list is to be the last of three", last, made)
		}
	}
}

// signed is what the audit trail says was signed, in its order.
func (w *world) signed(t *testing.T) (images []api.Image) {
	t.Helper()
	for _, r := range w.records(t) {
		if r.Action == store.Signed {
			images = append(images, r.Image)
		}
	}
	return images
}

func (w *world) records(t *testing.T) []store.Record {
	t.Helper()
	records, _, err := w.store.Records(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// A record says by which rule, and because of which signatures.
func TestRecordsSayWhy(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	image := w.mustPush(t, "ns/app", "v1", w.manifest(t, "ns/app", "x"))
	w.mustUpload(t, "alice", image, v1)
	w.mustUpload(t, "bob", image, v1)
	set, err := w.store.Get(t.Context(), image)
	if err != nil || len(set.Signatures) != 3 {
		t.Fatalf("%d signatures, %v, want 3", len(set.Signatures), err)
	}
	records := w.records(t)
	r := records[len(records)-1]
	if r.Action != store.Signed || r.Subject != "countersign" || r.Reference != v1 || !slices.Equal(r.Names, []string{set.Signatures[2].Name}) {
		t.Errorf("the last record is %+v", r)
	}
	for _, word := range []string{"on upload", "the rule for everything with key server", set.Signatures[0].Name, set.Signatures[1].Name,
		signers()["alice"].Key().Keys()[0].Fingerprint, signers()["bob"].Key().Keys()[0].Fingerprint} {
		if !strings.Contains(r.Reason, word) {
			t.Errorf("the record does not say %s: %s", word, r.Reason)
		}
	}
}

// Rules that could not do what they say stop the start, with the reason.
func TestRulesAreRefused(t *testing.T) {
	t.Parallel()
	w := ruled(t)
	push, upload := []signing.Trigger{signing.OnPush}, []signing.Trigger{signing.OnUpload}
	for name, test := range map[string]struct {
		rules []signing.Rule
		says  string
	}{
		"a key that is missing":         {[]signing.Rule{{Key: "third", On: push}}, `"third" in signing.keys; there is second, server`},
		"no trigger":                    {[]signing.Rule{{Key: "server"}}, "on is missing"},
		"a trigger that is none":        {[]signing.Rule{{Key: "server", On: []signing.Trigger{"sometimes"}}}, "sometimes"},
		"a trigger twice":               {[]signing.Rule{{Key: "server", On: append(push, push...)}}, "each once"},
		"another host":                  {[]signing.Rule{{Scope: "other.example.com/ns", Key: "server", On: push}}, hosts[0]},
		"an alias":                      {[]signing.Rule{{Scope: hosts[1] + "/ns", Key: "server", On: push}}, hosts[0]},
		"a wildcard for others":         {[]signing.Rule{{Scope: "*.example.org", Key: "server", On: push}}, hosts[0]},
		"a slash at the end":            {[]signing.Rule{{Scope: hosts[0] + "/ns/", Key: "server", On: push}}, "no reference"},
		"upper case":                    {[]signing.Rule{{Scope: hosts[0] + "/NS", Key: "server", On: push}}, "no reference"},
		"the start of a name":           {[]signing.Rule{{Scope: hosts[0] + "x", Key: "server", On: push}}, hosts[0]},
		"the same twice":                {[]signing.Rule{{Key: "server", On: push}, {Key: "server", On: upload}}, "signing.rules[1]"},
		"a gate that nobody looks at":   {[]signing.Rule{{Key: "server", On: push, Require: gate(t, "alice")}}, "neither upload nor request"},
		"a gate that accepts anything":  {[]signing.Rule{{Key: "server", On: upload, Require: gateOf(t, `{"type":"insecureAcceptAnything"}`)}}, "insecureAcceptAnything"},
		"a gate of the server's own":    {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "alice", "server")}}, "the server's own key"},
		"a gate of another of its keys": {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "second")}}, "the server's own key"},
		"a gate of one signer twice":    {[]signing.Rule{{Key: "server", On: upload, Require: gate(t, "alice", "alice")}}, "both name key"},
		"a gate that says nothing of it": {[]signing.Rule{{Key: "server", On: upload, Require: func() *policy.Policy {
			p, _ := policy.Parse([]byte(`{"default":[{"type":"reject"}]}`))
			return p
		}}}, "default[0]"},
		"a delay before now": {[]signing.Rule{{Key: "server", On: push, Supersede: -time.Hour}}, "supersede"},
	} {
		c := w.config
		c.Rules = test.rules
		if _, err := signing.New(c); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
}

// The most precise scope decides, alone, and each of its keys signs.
func TestMostPreciseScopeDecides(t *testing.T) {
	t.Parallel()
	push := []signing.Trigger{signing.OnPush}
	w := ruled(t,
		signing.Rule{Scope: "*.example.com", Key: "server", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/quiet", Key: "server", On: []signing.Trigger{signing.OnRequest}},
		signing.Rule{Scope: hosts[0] + "/ns/both", Key: "server", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/both", Key: "second", On: push},
		signing.Rule{Scope: hosts[0] + "/ns/app:prod", Key: "second", On: push},
	)
	for _, test := range []struct {
		repository, tag string
		keys            []string
	}{
		{"ns/app", "v1", []string{"server"}},
		{"ns/app", "prod", []string{"second"}},
		{"ns/app", "production", []string{"server"}},
		{"ns/quiet", "v1", nil},
		{"ns/quieter", "v1", []string{"server"}},
		{"ns/both", "v1", []string{"server", "second"}},
	} {
		image := w.mustPush(t, test.repository, test.tag, w.manifest(t, test.repository, test.repository+test.tag))
		set, err := w.store.Get(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, sig := range set.Signatures {
			for name, signer := range w.config.Keys {
				if signer.Key().Has(sig.Fingerprint) && sig.Reference == hosts[0]+"/"+test.repository+":"+test.tag {
					keys = append(keys, name)
				}
			}
		}
		if !slices.Equal(keys, test.keys) {
			t.Errorf("%s:%s is signed by %q, want %q", test.repository, test.tag, keys, test.keys)
		}
	}
}

// Uploads that race never lose the one that opens the gate.
func TestUploadsThatRaceOpenTheGate(t *testing.T) {
	t.Parallel()
	w := ruled(t, gated(t))
	for n := range 10 {
		tag := fmt.Sprintf("v%d", n)
		list, instances, _ := w.list(t, tag, tag+"a", tag+"b")
		var all sync.WaitGroup
		for _, instance := range instances {
			for _, person := range []string{"alice", "bob"} {
				all.Go(func() {
					if err := w.uploadBy(t, person, instance, hosts[0]+"/ns/app:"+tag); err != nil {
						t.Errorf("upload by %s: %v", person, err)
					}
				})
			}
		}
		all.Wait()
		for _, image := range append(instances, list) {
			w.want(t, image, hosts[0]+"/ns/app:"+tag)
		}
	}
}
