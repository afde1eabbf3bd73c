package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestCommands runs what else people do with images (protocol.md 3.9).
func TestCommands(t *testing.T) {
	t.Parallel()
	s := trusting(t, "-sign-on", "upload")
	for name, test := range map[string]func(*testing.T, *server){
		"skopeo copy --sign-identity": testSignIdentity,
		"skopeo inspect":              testInspect,
		"skopeo delete":               testDelete,
		"skopeo sync":                 testSync,
		"skopeo standalone-sign":      testStandaloneSign,
		"podman image sign":           testPodmanImageSign,
		"podman run":                  testPodmanRun,
		"buildah push --sign-by":      testBuildahPush,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

func testSignIdentity(t *testing.T, s *server) {
	i, reference := newImage("identity"), s.address+"/ns/identity:v1"
	n := newNode(t)
	if out, err := n.skopeo(t, "copy", "--help"); err != nil || !strings.Contains(out, "--sign-identity") {
		t.Skip("SKIPPED: this skopeo has no --sign-identity")
	}
	alice := fingerprintOf(t, "alice")
	works(t)(n.copyTo(t, i.layout(t, "v1"), reference, "--sign-by", alice, "--sign-identity", reference))
	s.wantSigned(t, "ns/identity", i.digest(), "alice "+reference, "server "+reference)
	fails(t, "denied", "quay.example.test/ns/identity")(n.copyTo(t, i.layout(t, "v1"), reference,
		"--sign-by", alice, "--sign-identity", "quay.example.test/ns/identity:v1"))
	s.wantSigned(t, "ns/identity", i.digest(), "alice "+reference, "server "+reference)
}

func testInspect(t *testing.T, s *server) {
	i := newImage("inspect")
	s.push(t, i, "ns/inspect", "v1")
	out, err := newNode(t).skopeo(t, "inspect", "--tls-verify=false", "docker://"+s.address+"/ns/inspect:v1")
	works(t)(out, err)
	if !strings.Contains(out, i.digest()) {
		t.Errorf("skopeo inspect does not show %s:\n%s", i.digest(), out)
	}
}

// Signatures outlive their manifest, and the same digest has them again (protocol.md 9.15).
func testDelete(t *testing.T, s *server) {
	i, reference := newImage("delete"), s.address+"/ns/delete:v1"
	n := newNode(t)
	works(t)(n.copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "alice")))
	works(t)(n.skopeo(t, "delete", "--tls-verify=false", "docker://"+reference))
	s.get(t, "/v2/ns/delete/manifests/v1", "Accept: "+manifestType).want(t, 404)
	s.wantSigned(t, "ns/delete", i.digest(), "alice "+reference, "server "+reference)

	works(t)(n.copyTo(t, i.layout(t, "v1"), reference))
	s.wantSigned(t, "ns/delete", i.digest(), "alice "+reference, "server "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
}

func testSync(t *testing.T, s *server) {
	i := newImage("sync")
	s.push(t, i, "ns/sync", "v1")
	n := newNode(t)
	to := filepath.Join(n.dir, "synced")
	works(t)(n.skopeo(t, "sync", "--src=docker", "--dest=dir", "--src-tls-verify=false", s.address+"/ns/sync", to))
	if _, err := os.Stat(filepath.Join(to, "sync:v1", "manifest.json")); err != nil {
		t.Errorf("skopeo sync: %v", err)
	}
}

// A signature made apart from any push is uploaded by curl's way.
func testStandaloneSign(t *testing.T, s *server) {
	i, reference, n := newImage("standalone"), s.address+"/ns/standalone:v1", newNode(t)
	s.push(t, i, "ns/standalone", "v1")
	manifest, out := filepath.Join(n.dir, "manifest.json"), filepath.Join(n.dir, "out.signature")
	write(t, manifest, string(i.manifest))
	works(t)(n.skopeo(t, "standalone-sign", manifest, reference, fingerprintOf(t, "alice"), "-o", out))
	s.do(t, "POST", lookaside("ns/standalone", i.digest()), read(t, out)).want(t, 201)
	s.wantSigned(t, "ns/standalone", i.digest(), "alice "+reference, "server "+reference)
}

// podman image sign writes a directory; its files are uploaded as they are.
func testPodmanImageSign(t *testing.T, s *server) {
	i, reference, n := newImage("image sign"), s.address+"/ns/imagesign:v1", newNode(t)
	s.push(t, i, "ns/imagesign", "v1")
	to := filepath.Join(n.dir, "signatures")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	n.mirrors(t, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", s.address))
	works(t)(n.podman(t, "image", "sign", "--sign-by", fingerprintOf(t, "alice"), "-d", to, "docker://"+reference))
	path := strings.TrimPrefix(lookaside("ns/imagesign", i.digest()), "/sigstore/")
	content := read(t, filepath.Join(to, path, "signature-1"))
	s.do(t, "PUT", "/sigstore/"+path+"/signature-1", content).want(t, 201)
	s.wantSigned(t, "ns/imagesign", i.digest(), "alice "+reference, "server "+reference)
}

// The image is not only pulled: what was verified runs.
func testPodmanRun(t *testing.T, s *server) {
	need(t, "busybox")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		lack(t, "/bin/busybox does not read; install busybox-static")
	}
	i := newImageFor(runtime.GOARCH, map[string]string{"etc/motd": "it runs", "bin/busybox": string(busybox)})
	reference := s.address + "/ns/run:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--sign-by", fingerprintOf(t, "carol")))
	n := newNode(t).require(t, s.address, s.serverKey())
	out, err := n.podman(t, "run", "--rm", "--tls-verify=false", "--network=host", reference)
	works(t)(out, err)
	if !strings.Contains(out, "it runs") {
		t.Errorf("podman run printed %q, want %q", out, "it runs")
	}
	fails(t, "Source image rejected")(newNode(t).require(t, s.address, keyOf(t, "bob")).
		podman(t, "run", "--rm", "--tls-verify=false", "--network=host", reference))
}

func testBuildahPush(t *testing.T, s *server) {
	if os.Getuid() != 0 {
		lack(t, "buildah is tested as root only")
	}
	n, reference := newNode(t), s.address+"/ns/buildah:v1"
	works(t)(n.run(t, "buildah", "pull", newImage("buildah").layout(t, "v1")))
	out, err := n.run(t, "buildah", "images", "--quiet", "--no-trunc")
	works(t)(out, err)
	works(t)(n.run(t, "buildah", "push", "--tls-verify=false", "--sign-by", fingerprintOf(t, "alice"), strings.TrimSpace(out), "docker://"+reference))
	s.wantSigned(t, "ns/buildah", s.resolve(t, "ns/buildah", "v1"), "alice "+reference, "server "+reference)
}

// TestMirror pulls through a mirror: clients ask it for signatures, and judge them by the name
// that was typed (protocol.md 1.2, 9.18).
func TestMirror(t *testing.T) {
	t.Parallel()
	s := start(t, "-host", "registry.example.test")
	i := newImage("mirror")
	s.push(t, i, "ns/app", "v1")
	s.wantSigned(t, "ns/app", i.digest(), "server registry.example.test/ns/app:v1")
	n := newNode(t).require(t, "registry.example.test", s.serverKey())
	n.mirrors(t, fmt.Sprintf(
		"[[registry]]\nlocation = \"registry.example.test\"\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", s.address))
	works(t)(n.skopeo(t, "copy", "docker://registry.example.test/ns/app:v1", "dir:"+t.TempDir()))
	n.require(t, "registry.example.test", keyOf(t, "bob"))
	fails(t, "Source image rejected")(n.skopeo(t, "copy", "docker://registry.example.test/ns/app:v1", "dir:"+t.TempDir()))
}

// TestSigstoreAttachments: cosign's signatures are ordinary images here. A tag that is not
// there must be answered as clients of every version expect (protocol.md 0, 7).
func TestSigstoreAttachments(t *testing.T) {
	t.Parallel()
	s := start(t)
	i, reference := newImage("attachments"), s.address+"/ns/attached:v1"
	s.push(t, i, "ns/attached", "v1")
	s.get(t, "/v2/ns/attached/manifests/"+strings.Replace(i.digest(), ":", "-", 1)+".sig", "Accept: "+manifestType).
		refused2(t, 404, "MANIFEST_UNKNOWN")
	n := newNode(t).require(t, s.address, s.serverKey())
	write(t, filepath.Join(n.registries(), "attachments.yaml"), fmt.Sprintf("docker:\n  %s:\n    use-sigstore-attachments: true\n", s.address))
	works(t)(n.pull(t, reference))
	var tags struct{ Tags []string }
	if err := json.Unmarshal([]byte(s.get(t, "/v2/ns/attached/tags/list").want(t, 200).body), &tags); err != nil || len(tags.Tags) != 1 {
		t.Errorf("tags are %q (%v), want v1 alone: the server keeps its signatures elsewhere", tags.Tags, err)
	}
}
