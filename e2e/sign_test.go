package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// gatePolicy writes the policy that wants a signature by each of these persons, on everything.
func gatePolicy(t testing.TB, persons ...string) string {
	t.Helper()
	var requirements []string
	for _, person := range persons {
		requirements = append(requirements, fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}`, keyOf(t, person)))
	}
	path := filepath.Join(t.TempDir(), "gate.json")
	write(t, path, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{"":[%s]}}}`, strings.Join(requirements, ",")))
	return path
}

// gating starts a server whose one rule countersigns what alice and carol have signed.
func gating(t testing.TB, flags ...string) *server {
	t.Helper()
	return trusting(t, append([]string{"-config", config(t, fmt.Sprintf(
		"signing:\n  rules:\n  - {scope: '', on: [upload, request], require: %s}\n", gatePolicy(t, "alice", "carol")))}, flags...)...)
}

// idle waits until nothing is queued.
func (s *server) idle(t testing.TB) {
	t.Helper()
	eventually(t, "the queue is idle", func() bool { return !strings.Contains(s.cli(t, 0, "queue", "-json"), `"state":"queued"`) })
}

// TestGate opens gates with stock clients, in both orders; the twin that lacks a signature stays
// shut.
func TestGate(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "podman", "gpg", "curl")
	s := gating(t)
	for name, order := range map[string][]string{"first": {"alice", "carol"}, "second": {"carol", "alice"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repository := "ns/" + name
			i, reference := newImage("gate "+name), s.address+"/"+repository+":v1"
			works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, order[0])))
			s.idle(t)
			s.wantSigned(t, repository, i.digest(), order[0]+" "+reference)
			fails(t, "Source image rejected")(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
			out := s.cli(t, 1, "sign", reference)
			shows(t, out, "the gate is shut", fingerprintOf(t, order[1]))

			works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, order[1])))
			s.wantSigned(t, repository, i.digest(), order[0]+" "+reference, order[1]+" "+reference, "server "+reference)
			works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
			shows(t, s.cli(t, 0, "audit"), "by the rule for everything with key server", "because of")
		})
	}
	t.Run("podman image sign, of a list", func(t *testing.T) {
		t.Parallel()
		testGatePodmanImageSign(t, s)
	})
}

// podman image sign writes a signature of each instance to files, and never one of the list.
func testGatePodmanImageSign(t *testing.T, s *server) {
	index, reference := newIndex("gated list", "amd64", "arm64"), s.address+"/ns/list:v1"
	s.push(t, index, "ns/list", "v1")
	alices, carols := imageSigned(t, s, "alice", "ns/list", "v1"), imageSigned(t, s, "carol", "ns/list", "v1")
	bring := func(files string, child image) {
		path := lookaside("ns/list", child.digest())
		s.do(t, "POST", path, read(t, filepath.Join(files, strings.TrimPrefix(path, "/sigstore/"), "signature-1"))).want(t, 201)
	}
	last := len(index.children) - 1
	for n, child := range index.children {
		bring(alices, child)
		if n < last { // one short
			bring(carols, child)
		}
	}
	s.idle(t)
	for _, i := range append([]image{index}, index.children...) {
		for _, line := range s.signed(t, "ns/list", i.digest()) {
			if strings.HasPrefix(line, "server ") {
				t.Errorf("one signature short, %s has %s", i.digest(), line)
			}
		}
	}
	bring(carols, index.children[last])
	for _, child := range index.children {
		s.wantSigned(t, "ns/list", child.digest(), "alice "+reference, "carol "+reference, "server "+reference)
	}
	s.wantSigned(t, "ns/list", index.digest(), "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference, "--all"))
}

// imageSigned is the directory that podman image sign --all has written to.
func imageSigned(t *testing.T, s *server, person, repository, tag string) string {
	t.Helper()
	n := newNode(t)
	to := filepath.Join(n.dir, "signatures")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	n.mirrors(t, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", s.address))
	works(t)(n.podman(t, "image", "sign", "--all", "--sign-by", fingerprintOf(t, person), "-d", to, "docker://"+s.address+"/"+repository+":"+tag))
	return to
}

// TestSign asks for signatures of what is there already.
func TestSign(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo", "curl")
	s := trusting(t, "-sign-on", "request")
	i, index := newImage("on request"), newIndex("a list on request", "amd64", "arm64")
	s.push(t, i, "ns/app", "v1")
	s.tag(t, i, "ns/app", "v2")
	s.push(t, index, "ns/app", "multi")
	s.wantSigned(t, "ns/app", i.digest())
	v1, v2, multi := s.address+"/ns/app:v1", s.address+"/ns/app:v2", s.address+"/ns/app:multi"
	shows(t, s.cli(t, 1, "coverage", "ns/app"), v1+" is rejected", multi+" (linux/arm64) is rejected", "0 of 3 tags are accepted by profile default")
	shows(t, s.cli(t, 1, "coverage"), "0 of 3 tags")

	shows(t, s.cli(t, 0, "sign", v1), "signed "+i.digest()+" as "+v1)
	s.wantSigned(t, "ns/app", i.digest(), "server "+v1)
	shows(t, s.cli(t, 0, "sign", v1), "was signed "+i.digest()) // a replay adds nothing
	s.wantSigned(t, "ns/app", i.digest(), "server "+v1)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, v1))
	shows(t, s.cli(t, 1, "coverage", "ns/app"), "1 of 3 tags")

	out := s.cli(t, 0, "sign", "-all-tags", "ns/app")
	shows(t, out, "signed "+index.digest()+" as "+multi, "signed "+i.digest()+" as "+v2, "was signed "+i.digest()+" as "+v1)
	for _, instance := range index.children {
		s.wantSigned(t, "ns/app", instance.digest(), "server "+multi)
	}
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, multi, "--all"))
	shows(t, s.cli(t, 0, "coverage", "ns/app"), "3 of 3 tags are accepted")
	var tag struct {
		Tag      string
		Accepted bool
	}
	for line := range strings.Lines(s.cli(t, 0, "coverage", "-json", "ns/app")) {
		if err := json.Unmarshal([]byte(line), &tag); err != nil || !tag.Accepted {
			t.Errorf("coverage -json: %v, %s", err, line)
		}
	}
	s.cli(t, 2, "coverage", "ns/none")
	shows(t, s.cli(t, 1, "sign", v1, s.address+"/ns/none:v1", v2), "1 of 3 could not be signed", "was signed "+i.digest()+" as "+v2)
	all, _ := s.scrape(t)
	if got := all.sum("countersign_signatures_made_total", `trigger="request"`); got != 6 {
		t.Errorf(`countersign_signatures_made_total{trigger="request"} is %v, want 6`, got)
	}
}

// TestSigningOracle tries to have something signed that is not so.
func TestSigningOracle(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-sign-on", "upload,request")
	i, elsewhere := newImage("oracle"), newImage("elsewhere")
	s.push(t, i, "ns/app", "v1")
	s.push(t, elsewhere, "ns/other", "v1")
	reference := s.address + "/ns/app:v1"
	request := func(ref string) answer { return s.do(t, "POST", "/api/v1/sign", fmt.Sprintf(`{"reference":%q}`, ref)) }
	nowhere := newImage("never pushed").digest()
	for name, test := range map[string]struct {
		reference string
		status    int
		code      string
	}{
		"a digest that is not in the registry": {s.address + "/ns/app@" + nowhere, 404, "MANIFEST_UNKNOWN"},
		"another repository's digest":          {s.address + "/ns/app@" + elsewhere.digest(), 404, "MANIFEST_UNKNOWN"},
		"a tag that is not there":              {s.address + "/ns/app:v2", 404, "MANIFEST_UNKNOWN"},
		"a tag with another digest":            {reference + "@" + elsewhere.digest(), 404, "MANIFEST_UNKNOWN"},
		"another host":                         {"registry.example.com/ns/app:v1", 400, "UNSUPPORTED"},
		"no host":                              {"ns/app:v1", 400, "UNSUPPORTED"},
		"a newline":                            {reference + "\n", 400, "UNSUPPORTED"},
		"a newline in it":                      {s.address + "/ns/app\n:v1", 400, "UNSUPPORTED"},
		"a quote":                              {s.address + `/ns/app:v1","x":"`, 400, "UNSUPPORTED"},
		"a path":                               {s.address + "/ns/../ns/app:v1", 400, "UNSUPPORTED"},
		"upper case":                           {s.address + "/NS/app:v1", 400, "UNSUPPORTED"},
		"a reference that is too long":         {s.address + "/" + strings.Repeat("a", 300) + ":v1", 400, "UNSUPPORTED"},
		"nothing":                              {"", 400, "UNSUPPORTED"},
		"another digest's algorithm":           {s.address + "/ns/app@sha512:" + strings.Repeat("0", 128), 404, "MANIFEST_UNKNOWN"},
	} {
		request(test.reference).refused(t, test.status, test.code)
		for _, d := range []string{i.digest(), elsewhere.digest(), nowhere} {
			for _, repository := range []string{"ns/app", "ns/other"} {
				if got := s.signatures(t, repository, d); len(got) > 0 {
					t.Fatalf("%s: %s@%s is signed", name, repository, d)
				}
			}
		}
	}
	for name, body := range map[string]string{
		"another key":         fmt.Sprintf(`{"reference":%q,"key":"other"}`, reference),
		"a digest of its own": fmt.Sprintf(`{"reference":%q,"digest":%q}`, reference, nowhere),
		"two objects":         fmt.Sprintf(`{"reference":%q}{"reference":%[1]q}`, reference),
		"no JSON":             reference,
		"a list":              fmt.Sprintf(`[%q]`, reference),
	} {
		s.do(t, "POST", "/api/v1/sign", body).refused(t, 400, "UNSUPPORTED")
		if got := s.signatures(t, "ns/app", i.digest()); len(got) > 0 {
			t.Fatalf("%s: it is signed", name)
		}
	}
	s.do(t, "GET", "/api/v1/sign?reference="+reference, "").refused(t, 405, "UNSUPPORTED")
	s.do(t, "POST", "/api/v1/sign", fmt.Sprintf(`{"reference":%q}`, reference), "Origin: http://evil.example.test").want(t, 403)
	s.do(t, "POST", "/api/v1/sign", fmt.Sprintf(`{"reference":%q}`, reference), "Host: localhost:1", "X-Forwarded-Host: evil.example.test").want(t, 201)
	s.wantSigned(t, "ns/app", i.digest(), "server "+reference) // the host of a request is nobody's name

	// A signature that was right is sent again when the tag has moved.
	replayed := sign(t, "alice", reference, i.digest())
	moved := newImage("moved")
	s.push(t, moved, "ns/app", "v1")
	s.upload(t, "ns/app", i.digest(), replayed).want(t, 201)
	s.idle(t)
	s.wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference)
	s.wantSigned(t, "ns/app", moved.digest())
	request(reference).want(t, 201)
	s.wantSigned(t, "ns/app", moved.digest(), "server "+reference)
	s.wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference)
}

// TestNarrowerScope keeps a tag for other keys than its repository: whose claim names it is not
// admitted, and so the server does not sign for it.
func TestNarrowerScope(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	const host = "registry.example.test:5000"
	policy := filepath.Join(t.TempDir(), "admission.json")
	write(t, policy, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{
		"%s/ns/app":[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}],
		"%[1]s/ns/app:prod":[{"type":"signedBy","keyType":"GPGKeys","keyPath":%[3]q}]}}}`, host, keyOf(t, "alice"), keyOf(t, "carol")))
	s := start(t, "-host", host, "-sign-on", "upload", "-config", config(t, "admission: {policy: "+policy+"}\n"))
	i := newImage("narrower")
	s.push(t, i, "ns/app", "prod")
	s.tag(t, i, "ns/app", "v1")
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", host+"/ns/app:prod", i.digest())).refused(t, 403, "DENIED", "ns/app:prod")
	s.idle(t)
	s.wantSigned(t, "ns/app", i.digest())
	s.upload(t, "ns/app", i.digest(), sign(t, "alice", host+"/ns/app:v1", i.digest())).want(t, 201)
	s.wantSigned(t, "ns/app", i.digest(), "alice "+host+"/ns/app:v1", "server "+host+"/ns/app:v1")
	s.upload(t, "ns/app", i.digest(), sign(t, "carol", host+"/ns/app:prod", i.digest())).want(t, 201)
	s.wantSigned(t, "ns/app", i.digest(), "alice "+host+"/ns/app:v1", "server "+host+"/ns/app:v1", "carol "+host+"/ns/app:prod", "server "+host+"/ns/app:prod")
}

// TestSupersede drops the server's signature of what a tag has left, and nobody else's.
func TestSupersede(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s := trusting(t, "-config", config(t, "signing:\n  rules:\n  - {scope: '', on: [push, upload], supersede: 1s}\n"))
	old, reference := newImage("old"), s.address+"/ns/app:v1"
	s.push(t, old, "ns/app", "v1")
	s.upload(t, "ns/app", old.digest(), sign(t, "alice", reference, old.digest())).want(t, 201)
	s.tag(t, old, "ns/app", "v2")
	s.wantSigned(t, "ns/app", old.digest(), "server "+reference, "alice "+reference, "server "+s.address+"/ns/app:v2")
	young := newImage("young")
	s.push(t, young, "ns/app", "v1")
	eventually(t, "the server's signature of what the tag has left is dropped", func() bool { return len(s.signatures(t, "ns/app", old.digest())) == 2 })
	s.wantSigned(t, "ns/app", old.digest(), "alice "+reference, "server "+s.address+"/ns/app:v2")
	s.wantSigned(t, "ns/app", young.digest(), "server "+reference)
	shows(t, s.cli(t, 0, "audit"), "dropped", "superseded")
}

// TestQueue has a rule removed while a task waits. It is not done, and a person decides.
func TestQueue(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a := newAppending(t)
	s := a.start(t)
	// Killed when the upload is stored and its signature is not.
	if !a.killBetween(t, s) {
		t.Fatal("the upload and its signature are one: there is nothing between")
	}
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "none")
	var task struct{ ID, State, Problem string }
	eventually(t, "the task is dead", func() bool {
		return json.Unmarshal([]byte(s.cli(t, 0, "queue", "-dead", "-json")), &task) == nil && task.State == "dead"
	})
	if !strings.Contains(task.Problem, "no signing rule") {
		t.Errorf("the task says %q", task.Problem)
	}
	stored := a.afterward[:2]
	s.wantSigned(t, "ns/app", a.image.digest(), stored...)
	shows(t, s.cli(t, 0, "queue"), "dead", "ns/app@"+a.image.digest(), "v1", task.ID)
	all, _ := s.scrape(t)
	if all.sum("countersign_queue_tasks", `state="dead"`) != 1 || all.sum("countersign_queue_tasks", `state="queued"`) != 0 ||
		all.sum("countersign_queue_attempts_total", `outcome="dead"`) < 1 || all.sum("countersign_queue_age_seconds") != 0 {
		t.Errorf("the metrics do not say so: %v", all)
	}
	s.stop(t)

	// The rule comes back, and somebody retries.
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "upload")
	s.wantSigned(t, "ns/app", a.image.digest(), stored...) // by itself nothing happens
	s.task(t, 1, "retry", "bm9uZQ")
	s.task(t, 2, "retry")
	shows(t, s.task(t, 0, "retry", "-dead"), "retry: 1")
	s.idle(t)
	s.wantSigned(t, "ns/app", a.image.digest(), a.afterward...)
	s.task(t, 1, "drop", task.ID) // it is finished
}

// TestQueueDrop gives a dead task up.
func TestQueueDrop(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	a := newAppending(t)
	s := a.start(t)
	if !a.killBetween(t, s) {
		t.Fatal("the upload and its signature are one: there is nothing between")
	}
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "none")
	var task struct{ ID string }
	eventually(t, "the task is dead", func() bool {
		return json.Unmarshal([]byte(s.cli(t, 0, "queue", "-dead", "-json")), &task) == nil && task.ID != ""
	})
	s.task(t, 0, "drop", task.ID)
	if out := s.cli(t, 0, "queue", "-json"); out != "" {
		t.Errorf("after the drop there is %s", out)
	}
	shows(t, s.cli(t, 0, "audit"), "was dropped from the queue")
	s.stop(t)
	s = startIn(t, s.data, "-host", appendHost, "-sign-on", "upload")
	s.idle(t)
	s.wantSigned(t, "ns/app", a.image.digest(), a.afterward[:2]...)
}

// task does something to tasks of the queue.
func (s *server) task(t testing.TB, code int, word string, args ...string) string {
	t.Helper()
	c := command(t.Context(), append([]string{"queue", word, "-server", "http://" + s.address}, args...)...)
	out, _ := c.CombinedOutput() // its exit code is looked at
	if got := c.ProcessState.ExitCode(); got != code {
		t.Fatalf("queue %s %v: exit code %d, want %d\n%s", word, args, got, code, out)
	}
	return string(out)
}

// killBetween kills the server behind the first sync of an upload, after which the store has it
// together with its task. It reports whether that came about.
func (a appending) killBetween(t *testing.T, s *server) bool {
	t.Helper()
	r := s.trace(t, hold)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = a.send(t.Context(), s.address) // it is killed
	}()
	for synced := 0; synced < 2; { // bbolt syncs its pages, then its root
		line, ok := r.next(t)
		if !ok {
			t.Fatal("strace ended before the upload was stored")
		}
		if strings.Contains(line, "fdatasync(") && strings.Contains(line, "signatures.db") || strings.Contains(line, "fdatasync resumed") {
			synced++
		}
	}
	s.kill(t)
	<-answered
	r.rest(t)
	return slices.Equal(a.left(t, s), a.afterward[:2])
}

// left starts a server that signs nothing and looks at what a killed one left.
func (a appending) left(t *testing.T, killed *server) []string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	copyData(t, killed.data, data)
	s := startIn(t, data, "-host", appendHost, "-sign-on", "none")
	defer s.stop(t)
	return s.signed(t, "ns/app", a.image.digest())
}

// TestThousandPushes pushes all at once: each is answered and signed, and reads are served
// meanwhile.
func TestThousandPushes(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	pushes := 100
	if soak() {
		pushes = 1000
	}
	s := start(t)
	all := wide("burst", pushes).children
	for _, blob := range wide("burst", 1).blobs {
		s.pushBlob(t, "ns/burst", blob)
	}
	s.push(t, newImage("read meanwhile"), "ns/read", "v1")
	began := time.Now()
	pushed := make(chan int, pushes)
	for n, i := range all {
		go func() {
			pushed <- s.do(t, "PUT", fmt.Sprintf("/v2/ns/burst/manifests/t%d", n), string(i.manifest), "Content-Type: "+i.mediaType).status
		}()
	}
	reads := 0
	for answered := 0; answered < pushes; {
		select {
		case status := <-pushed:
			if answered++; status != 201 {
				t.Errorf("a push is answered %d", status)
			}
		default:
			s.get(t, extension("ns/read", newImage("read meanwhile").digest())).want(t, 200)
			reads++
		}
	}
	if reads < pushes/10 {
		t.Errorf("%d reads were answered during %d pushes", reads, pushes)
	}
	s.idle(t)
	t.Logf("%d pushes, answered and signed after %v, and %d reads meanwhile", pushes, time.Since(began).Round(time.Millisecond), reads)
	for n, i := range all {
		if got := len(s.signatures(t, "ns/burst", i.digest())); got != 1 {
			t.Errorf("push %d has %d signatures, want 1", n, got)
		}
	}
	s.wantSigned(t, "ns/burst", all[pushes-1].digest(), fmt.Sprintf("server %s/ns/burst:t%d", s.address, pushes-1))
}
