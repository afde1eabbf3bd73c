package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An authority vouches for certificates; dir has its own, ca.crt, as clients' certs.d wants it.
type authority struct {
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.certificate, a.key = a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, filepath.Join(a.dir, "ca.crt"), filepath.Join(t.TempDir(), "ca.key"))
	return a
}

// issue writes a certificate and its key.
func (a *authority) issue(t testing.TB, template *x509.Certificate, certificate, key string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, private
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{key: {Type: "PRIVATE KEY", Bytes: encoded}, certificate: {Type: "CERTIFICATE", Bytes: der}} {
		writeSecret(t, path+".new", string(pem.EncodeToMemory(block)))
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return issued, private
}

// server issues one for 127.0.0.1, client one for somebody of an organization.
func (a *authority) server(t testing.TB, serial int64, certificate, key string) {
	a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, certificate, key)
}

func (a *authority) client(t testing.TB, organization, certificate, key string) {
	a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{Organization: []string{organization}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, certificate, key)
}

// Clients know the server by its certificate and the server them by theirs; a renewed one is used
// without a restart.
func TestTLS(t *testing.T) {
	t.Parallel()
	servers, clients, dir := newAuthority(t), newAuthority(t), t.TempDir()
	certificate, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	servers.server(t, 11, certificate, key)
	settings := config(t, `
access:
  mtls: [{name: builders, organization: builders}, {name: nodes, organization: nodes}]
  grants:
  - {who: ["cert:builders"], repositories: ["**"], actions: [pull, push]}
  - {who: ["cert:nodes"], repositories: ["**"], actions: [pull]}
`)
	s := start(t, "-config", settings, "-tls-certificate", certificate, "-tls-key", key, "-tls-client-ca", filepath.Join(clients.dir, "ca.crt"))
	certs := func(organization string, by *authority) string {
		d := t.TempDir()
		write(t, filepath.Join(d, "ca.crt"), read(t, filepath.Join(servers.dir, "ca.crt")))
		if organization != "" {
			by.client(t, organization, filepath.Join(d, "client.cert"), filepath.Join(d, "client.key"))
		}
		return d
	}
	builder, node, nobody, forged := certs("builders", clients), certs("nodes", clients), certs("", nil), certs("builders", servers)
	reference := "docker://" + s.address + "/ns/app:v1"
	n, i := newNode(t), newImage("over TLS")
	works(t)(n.skopeo(t, "copy", "--dest-cert-dir", builder, i.layout(t, "v1"), reference))
	n.require(t, s.address, s.serverKey())
	works(t)(n.skopeo(t, "copy", "--src-cert-dir", node, reference, "dir:"+t.TempDir()))
	works(t)(n.podman(t, "pull", "--cert-dir", node, reference))
	fails(t, "unauthorized")(n.skopeo(t, "copy", "--src-cert-dir", nobody, reference, "dir:"+t.TempDir()))
	fails(t)(n.skopeo(t, "copy", "--src-cert-dir", forged, reference, "dir:"+t.TempDir()))
	fails(t)(n.skopeo(t, "copy", reference, "dir:"+t.TempDir())) // it does not know the server
	writer := newNode(t)
	fails(t, "cert:nodes may not push")(writer.skopeo(t, "copy", "--dest-cert-dir", node, newImage("other").layout(t, "v1"), reference))

	out, err := n.run(t, "curl", "-sS", "--http2", "--cacert", filepath.Join(servers.dir, "ca.crt"), "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "https://"+s.address+"/v2/")
	works(t)(out, err)
	if out != "2 401" {
		t.Errorf("curl says %q, want HTTP/2 and 401", out)
	}
	list := []string{"list", "-server", "https://" + s.address, "-ca", filepath.Join(servers.dir, "ca.crt")}
	works(t)(n.run(t, built.program, append(list, "-client-certificate", filepath.Join(node, "client.cert"), "-client-key", filepath.Join(node, "client.key"), "ns/app")...))
	fails(t, "log in to pull")(n.run(t, built.program, append(list, "ns/app")...))
	fails(t, "certificate")(n.run(t, built.program, "list", "-server", "https://"+s.address, "ns/app"))

	servers.server(t, 12, certificate, key)
	trust := x509.NewCertPool()
	trust.AddCert(servers.certificate)
	eventually(t, "the new certificate is used", func() bool {
		c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: trust})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64() == 12
	})
	works(t)(n.skopeo(t, "copy", "--src-cert-dir", node, reference, "dir:"+t.TempDir()))
	s.tells(t, `"subject":"cert:builders"`)
}

// What others can reach does not start before somebody says who may do what, or that everybody may.
func TestNoAccess(t *testing.T) {
	t.Parallel()
	flags := []string{"-data", filepath.Join(t.TempDir(), "data"), "-listen", "0.0.0.0:0", "-host", "registry.example.com", "-debug-listen", "127.0.0.1:0"}
	out := refusal(t, append([]string{"serve"}, flags...)...)
	if !strings.Contains(out, "nothing says who may push and sign there") || !strings.Contains(out, "hint: say so under access") {
		t.Errorf("it says\n%s", out)
	}
	s := start(t, append(flags[2:], "-insecure-no-access")...)
	s.tells(t, "-insecure-no-access: everybody who reaches this server may push images, have them signed, and withdraw signatures")
	s.stop(t)
	out = refusal(t, "serve", "-insecure-no-access", "-config", config(t, "access: {}\n"))
	if !strings.Contains(out, "leave one out") {
		t.Errorf("it says\n%s", out)
	}
}

// A key that was made where everybody could have it sign stands for nothing where access is
// controlled, until somebody says that it does.
func TestKeyMadeWithoutAccess(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := fingerprint(t, []byte(read(t, s.serverKey())))
	s.stop(t)
	settings := config(t, "access: {anonymous: pull}\n")
	serve := []string{"serve", "-data", s.data, "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0", "-config", settings}
	out := refusal(t, serve...)
	if !strings.Contains(out, "was made where everybody could have it sign") || !strings.Contains(out, "countersign keys adopt -data "+s.data) {
		t.Errorf("it says\n%s", out)
	}
	works(t)(newNode(t).run(t, built.program, "keys", "adopt", "-data", s.data))
	adopted := startIn(t, s.data, "-config", settings)
	if after := fingerprint(t, []byte(read(t, adopted.serverKey()))); after != before {
		t.Errorf("the key is %s, was %s", after, before)
	}
	made := start(t, "-config", settings)
	if uids := string(gpg(t, nil, "--show-keys", made.serverKey())); !strings.Contains(uids, "countersign") || strings.Contains(uids, "without access control") {
		t.Errorf("a key that was made with access:\n%s", uids)
	}
}

// A token is told once, and its line can be added to the file of a server that runs.
func TestTokenCommand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	writeSecret(t, file, "# ours")
	s := start(t, "-config", config(t, fmt.Sprintf("access: {tokens: %s, grants: [{who: ['token:*'], repositories: ['**'], actions: [pull]}]}\n", file)))
	s.get(t, "/v2/").want(t, 401)
	out, err := command(t.Context(), "token", "-file", file, "-days", "1", "ci").Output()
	works(t)(string(out), err)
	token := strings.TrimSpace(string(out))
	s.as("Bearer "+token).get(t, "/v2/").want(t, 200)
	if content := read(t, file); !strings.Contains(content, "# ours\nci sha256:") || strings.Contains(content, token) {
		t.Errorf("the file is\n%s", content)
	}
	both, err := command(t.Context(), "token", "other").CombinedOutput()
	works(t)(string(both), err)
	if !strings.Contains(string(both), "other sha256:") {
		t.Errorf("without -file the line is not told:\n%s", both)
	}
	for _, args := range [][]string{{"token"}, {"token", "a b"}, {"token", "-days", "-1", "ci"}, {"token", "-file", "/nowhere/tokens", "ci"}} {
		refusal(t, args...)
	}
}
