package e2e

import (
	"fmt"
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

// Older clients push Docker's media types.
func testPushDocker(t *testing.T, s *server) {
	reference := s.address + "/ns/docker:v1"
	works(t)(newNode(t).copyTo(t, newImage("docker").layout(t, "v1"), reference, "--format=v2s2"))
	s.wantSigned(t, "ns/docker", s.resolve(t, "ns/docker", "v1"), "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
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
