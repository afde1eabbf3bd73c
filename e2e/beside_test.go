package e2e

import (
	"strings"
	"testing"
	"time"
)

// A pusher is a client that logs in, pushes an image from a layout, and pulls it again.
type pusher struct {
	program string
	login   func(n *node, t testing.TB, host, user, password string) (string, error)
	push    func(n *node, t testing.TB, layout, reference string) (string, error)
	pull    func(n *node, t testing.TB, reference string) (string, error)
}

// pushers are all clients that people use with registries. Their layouts are DIR:v1.
var pushers = []pusher{
	{
		"skopeo",
		func(n *node, t testing.TB, host, user, password string) (string, error) {
			return n.run(t, "skopeo", "login", "--tls-verify=false", "-u", user, "-p", password, host)
		},
		func(n *node, t testing.TB, layout, reference string) (string, error) {
			return n.copyTo(t, "oci:"+layout, reference)
		},
		func(n *node, t testing.TB, reference string) (string, error) { return n.pull(t, reference) },
	},
	{
		"podman",
		func(n *node, t testing.TB, host, user, password string) (string, error) {
			return n.podman(t, "login", "--tls-verify=false", "-u", user, "-p", password, host)
		},
		func(n *node, t testing.TB, layout, reference string) (string, error) {
			if out, err := n.podman(t, "pull", "oci:"+layout); err != nil {
				return out, err
			}
			return n.podman(t, "push", "--tls-verify=false", n.onlyImage(t), "docker://"+reference)
		},
		func(n *node, t testing.TB, reference string) (string, error) {
			return n.podman(t, "pull", "--tls-verify=false", reference)
		},
	},
	{
		"crane",
		func(n *node, t testing.TB, host, user, password string) (string, error) {
			return n.run(t, "crane", "auth", "login", "-u", user, "-p", password, host)
		},
		func(n *node, t testing.TB, layout, reference string) (string, error) {
			return n.run(t, "crane", "push", "--insecure", strings.TrimSuffix(layout, ":v1"), reference)
		},
		func(n *node, t testing.TB, reference string) (string, error) {
			return n.run(t, "crane", "pull", "--insecure", reference, n.dir+"/crane.tar")
		},
	},
	{
		"oras",
		func(n *node, t testing.TB, host, user, password string) (string, error) {
			return n.feed(t, password, "oras", "login", "--plain-http", "-u", user, "--password-stdin", host)
		},
		func(n *node, t testing.TB, layout, reference string) (string, error) {
			return n.run(t, "oras", "cp", "--from-oci-layout", "--to-plain-http", layout, reference)
		},
		func(n *node, t testing.TB, reference string) (string, error) {
			return n.run(t, "oras", "cp", "--from-plain-http", "--to-oci-layout", reference, n.dir+"/oras:v1")
		},
	},
	{
		"regctl",
		func(n *node, t testing.TB, host, user, password string) (string, error) {
			if out, err := n.run(t, "regctl", "registry", "set", "--skip-check", "--tls", "disabled", host); err != nil {
				return out, err
			}
			return n.feed(t, password, "regctl", "registry", "login", "-u", user, "--pass-stdin", host)
		},
		func(n *node, t testing.TB, layout, reference string) (string, error) {
			return n.run(t, "regctl", "image", "copy", "ocidir://"+layout, reference)
		},
		func(n *node, t testing.TB, reference string) (string, error) {
			return n.run(t, "regctl", "image", "copy", reference, "ocidir://"+n.dir+"/regctl:v1")
		},
	},
}

// TestBesideClients has each client work through each kind of registry: Debian's with passwords,
// distribution's with tokens, and the embedded one of another instance with access of its own.
func TestBesideClients(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo", "crane", "oras", "regctl")
	k := newTokenServer(t)
	instance := newGuarded(t, "", "-sign-on", "none")
	for name, test := range map[string]struct {
		s        *server
		password string
		reader   func(repository string) string // an Authorization for /v2/
	}{
		"Debian":       {start(t, "-registry", "http://"+debian(t)), "secret", func(string) string { return basic("alice", "secret") }},
		"distribution": {start(t, "-registry", "http://"+k.registry(t)), "secret", func(r string) string { return "Bearer " + k.token("alice", time.Minute, "repository:"+r+":pull") }},
		"an instance":  {start(t, "-registry", "http://"+instance.address), password, func(string) string { return basic("alice", password) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, p := range pushers {
				besideClient(t, test.s, p, test.password, test.reader)
			}
		})
	}
}

func besideClient(t *testing.T, s *server, p pusher, password string, reader func(repository string) string) {
	t.Helper()
	i, repository := newImage(p.program), "ns/"+p.program
	reference := s.address + "/" + repository + ":v1"
	layout := strings.TrimPrefix(i.layout(t, "v1"), "oci:")
	n, stranger := newNode(t), newNode(t)
	if p.program == "regctl" {
		works(t)(stranger.run(t, "regctl", "registry", "set", "--skip-check", "--tls", "disabled", s.address))
	}
	fails(t)(p.push(stranger, t, layout, reference))
	wrong := newNode(t)
	_, _ = p.login(wrong, t, s.address, "alice", "wrong") // crane does not ask whether that is right
	fails(t)(p.push(wrong, t, layout, reference))
	works(t)(p.login(n, t, s.address, "alice", password))
	works(t)(p.push(n, t, layout, reference))
	who := s.as(reader(repository))
	// The server has heard of it by the time the client is told, whatever bytes the client made of it.
	who.wantSigned(t, repository, who.resolve(t, repository, "v1"), "server "+reference)
	works(t)(p.pull(n.require(t, s.address, s.serverKey()), t, reference))
	fails(t)(p.pull(stranger, t, reference))
	if t.Failed() {
		t.Logf("that was %s", p.program)
	}
}
