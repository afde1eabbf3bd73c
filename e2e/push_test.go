package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPush pushes without --sign-by: the server signs, and a node that trusts nothing but the
// server's key pulls.
func TestPush(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]func(*testing.T, *server){
		"a node pulls it through the extension":    testPullThroughExtension,
		"podman pushes and pulls":                  testPodmanPush,
		"another key is refused":                   testPushOtherKey,
		"another tag of the same bytes is refused": testPushOtherTag,
		"by digest":                                     testPushByDigest,
		"the same again adds nothing":                   testPushAgain,
		"a second tag adds one":                         testPushSecondTag,
		"a tag that moves":                              testPushMovedTag,
		"what is signed is what is stored":              testPushStoredBytes,
		"a list, its instances first":                   testPushList,
		"a list: one architecture pulls":                testPushListPull,
		"a list of 64":                                  testPushList64,
		"a list of 65 is refused":                       testPushList65,
		"a list in a list is an entry":                  testPushNestedList,
		"a Docker manifest":                             testPushDocker,
		"the tag never exists without its signature":    testPushTagLast,
		"a refused push signs nothing":                  testPushRefused,
		"no signature for the same digest elsewhere":    testPushOtherRepository,
		"a blob is not signed, nor is a tag of nothing": testPushNoManifest,
		"the name is not the Host header's":             testPushHostHeader,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

func testPullThroughExtension(t *testing.T, s *server) {
	i, reference := newImage("extension"), s.address+"/ns/extension:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	s.wantSigned(t, "ns/extension", i.digest(), "server "+reference)

	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, reference))
	works(t)(n.pull(t, s.address+"/ns/extension@"+i.digest()))
	n.require(t, reference, s.serverKey()) // the most precise scope, too
	works(t)(n.pull(t, reference))
}

func testPodmanPush(t *testing.T, s *server) {
	i, reference := newImage("podman"), s.address+"/ns/podman:v1"
	n := newNode(t)
	works(t)(n.podman(t, "pull", i.layout(t, "v1")))
	works(t)(n.podman(t, "push", "--tls-verify=false", n.onlyImage(t), "docker://"+reference))
	// Podman packs the layers again, so the digest is what the registry says.
	digest := s.resolve(t, "ns/podman", "v1")
	s.wantSigned(t, "ns/podman", digest, "server "+reference)

	strict := newNode(t).require(t, s.address, s.serverKey())
	works(t)(strict.podman(t, "pull", "--tls-verify=false", reference))
	other := filepath.Join(t.TempDir(), "bob.asc")
	write(t, other, string(publicKey(t, "bob")))
	fails(t, "Source image rejected")(newNode(t).require(t, s.address, other).podman(t, "pull", "--tls-verify=false", reference))
}

// onlyImage is the ID of the only image in the node's storage.
func (n *node) onlyImage(t testing.TB) string {
	t.Helper()
	out, err := n.podman(t, "images", "--quiet", "--no-trunc")
	works(t)(out, err)
	return strings.TrimSpace(out)
}

func testPushOtherKey(t *testing.T, s *server) {
	reference := s.address + "/ns/otherkey:v1"
	s.push(t, newImage("otherkey"), "ns/otherkey", "v1")
	key := filepath.Join(t.TempDir(), "alice.asc")
	write(t, key, string(publicKey(t, "alice")))
	fails(t, "Source image rejected")(newNode(t).require(t, s.address, key).pull(t, reference))
}

func testPushOtherTag(t *testing.T, s *server) {
	i := newImage("othertag")
	s.push(t, i, "ns/othertag", "v1")
	s.push(t, i, "ns/othertag", "v2")
	// Both tags are signed, and each pulls; a signature of v1 alone would not do for v2.
	n := newNode(t).requireAs(t, fmt.Sprintf(`{"type":"exactReference","dockerReference":%q}`, s.address+"/ns/othertag:v3"), s)
	fails(t, "Source image rejected")(n.pull(t, s.address+"/ns/othertag:v2"))
	n.requireAs(t, fmt.Sprintf(`{"type":"exactReference","dockerReference":%q}`, s.address+"/ns/othertag:v2"), s)
	works(t)(n.pull(t, s.address+"/ns/othertag:v2"))
}

// requireAs is require with the server's key and another signedIdentity than the default.
func (n *node) requireAs(t testing.TB, identity string, s *server) *node {
	t.Helper()
	n.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy",`+
		`"keyType":"GPGKeys","keyPath":%q,"signedIdentity":%s}]}}}`, s.address, s.serverKey(), identity))
	return n
}

func testPushByDigest(t *testing.T, s *server) {
	i := newImage("digest")
	reference := s.address + "/ns/digest@" + i.digest()
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference))
	s.wantSigned(t, "ns/digest", i.digest(), "server "+reference)
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, reference))

	// A tag comes later, and gets a signature of its own: clients do not take @digest for it.
	s.tag(t, i, "ns/digest", "v1")
	s.wantSigned(t, "ns/digest", i.digest(), "server "+reference, "server "+s.address+"/ns/digest:v1")
	works(t)(n.pull(t, s.address+"/ns/digest:v1"))
}

func testPushAgain(t *testing.T, s *server) {
	i, reference := newImage("again"), s.address+"/ns/again:v1"
	from := i.layout(t, "v1")
	works(t)(newNode(t).copyTo(t, from, reference))
	before := s.signatures(t, "ns/again", i.digest())
	works(t)(newNode(t).copyTo(t, from, reference))
	s.tag(t, i, "ns/again", "v1")
	if after := s.signatures(t, "ns/again", i.digest()); wire(t, after) != wire(t, before) {
		t.Errorf("pushing again changed what is served:\n%s\nbefore:\n%s", wire(t, after), wire(t, before))
	}
	s.wantSigned(t, "ns/again", i.digest(), "server "+reference)
}

func testPushSecondTag(t *testing.T, s *server) {
	i := newImage("second")
	s.push(t, i, "ns/second", "v1")
	s.push(t, i, "ns/second", "v2")
	s.wantSigned(t, "ns/second", i.digest(), "server "+s.address+"/ns/second:v1", "server "+s.address+"/ns/second:v2")
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, s.address+"/ns/second:v1"))
	works(t)(n.pull(t, s.address+"/ns/second:v2"))
}

func testPushMovedTag(t *testing.T, s *server) {
	first, second, reference := newImage("moved"), newImage("moved on"), s.address+"/ns/moved:v1"
	s.push(t, first, "ns/moved", "v1")
	s.push(t, second, "ns/moved", "v1")
	s.wantSigned(t, "ns/moved", second.digest(), "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
}

// The digest of a signature is that of the very bytes that the registry serves, however they
// are written.
func testPushStoredBytes(t *testing.T, s *server) {
	i := newImage("stored")
	i.manifest = append([]byte(" \n\t"), append(i.manifest, "\n\n"...)...)
	s.push(t, i, "ns/stored", "v1")
	got := s.get(t, "/v2/ns/stored/manifests/v1", "Accept: "+manifestType).want(t, 200)
	if digestOf([]byte(got.body)) != i.digest() {
		t.Fatalf("the registry serves %s, want the bytes that were pushed, %s", digestOf([]byte(got.body)), i.digest())
	}
	got.says(t, "Docker-Content-Digest", i.digest())
	s.wantSigned(t, "ns/stored", i.digest(), "server "+s.address+"/ns/stored:v1")
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, s.address+"/ns/stored:v1"))
}

func testPushList(t *testing.T, s *server) {
	index := newIndex("list", "amd64", "arm64")
	tag := "server " + s.address + "/ns/list:v1"
	for _, child := range index.children {
		s.push(t, child, "ns/list", "")
		s.wantSigned(t, "ns/list", child.digest(), "server "+s.address+"/ns/list@"+child.digest())
	}

	// Whoever sees the list's signature sees those of its instances: these come first.
	seen := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { seen <- s.instancesFirst(ctx, index) }()
	s.tag(t, index, "ns/list", "v1")
	if err := <-seen; err != nil {
		t.Error(err)
	}

	s.wantSigned(t, "ns/list", index.digest(), tag)
	for _, child := range index.children {
		s.wantSigned(t, "ns/list", child.digest(), "server "+s.address+"/ns/list@"+child.digest(), tag)
	}
	s.tag(t, index, "ns/list", "v1")
	s.wantSigned(t, "ns/list", index.children[0].digest(), "server "+s.address+"/ns/list@"+index.children[0].digest(), tag)
}

// instancesFirst waits for a signature of the index, and fails if an instance has less than
// its two by then. It runs beside the test, so it returns instead of failing.
func (s *server) instancesFirst(ctx context.Context, index image) error {
	count := func(digest string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.address+extension("ns/list", digest), nil)
		if err != nil {
			return 0, err
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		return countSignatures(res.Body)
	}
	for {
		n, err := count(index.digest())
		if err != nil {
			return err
		}
		if n > 0 {
			break
		}
	}
	for i, child := range index.children {
		if n, err := count(child.digest()); err != nil || n != 2 {
			return fmt.Errorf("the list is signed, and instance %d has %d signatures (%v), want 2", i, n, err)
		}
	}
	return nil
}

func testPushListPull(t *testing.T, s *server) {
	index, reference := newIndex("pull", "amd64", "arm64", "s390x"), s.address+"/ns/multi:v1"
	works(t)(newNode(t).copyTo(t, index.layout(t, "v1"), reference, "--all"))
	n := newNode(t).require(t, s.address, s.serverKey())
	for _, architecture := range []string{"amd64", "arm64", "s390x"} {
		works(t)(n.skopeo(t, "--override-os=linux", "--override-arch="+architecture, "copy", "--src-tls-verify=false",
			"docker://"+reference, "dir:"+t.TempDir()))
	}
	works(t)(n.pull(t, reference, "--all"))
}

// wide is a list of so many images, which share their blobs.
func wide(text string, entries int) image {
	base := newImage(text)
	index := image{mediaType: indexType, blobs: base.blobs}
	var descriptors []string
	for i := range entries {
		child := image{mediaType: manifestType, manifest: []byte(strings.Replace(string(base.manifest),
			`"layers"`, fmt.Sprintf(`"annotations":{"n":"%d"},"layers"`, i), 1))}
		index.children = append(index.children, child)
		descriptors = append(descriptors, descriptor(manifestType, child.manifest,
			fmt.Sprintf(`,"platform":{"architecture":"amd64","os":"linux","variant":"v%d"}`, i)))
	}
	index.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(descriptors, ","))
	return index
}

func testPushList64(t *testing.T, s *server) {
	index := wide("sixty-four", 64)
	s.push(t, index, "ns/wide64", "v1")
	s.wantSigned(t, "ns/wide64", index.digest(), "server "+s.address+"/ns/wide64:v1")
	last := index.children[63].digest()
	s.wantSigned(t, "ns/wide64", last, "server "+s.address+"/ns/wide64@"+last, "server "+s.address+"/ns/wide64:v1")
}

func testPushList65(t *testing.T, s *server) {
	index := wide("sixty-five", 65)
	for _, blob := range index.blobs {
		s.pushBlob(t, "ns/wide65", blob)
	}
	for _, child := range index.children {
		s.tag(t, child, "ns/wide65", "")
	}
	s.do(t, "PUT", "/v2/ns/wide65/manifests/v1", string(index.manifest), "Content-Type: "+indexType).
		refused(t, 400, "MANIFEST_INVALID", "65", "64")
	s.get(t, "/v2/ns/wide65/manifests/v1", "Accept: "+indexType).want(t, 404)
	s.wantSigned(t, "ns/wide65", index.digest())
	s.wantSigned(t, "ns/wide65", index.children[0].digest(), "server "+s.address+"/ns/wide65@"+index.children[0].digest())

	// The person at skopeo reads why.
	fails(t, "64")(newNode(t).copyTo(t, index.layout(t, "v1"), s.address+"/ns/wide65:v1", "--all"))
}

// One level: what a list in the list contains is not signed, the inner list is.
func testPushNestedList(t *testing.T, s *server) {
	inner := newIndex("inner", "amd64")
	outer := image{mediaType: indexType, children: []image{inner}}
	outer.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType,
		descriptor(indexType, inner.manifest, ""))
	s.push(t, outer, "ns/nested", "v1")
	tag, at := "server "+s.address+"/ns/nested:v1", "server "+s.address+"/ns/nested@"
	s.wantSigned(t, "ns/nested", outer.digest(), tag)
	s.wantSigned(t, "ns/nested", inner.digest(), at+inner.digest(), tag)
	child := inner.children[0].digest()
	s.wantSigned(t, "ns/nested", child, at+child)
}

// Older clients push Docker's media types.
func testPushDocker(t *testing.T, s *server) {
	reference := s.address + "/ns/docker:v1"
	works(t)(newNode(t).copyTo(t, newImage("docker").layout(t, "v1"), reference, "--format=v2s2"))
	s.wantSigned(t, "ns/docker", s.resolve(t, "ns/docker", "v1"), "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
}

// A puller that races the push never finds the tag and no signature.
func testPushTagLast(t *testing.T, s *server) {
	for round := range 10 {
		i, tag := newImage(fmt.Sprint("race ", round)), fmt.Sprint("v", round)
		for _, blob := range i.blobs {
			s.pushBlob(t, "ns/race", blob)
		}
		pushed := make(chan error, 1)
		go func() {
			req, err := http.NewRequest("PUT", "http://"+s.address+"/v2/ns/race/manifests/"+tag, strings.NewReader(string(i.manifest)))
			if err == nil {
				req.Header.Set("Content-Type", i.mediaType)
				var res *http.Response
				if res, err = client.Do(req); err == nil {
					defer res.Body.Close()
				}
			}
			pushed <- err
		}()
		for done := false; ; {
			exists := s.do(t, "HEAD", "/v2/ns/race/manifests/"+tag, "", "Accept: "+manifestType).status == 200
			if exists {
				break
			}
			if done {
				t.Fatalf("%s was pushed and does not exist", tag)
			}
			select {
			case err := <-pushed:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
		}
		if n := len(s.signatures(t, "ns/race", i.digest())); n != 1 {
			t.Fatalf("%s exists with %d signatures, want 1", tag, n)
		}
	}
}

func testPushRefused(t *testing.T, s *server) {
	i := newImage("refused") // its blobs are never pushed
	a := s.do(t, "PUT", "/v2/ns/refused/manifests/v1", string(i.manifest), "Content-Type: "+i.mediaType)
	if a.status != 404 && a.status != 400 {
		t.Errorf("%s without its blobs: %d, want 400 or 404", a.asked, a.status)
	}
	s.wantSigned(t, "ns/refused", i.digest())

	whole := newImage("whole")
	s.push(t, whole, "ns/refused", "good")
	other := newImage("other").digest()
	s.do(t, "PUT", "/v2/ns/refused/manifests/"+other, string(whole.manifest), "Content-Type: "+whole.mediaType).
		want(t, 400)
	s.wantSigned(t, "ns/refused", other)
	s.do(t, "PUT", "/v2/ns/refused/manifests/v2", "{}", "Content-Type: "+manifestType).want(t, 400)
	s.do(t, "PUT", "/v2/ns/refused/manifests/v2", "not json", "Content-Type: "+manifestType).want(t, 400)
	s.do(t, "PUT", "/v2/ns/refused/manifests/v2", string(whole.manifest), "Content-Type: "+indexType).want(t, 400)
	s.get(t, "/v2/ns/refused/manifests/v2").want(t, 404)
	s.wantSigned(t, "ns/refused", whole.digest(), "server "+s.address+"/ns/refused:good")
}

// protocol.md 9.16: signatures are kept for a repository and a digest.
func testPushOtherRepository(t *testing.T, s *server) {
	i := newImage("elsewhere")
	s.push(t, i, "ns/here", "v1")
	s.wantSigned(t, "ns/there", i.digest())
	s.push(t, i, "ns/there", "v1")
	s.wantSigned(t, "ns/here", i.digest(), "server "+s.address+"/ns/here:v1")
	s.wantSigned(t, "ns/there", i.digest(), "server "+s.address+"/ns/there:v1")
}

func testPushNoManifest(t *testing.T, s *server) {
	i := newImage("blobs only")
	s.pushBlob(t, "ns/blobs", i.manifest)
	s.wantSigned(t, "ns/blobs", i.digest())
}

// protocol.md 8, 9.17: the name in a signature is never taken from a request.
func testPushHostHeader(t *testing.T, s *server) {
	i := newImage("host header")
	for _, blob := range i.blobs {
		s.pushBlob(t, "ns/host", blob)
	}
	s.do(t, "PUT", "/v2/ns/host/manifests/v1", string(i.manifest), "Content-Type: "+i.mediaType,
		"Host: localhost:1234", "X-Forwarded-Host: evil.example.com", "Forwarded: host=evil.example.com").want(t, 201)
	s.wantSigned(t, "ns/host", i.digest(), "server "+s.address+"/ns/host:v1")
}

// TestHosts names the server: the first name is the one it signs under, whatever it is called.
func TestHosts(t *testing.T) {
	t.Parallel()
	s := start(t, "-host", "registry.example.test:5000,alias.example.test")
	for i, host := range []string{"registry.example.test:5000", "alias.example.test", s.address} {
		pushed := newImage("named " + host)
		repository := fmt.Sprint("ns/named", i)
		for _, blob := range pushed.blobs {
			s.pushBlob(t, repository, blob)
		}
		s.do(t, "PUT", "/v2/"+repository+"/manifests/v1", string(pushed.manifest), "Content-Type: "+manifestType, "Host: "+host).want(t, 201)
		s.wantSigned(t, repository, pushed.digest(), "server registry.example.test:5000/"+repository+":v1")
	}
	// A node that comes by another name needs a policy that says so, and then pulls.
	n := newNode(t).requireAs(t, fmt.Sprintf(`{"type":"remapIdentity","prefix":%q,"signedPrefix":"registry.example.test:5000"}`, s.address), s)
	works(t)(n.pull(t, s.address+"/ns/named0:v1"))
	n.require(t, s.address, s.serverKey())
	fails(t, "Source image rejected")(n.pull(t, s.address+"/ns/named0:v1"))
}

// TestSignOn pushes to servers that do not sign pushes.
func TestSignOn(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"none", "upload"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			s := start(t, "-sign-on", on)
			i := newImage("unsigned")
			s.push(t, i, "ns/app", "v1")
			s.wantSigned(t, "ns/app", i.digest())
			fails(t, "Source image rejected", "no signature exists")(
				newNode(t).require(t, s.address, s.serverKey()).pull(t, s.address+"/ns/app:v1"))
			works(t)(newNode(t).pull(t, s.address+"/ns/app:v1"))
		})
	}
	t.Run("nonsense", func(t *testing.T) {
		t.Parallel()
		out := refusal(t, "serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0", "-sign-on", "sometimes")
		if !strings.Contains(out, "sometimes") || !strings.Contains(out, "upload") {
			t.Errorf("the refusal names neither what was said nor what may be said: %s", out)
		}
	})
}

// TestManyTags puts more tags on one digest than an image may have signatures. The newest
// still pull, and so do the oldest while others, whose tags moved away, can make room.
func TestManyTags(t *testing.T) {
	t.Parallel()
	const room = 100 // signatures an image has in all (design.md 4)
	tags := 105
	if soak() {
		tags = 200
	}
	s := start(t)
	i, tag := newImage("tags"), func(n int) string { return fmt.Sprintf("t%03d", n) }
	s.push(t, i, "ns/tags", tag(1))
	for n := 2; n <= room; n++ {
		s.tag(t, i, "ns/tags", tag(n))
	}
	// Two tags leave, and the next two take their room: nobody else loses a signature.
	s.push(t, newImage("moved away"), "ns/tags", tag(50))
	s.tag(t, newImage("moved away"), "ns/tags", tag(60))
	s.tag(t, i, "ns/tags", tag(room+1))
	s.tag(t, i, "ns/tags", tag(room+2))
	want := make([]string, 0, room)
	for n := 1; n <= room+2; n++ {
		if n != 50 && n != 60 {
			want = append(want, "server "+s.address+"/ns/tags:"+tag(n))
		}
	}
	s.wantSigned(t, "ns/tags", i.digest(), want...)
	n := newNode(t).require(t, s.address, s.serverKey())
	works(t)(n.pull(t, s.address+"/ns/tags:"+tag(1)))

	// Then the oldest go.
	for m := room + 3; m <= tags+2; m++ {
		s.tag(t, i, "ns/tags", tag(m))
		want = append(want[1:], "server "+s.address+"/ns/tags:"+tag(m))
	}
	s.wantSigned(t, "ns/tags", i.digest(), want...)
	// One pull is enough here: the client tries a hundred signatures before the last, in ten seconds.
	works(t)(n.pull(t, s.address+"/ns/tags:"+tag(tags+2)))
	works(t)(n.pull(t, s.address+"/ns/tags@"+i.digest()))
	works(t)(n.pull(t, s.address+"/ns/tags:"+tag(50)))
}

// wantSigned asserts who signs an image as what, in order, and that both protocols serve the
// same bytes.
func (s *server) wantSigned(t testing.TB, repository, digest string, want ...string) {
	t.Helper()
	served := s.signatures(t, repository, digest)
	contents := make([][]byte, len(served))
	for i, e := range served {
		contents[i] = e.Content
		path := fmt.Sprintf("%s/signature-%d", lookaside(repository, digest), i+1)
		if a := s.get(t, path).want(t, 200); a.body != string(e.Content) {
			t.Errorf("%s has other bytes than the extension serves at place %d: %s and %s",
				path, i+1, digestOf([]byte(a.body)), digestOf(e.Content))
		}
	}
	after := s.get(t, fmt.Sprintf("%s/signature-%d", lookaside(repository, digest), len(served)+1))
	if len(served) == 0 || after.status == 404 || !s.withdrew(t, repository, digest) {
		after.want(t, 404)
	} else if after.want(t, 200).body != string(served[0].Content) { // twice over, see TestReaderInMidLoop
		t.Errorf("%s: behind the last is something that is not the first", after.asked)
	}
	if got := s.open(t, digest, contents...); !slices.Equal(got, want) {
		t.Errorf("%s@%s is signed\n\t%s\nwant\n\t%s", repository, digest, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
