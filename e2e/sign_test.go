package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// idle waits until nothing is queued.
func (s *server) idle(t testing.TB) {
	t.Helper()
	eventually(t, "the queue is idle", func() bool { return !strings.Contains(s.cli(t, 0, "queue", "-json"), `"state":"queued"`) })
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
