package e2e

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The registries that a server is tested beside: none of them is ours.

// secretHash is bcrypt of "secret", of the lowest cost.
const secretHash = "$2b$04$Nj.csj2.yqphHBQGPDCgu.UBXZxwIMe2VQRgpuu5uxKDleWqiGQX2"

// debian starts Debian's docker-registry, which knows alice and bob by their password, secret.
func debian(t testing.TB) (address string) {
	t.Helper()
	need(t, "docker-registry")
	users := filepath.Join(t.TempDir(), "htpasswd")
	write(t, users, "alice:"+secretHash+"\nbob:"+secretHash+"\n")
	return startRegistry(t, func(settings string) *exec.Cmd { return exec.Command("docker-registry", "serve", settings) },
		fmt.Sprintf("auth: {htpasswd: {realm: debian, path: %s}}\n", users))
}

// distribution starts the current distribution; more is of its settings.
func distribution(t testing.TB, more string) (address string) {
	t.Helper()
	return startRegistry(t, func(settings string) *exec.Cmd { return exec.Command(built.registry, settings) }, more)
}

func startRegistry(t testing.TB, program func(settings string) *exec.Cmd, more string) (address string) {
	t.Helper()
	address = freePorts(t, 1)[0]
	dir := t.TempDir()
	settings := filepath.Join(dir, "registry.yaml")
	http := fmt.Sprintf("http: {addr: '%s'}\n", address)
	if strings.HasPrefix(more, "http:") {
		http = ""
		more = strings.ReplaceAll(more, "ADDRESS", address)
	}
	write(t, settings, fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\n%s%s", dir, http, more))
	c, log := program(settings), newOutput()
	c.Stdout, c.Stderr = log, log
	c.Env = append(c.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		_ = c.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-gone.Done()
		if t.Failed() {
			t.Logf("log of the registry:\n%s", tail(log.String(), 5000))
		}
	})
	eventually(t, "the registry listens", func() bool {
		if gone.Err() != nil {
			t.Fatalf("the registry ended: %s", log)
		}
		return dials(address)
	})
	return address
}

// A tokenServer makes tokens as distribution's specification has them. alice may push everything,
// bob pull everything but below private, nobody pull what is below public; all passwords are secret.
type tokenServer struct {
	address string
	bundle  string // file of its certificate
	key     *rsa.PrivateKey
	chain   string // base64 of its certificate

	mu    sync.Mutex
	asked []string // user and scope of each token
}

func newTokenServer(t testing.TB) *tokenServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tokens"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k := &tokenServer{key: key, chain: base64.StdEncoding.EncodeToString(certificate), bundle: filepath.Join(t.TempDir(), "tokens.pem")}
	write(t, k.bundle, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	k.address = strings.TrimPrefix(server.URL, "http://")
	return k
}

// registry starts distribution with this server's tokens.
func (k *tokenServer) registry(t testing.TB) (address string) {
	t.Helper()
	return distribution(t, fmt.Sprintf("auth: {token: {realm: 'http://%s/token', service: reg, issuer: tokens, rootcertbundle: %s}}\n", k.address, k.bundle))
}

func (k *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if ok && (password != "secret" || user != "alice" && user != "bob") {
		http.Error(w, "bad credentials", http.StatusUnauthorized)
		return
	}
	scopes := r.URL.Query()["scope"]
	k.mu.Lock()
	k.asked = append(k.asked, user+" "+strings.Join(scopes, " "))
	k.mu.Unlock()
	token := k.token(user, 5*time.Minute, scopes...)
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300}) // who asked is gone
}

// token grants of these scopes what the user may.
func (k *tokenServer) token(user string, lives time.Duration, scopes ...string) string {
	granted := []map[string]any{}
	for _, scope := range scopes {
		parts := strings.SplitN(scope, ":", 3)
		if len(parts) != 3 || parts[0] != "repository" {
			continue
		}
		var actions []string
		for action := range strings.SplitSeq(parts[2], ",") {
			read := action == "pull" && (user == "bob" && !strings.HasPrefix(parts[1], "private/") || strings.HasPrefix(parts[1], "public/"))
			if user == "alice" || read {
				actions = append(actions, action)
			}
		}
		granted = append(granted, map[string]any{"type": "repository", "name": parts[1], "actions": actions})
	}
	return k.issue(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{k.chain}}, k.claims(user, lives, granted))
}

func (k *tokenServer) claims(user string, lives time.Duration, granted any) map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": "tokens", "sub": user, "aud": "reg", "jti": rand.Text(), "access": granted,
		"iat": now.Add(-10 * time.Minute).Unix(), "nbf": now.Add(-10 * time.Minute).Unix(), "exp": now.Add(lives).Unix(),
	}
}

// issue signs what it is given, whatever that is.
func (k *tokenServer) issue(header, claims map[string]any) string {
	encode := func(v any) string {
		b, _ := json.Marshal(v) // maps of strings
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := encode(header) + "." + encode(claims)
	if header["alg"] == "none" {
		return signed + "."
	}
	hash := sha256.Sum256([]byte(signed))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, hash[:]) // the key fits
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// wasAsked says whether somebody asked for a token of this user for this scope.
func (k *tokenServer) wasAsked(line string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.asked, line)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
