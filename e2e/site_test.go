package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A site is what an operator makes of deploy/: a copy, edited, with secrets.
type site struct {
	*server         // where it is reached, and by whose authority
	node     *node  // that runs it
	dir      string // of the copy
	secrets  string // directory
	database string // host:port
	registry string // host:port
	ca       *authority
}

// newSite copies deploy/ and makes the secrets as doc/deploying.md says.
func newSite(t *testing.T, secrets string) *site {
	t.Helper()
	ports := freePorts(t, 4)
	s := &site{node: equipped(t), dir: filepath.Join(t.TempDir(), "deploy"), database: ports[2], registry: ports[3], ca: newAuthority(t)}
	s.server = &server{address: ports[0], debug: ports[1]}
	if err := os.CopyFS(s.dir, os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	s.secrets = filepath.Join(s.dir, secrets)
	secret := func(name, content string) { writeSecret(t, filepath.Join(s.secrets, name), content) }
	if err := os.MkdirAll(s.secrets, 0o755); err != nil {
		t.Fatal(err)
	}
	secret("release.pass", "a passphrase\n")
	runs(t, "keys", "generate", "-passphrase-file", filepath.Join(s.secrets, "release.pass"), "-user-id", "Example release <release@example.com>", filepath.Join(s.secrets, "release.key"))
	secret("operator", runs(t, "token", "-file", filepath.Join(s.secrets, "tokens"), "operator"))
	secret("database-password", "a password\n")
	secret("database-url", "postgres://countersign:a%20password@"+s.database+"/countersign?sslmode=disable\n")
	secret("htpasswd", "alice:"+secretHash+"\ncountersign:"+secretHash+"\n")
	secret("registry.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.registry, base64.StdEncoding.EncodeToString([]byte("countersign:secret"))))
	host, _, _ := net.SplitHostPort(s.address)
	s.ca.issue(t, &x509.Certificate{SerialNumber: big.NewInt(3), IPAddresses: []net.IP{net.ParseIP(host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		filepath.Join(s.secrets, "tls.crt"), filepath.Join(s.secrets, "tls.key"))
	works(t)(s.node.run(t, "chmod", "-R", "u=rX,g=rX,o=", s.secrets))
	return s
}

// edit replaces what stands in a file once: pairs of old and new.
func (s *site) edit(t *testing.T, name string, pairs ...string) {
	t.Helper()
	file := filepath.Join(s.dir, name)
	content := read(t, file)
	for n := 0; n < len(pairs); n += 2 {
		if strings.Count(content, pairs[n]) != 1 {
			t.Fatalf("%s has not %q once", name, pairs[n])
		}
		content = strings.Replace(content, pairs[n], pairs[n+1], 1)
	}
	write(t, file, content)
}

// settle puts the addresses of this test into settings of a server and of a registry.
func (s *site) settle(t *testing.T, settings, registry string) {
	t.Helper()
	s.edit(t, settings, "hosts: [registry.example.com]", "hosts: ['"+s.address+"']", "listen: 0.0.0.0:5000", "listen: "+s.address,
		"debugListen: 0.0.0.0:5080", "debugListen: "+s.debug, "http://127.0.0.1:5010", "http://"+s.registry)
	s.edit(t, registry, "addr: 127.0.0.1:5010", "addr: "+s.registry)
}

// isReady tells whether the server says so, and its registry is there.
func (s *site) isReady() bool {
	response, err := http.Get("http://" + s.debug + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK && dials(s.registry)
}

// key is the public part of the key that the site signs with.
func (s *site) key() string { return filepath.Join(s.secrets, "release.asc") }

// job is what all of it is for: somebody pushes, a node that requires the site's key pulls, and one that
// requires another's does not; who has not logged in pushes nothing.
func (s *site) job(t *testing.T) {
	t.Helper()
	i, reference := newImage(t.Name()), s.address+"/ns/app:v1"
	pusher := newNode(t)
	works(t)(pusher.podman(t, "pull", "-q", i.layout(t, "v1")))
	push := func(more ...string) (string, error) {
		return pusher.podman(t, append(append([]string{"push", "-q", "--cert-dir", s.ca.dir}, more...), pusher.onlyImage(t), "docker://"+reference)...)
	}
	fails(t, "unauthorized")(push())
	works(t)(push("--creds", "alice:secret"))

	puller := newNode(t).require(t, s.address, s.key())
	works(t)(puller.podman(t, "pull", "-q", "--cert-dir", s.ca.dir, "--creds", "alice:secret", reference))
	fails(t, "unauthorized")(puller.podman(t, "pull", "-q", "--cert-dir", s.ca.dir, reference))
	other := filepath.Join(t.TempDir(), "other.asc")
	write(t, other, string(publicKey(t, "alice")))
	fails(t, "Source image rejected")(newNode(t).require(t, s.address, other).podman(t, "pull", "-q", "--cert-dir", s.ca.dir, "--creds", "alice:secret", reference))

	audit := runs(t, "audit", "-server", "https://"+s.address, "-ca", filepath.Join(s.ca.dir, "ca.crt"), "-token-file", filepath.Join(s.secrets, "operator"))
	shows(t, audit, "signed", "ns/app")
}
