package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A difference is an answer that this server gives otherwise than the one of the recording.
type difference struct {
	files    string // as path.Match takes it
	method   string
	target   string // a regular expression
	recorded int    // 0: any
	ours     int
	reason   string
}

// differences are all that are expected. Of each, some transcript must show it.
var differences = []difference{
	{"*", "PUT", `^/extensions/`, 201, 403, "the recorded signers are strangers here; signed again by a trusted key, the request is answered 201"},
	{"*", "GET", `^/v2/$`, 401, 200, "nobody needs credentials before there is access control"},
	{"*", "GET", `^/token\?`, 200, 404, "there is no token service, and no challenge that sends clients to one"},
	{"12-*", "GET", `/signature-1$`, 0, 404, "the recorded server was made to answer anything; where there is no signature, only 404 ends the list for every client"},
	{"52-*", "GET", `/signature-1$`, 0, 404, "as 12, for newer clients"},
	{"13-*", "GET", `/signature-1$`, 302, 404, "the recorded server had the signature elsewhere; here nothing is redirected"},
	{"13-*", "GET", `^/sigs/moved$`, 200, 404, "the end of that redirect"},
	{"20-*", "GET", `^/extensions/`, 0, 200, "the recorded server was made to fail; every client wants 200 and a list, or does not pull"},
	{"20b-*", "GET", `^/extensions/`, 429, 200, "the recorded server was made to be busy"},
	{"21-*", "PUT", `^/extensions/`, 0, 403, "the recorded server was made to answer anything; the signer is a stranger here, as above"},
	{"22-*", "PUT", `^/extensions/`, 0, 403, "the recorded server was made to redirect, which loses the body with some clients; as 21"},
	{"55-*", "PUT", `^/extensions/`, 0, 403, "as 21, for newer clients"},
	{"23-*", "GET", `^/extensions/`, 401, 200, "nobody needs a scope before there is access control"},
	{"51-*", "GET", `/signature-\d+$`, 200, 404, "the recorded server had 129 signatures, at which clients fail; here an image has at most 100, and this one has 2"},
}

// TestReplay sends what clients really sent. Four things are not the recorded bytes, none of them
// the client's choice: a session's upload path is the one that this server gave; the base of the
// lookaside, which registries.d named /sigs, is /sigstore; of an upload by a stranger there is a
// second copy, with a signature by a key that is trusted here; and the recorded Host is true, as
// the server is told to be called so, but the socket's address is another.
func TestReplay(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	keys := keysOfAServer(t)
	all := readTranscripts(t)
	contents := contentsOf(all)
	used := newTally()
	t.Run("transcripts", func(t *testing.T) {
		for _, tr := range all {
			t.Run(tr.name, func(t *testing.T) {
				t.Parallel()
				if got := len(tr.exchanges); got != requests[tr.name] {
					t.Errorf("%d requests are replayed, want %d", got, requests[tr.name])
				}
				r := newReplay(t, tr, contents, keys, used)
				for _, e := range tr.exchanges {
					r.step(t, e)
				}
				used.add(whole)
			})
		}
	})
	for n, d := range differences {
		if used.of(n) == 0 && used.of(whole) == len(all) {
			t.Errorf("no transcript shows this difference: %+v", d)
		}
	}
}

// whole counts, in a tally, the transcripts that were replayed to their end.
const whole = -1

// A tally counts how often each difference was met.
type tally struct {
	mu sync.Mutex
	n  map[int]int
}

func newTally() *tally { return &tally{n: map[int]int{}} }

func (c *tally) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[n]++
}

func (c *tally) of(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[n]
}

// keysOfAServer is the keys directory of a server that was started once: a key takes its time to
// make, and here it does not matter whose it is.
func keysOfAServer(t testing.TB) string {
	t.Helper()
	s := start(t)
	s.stop(t)
	return filepath.Join(s.data, "keys")
}

// contentsOf is every blob and manifest that transcripts show, by digest.
func contentsOf(all []transcript) map[string]string {
	contents := map[string]string{}
	for _, tr := range all {
		for _, e := range tr.exchanges {
			for _, content := range []string{e.body, e.answer} {
				contents[digestOf([]byte(content))] = content
			}
		}
	}
	return contents
}

// A replay is one transcript against one server.
type replay struct {
	s        *server
	tr       transcript
	contents map[string]string
	used     *tally
	stored   map[string][][]byte // by repository@digest: the signatures, in order
	again    map[string][]byte   // by repository and recorded signature: the one in its place
	uploads  map[string]string   // by recorded path: where an upload really goes on
}

func newReplay(t *testing.T, tr transcript, contents map[string]string, keys string, used *tally) *replay {
	t.Helper()
	r := &replay{
		tr: tr, contents: contents, used: used,
		stored: map[string][][]byte{}, again: map[string][]byte{}, uploads: map[string]string{},
	}
	data := filepath.Join(t.TempDir(), "data")
	copyData(t, keys, filepath.Join(data, "keys"))
	trust(t, data, "alice", "carol")
	// Signing is off, as the recorded registry did not sign: pushes have their own tests.
	r.s = startIn(t, data, "-host", tr.host, "-sign-on", "none", "-config", config(t, fmt.Sprintf("advertise: %t\n", r.advertised())))
	r.stage(t)
	return r
}

// advertised tells whether the recorded registry had the signature extension.
func (r *replay) advertised() bool {
	return slices.ContainsFunc(r.tr.exchanges, func(e exchange) bool {
		return e.target == "/v2/" && e.header.Get(advertisement) != ""
	})
}

var (
	registryPath  = regexp.MustCompile(`^/v2/(.+)/(blobs|manifests)/([^/]+)$`)
	extensionPath = regexp.MustCompile(`^/extensions/v2/(.+)/signatures/(sha256:[0-9a-f]{64})$`)
	lookasidePath = regexp.MustCompile(`^/sigs//?(.+)@sha256=([0-9a-f]{64})/signature-([0-9]+)$`)
	uploadPath    = regexp.MustCompile(`^/v2/.+/blobs/uploads/`)
)

func pathOf(target string) string {
	p, _, _ := strings.Cut(target, "?")
	return p
}

// stage pushes and signs what the recorded registry had before the transcript began: what a
// client was given there without having sent it.
func (r *replay) stage(t *testing.T) {
	t.Helper()
	sent := map[string]bool{}
	put := map[string]int{}
	for _, e := range r.tr.exchanges {
		p := pathOf(e.target)
		if m := registryPath.FindStringSubmatch(p); m != nil {
			r.stageContent(t, e, m, sent)
		}
		if m := extensionPath.FindStringSubmatch(p); m != nil {
			key := m[1] + "@" + m[2]
			if n, ok := recordedList(e); e.method == "GET" && ok && n > put[key] {
				r.stageSignatures(t, m[1], m[2], n-put[key])
			}
			if e.method == "PUT" {
				put[key]++
			}
		}
		if m := lookasidePath.FindStringSubmatch(p); m != nil && e.status == 200 && binary.MatchString(e.answer) {
			n, _ := strconv.Atoi(m[3])
			r.stageSignatures(t, m[1], "sha256:"+m[2], n)
		}
	}
}

// stageContent pushes a manifest or blob that the client found. sent remembers what it sent.
func (r *replay) stageContent(t *testing.T, e exchange, m []string, sent map[string]bool) {
	t.Helper()
	repository, kind, reference := m[1], m[2], m[3]
	where := repository + "/" + kind + "/" + reference
	switch {
	case e.method == "PUT":
		sent[where] = true
		sent[repository+"/"+kind+"/"+digestOf([]byte(e.body))] = true
	case e.status != 200 || sent[where]:
	case kind == "manifests" && e.method == "GET":
		r.pushManifest(t, repository, reference, e.answer)
	case kind == "blobs" && !r.uploaded(repository, reference):
		r.s.pushBlob(t, repository, []byte(r.content(t, reference)))
	}
}

// uploaded tells whether the client itself sent a blob.
func (r *replay) uploaded(repository, digest string) bool {
	return slices.ContainsFunc(r.tr.exchanges, func(e exchange) bool {
		return e.method == "PUT" && strings.HasPrefix(e.target, "/v2/"+repository+"/blobs/uploads/") &&
			strings.HasSuffix(e.target, "?digest="+strings.Replace(digest, ":", "%3A", 1))
	})
}

func (r *replay) content(t *testing.T, digest string) string {
	t.Helper()
	content, ok := r.contents[digest]
	if !ok {
		t.Fatalf("no transcript has the content of %s", digest)
	}
	return content
}

// pushManifest pushes a manifest and all that it refers to.
func (r *replay) pushManifest(t *testing.T, repository, reference, content string) {
	t.Helper()
	type described struct{ Digest string }
	var manifest struct {
		MediaType         string
		Config            described
		Layers, Manifests []described
	}
	if err := json.Unmarshal([]byte(content), &manifest); err != nil {
		t.Fatalf("%s: %v", reference, err)
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if blob.Digest != "" {
			r.s.pushBlob(t, repository, []byte(r.content(t, blob.Digest)))
		}
	}
	for _, child := range manifest.Manifests {
		r.pushManifest(t, repository, child.Digest, r.content(t, child.Digest))
	}
	r.s.do(t, "PUT", "/v2/"+repository+"/manifests/"+reference, content, "Content-Type: "+manifest.MediaType).want(t, 201)
}

// signers can sign here; each once, so that two signatures of a second are not the same.
var signers = []string{"alice", "carol"}

// stageSignatures makes an image have at least n signatures, or as many as there are signers.
func (r *replay) stageSignatures(t *testing.T, repository, digest string, n int) {
	t.Helper()
	key := repository + "@" + digest
	for len(r.stored[key]) < min(n, len(signers)) {
		content := r.sign(t, repository, digest)
		r.s.upload(t, repository, digest, content).want(t, 201)
		r.stored[key] = append(r.stored[key], content)
	}
}

// sign makes the next signature of an image, under the tag that the client pushed or pulled.
func (r *replay) sign(t *testing.T, repository, digest string) []byte {
	t.Helper()
	tag := "v1"
	for _, e := range r.tr.exchanges {
		if m := registryPath.FindStringSubmatch(pathOf(e.target)); m != nil && m[1] == repository && m[2] == "manifests" && !strings.Contains(m[3], ":") {
			tag = m[3]
			break
		}
	}
	n := len(r.stored[repository+"@"+digest])
	if n >= len(signers) {
		t.Fatalf("%s@%s needs more signatures than there are signers", repository, digest)
	}
	return sign(t, signers[n], r.tr.host+"/"+repository+":"+tag, digest)
}

// step sends one request and judges the answer.
func (r *replay) step(t *testing.T, e exchange) {
	t.Helper()
	a := r.s.raw(t, r.request(t, e))
	a.asked = fmt.Sprintf("%s.txt:%d %s", r.tr.name, e.line, a.asked)
	want := r.wanted(e)
	r.explain(t, e, want)
	if a.want(t, want); a.status != want {
		return
	}
	switch p := pathOf(e.target); {
	case p == "/v2/":
		r.checkPing(t, e, a)
	case extensionPath.MatchString(p) && e.method == "GET":
		r.checkList(t, e, a)
	case extensionPath.MatchString(p):
		r.checkUpload(t, e, a)
	case strings.HasPrefix(p, "/sigs/"):
		r.checkLookaside(t, e, a)
	case strings.HasPrefix(p, "/v2/"):
		r.checkRegistry(t, e, a)
	}
}

// request is the recorded one, but for what TestReplay says.
func (r *replay) request(t *testing.T, e exchange) string {
	t.Helper()
	target := e.target
	if rest, ok := strings.CutPrefix(target, "/sigs/"); ok {
		target = "/sigstore/" + rest
	}
	if uploadPath.MatchString(target) && e.method != "POST" {
		recorded, query, _ := strings.Cut(target, "?")
		ours, ok := r.uploads[recorded]
		if !ok {
			t.Fatalf("%s.txt:%d goes on with an upload that did not begin", r.tr.name, e.line)
		}
		target = r.s.where(t, answer{asked: ours, header: http.Header{"Location": {ours}}}, query)
	}
	return strings.Replace(e.wire(), " "+e.target+" ", " "+target+" ", 1)
}

// wanted is the status that doc/design.md and doc/protocol.md promise.
func (r *replay) wanted(e exchange) int {
	p := pathOf(e.target)
	switch {
	case p == "/v2/":
		return 200
	case strings.HasPrefix(p, "/extensions/") && e.method == "GET":
		return 200
	case strings.HasPrefix(p, "/extensions/"):
		return 403 // by a stranger
	case strings.HasPrefix(p, "/v2/"):
		return e.status
	}
	if m := lookasidePath.FindStringSubmatch(p); m != nil {
		if n, _ := strconv.Atoi(m[3]); n >= 1 && n <= len(r.stored[m[1]+"@sha256:"+m[2]]) {
			return 200
		}
	}
	return 404
}
