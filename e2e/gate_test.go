package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
