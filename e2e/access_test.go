package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"
)

// audience is what tokens of the issuer are made out to.
const audience = "https://registry.example.com"

// An issuer makes tokens as CI services do, for jobs.
type issuer struct {
	url, ca string
	key     *ecdsa.PrivateKey
	leave   func() // for good
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, ca: filepath.Join(t.TempDir(), "issuer.pem")}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: "ES256", Use: "sig"}}}
		if r.URL.Path == "/.well-known/openid-configuration" {
			answer = map[string]string{"issuer": i.url, "jwks_uri": i.url + "/keys"}
		}
		_ = json.NewEncoder(w).Encode(answer) // who asked is gone
	}))
	t.Cleanup(s.Close)
	i.url, i.leave = s.URL, s.Close
	write(t, i.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return i
}

// token is a job's of acme/app, which lives so long; change says what is not as it should be.
func (i *issuer) token(t testing.TB, lives time.Duration, id string, change map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"iss": i.url, "aud": audience, "sub": "repo:acme/app:ref:refs/heads/main", "repository": "acme/app", "jti": rand.Text(), "exp": time.Now().Add(lives).Unix(),
	}
	for name, value := range change {
		claims[name] = value
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// none is a token with the claims of a good one, and without a signature.
func (i *issuer) none(t testing.TB) string {
	payload := strings.Split(i.token(t, time.Hour, "one", nil), ".")[1]
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + payload + "."
}

// A guarded is a server that asks who comes: alice may everything, bob only pull, the token ci and
// jobs of acme/app push below acme/.
type guarded struct {
	*server
	issuer           *issuer
	token, tokenFile string
	htpasswd         string
	settings         string // file
}

const password = "correct horse battery staple"

func newGuarded(t testing.TB, more string, flags ...string) *guarded {
	t.Helper()
	dir := t.TempDir()
	g := &guarded{issuer: newIssuer(t), tokenFile: filepath.Join(dir, "tokens"), htpasswd: filepath.Join(dir, "htpasswd")}
	var lines string
	for _, user := range []string{"alice", "bob"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		lines += user + ":" + string(hash) + "\n"
	}
	writeSecret(t, g.htpasswd, lines)
	out, err := command(t.Context(), "token", "-file", g.tokenFile, "-days", "1", "ci").Output()
	if err != nil {
		t.Fatal(err)
	}
	g.token = strings.TrimSpace(string(out))
	g.settings = config(t, fmt.Sprintf(`
access:
  htpasswd: %s
  tokens: %s
  oidc:
  - name: jobs
    issuer: %s
    ca: %s
    audience: %s
    algorithms: [ES256]
    identities: [{subject: app, claims: {repository: acme/app}}]
%s
  grants:
  - {who: ["user:alice"], repositories: ["**"], actions: [pull, push, sign, withdraw, admin]}
  - {who: ["user:bob"], repositories: ["**"], actions: [pull]}
  - {who: ["token:ci", "oidc:jobs:app"], repositories: ["127.0.0.1:*/acme/**"], actions: [pull, push]}
`, g.htpasswd, g.tokenFile, g.issuer.url, g.issuer.ca, audience, more))
	g.server = start(t, append([]string{"-config", g.settings}, flags...)...)
	return g
}

func writeSecret(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Clients log in by each kind of access there is, push, and pull what they may verify.
func TestAccess(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "")
	i := newImage("guarded")
	t.Run("skopeo", func(t *testing.T) {
		t.Parallel()
		for repository, login := range map[string]string{
			"acme/password": "alice:" + password, "acme/token": "whoever:" + g.token,
			"acme/job": "job:" + g.issuer.token(t, time.Hour, "one", nil),
		} {
			n := newNode(t)
			works(t)(n.copyTo(t, i.layout(t, "v1"), g.address+"/"+repository+":v1", "--dest-creds", login))
			n.require(t, g.address, g.serverKey())
			works(t)(n.pull(t, g.address+"/"+repository+":v1", "--src-creds", login))
			works(t)(n.pull(t, g.address+"/"+repository+":v1", "--src-creds", "bob:"+password))
			fails(t, "unauthorized")(n.pull(t, g.address+"/"+repository+":v1"))
		}
	})
	t.Run("podman", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		works(t)(n.feed(t, g.token, "podman", "login", "--tls-verify=false", "-u", "ci", "--password-stdin", g.address))
		works(t)(n.podman(t, "pull", i.layout(t, "v1")))
		works(t)(n.podman(t, "push", "--tls-verify=false", n.onlyImage(t), "docker://"+g.address+"/acme/podman:v1"))
		fails(t)(n.podman(t, "push", "--tls-verify=false", n.onlyImage(t), "docker://"+g.address+"/other/podman:v1"))
		n.require(t, g.address, g.serverKey())
		works(t)(n.podman(t, "pull", "--tls-verify=false", g.address+"/acme/podman:v1"))
		works(t)(n.podman(t, "logout", g.address))
		fails(t, "unauthorized")(n.podman(t, "pull", "--tls-verify=false", g.address+"/acme/podman:v1"))
		fails(t)(n.feed(t, "wrong", "podman", "login", "--tls-verify=false", "-u", "alice", "--password-stdin", g.address))
	})
	t.Run("curl", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		url := "http://" + g.address + "/v2/"
		for _, login := range [][]string{
			{"-u", "alice:" + password}, {"-u", "x:" + g.token}, {"-H", "Authorization: Bearer " + g.token}, {"-H", "Authorization: Bearer " + g.issuer.token(t, time.Hour, "one", nil)},
		} {
			out, err := n.run(t, "curl", append(login, "-sSi", "--fail", url)...)
			works(t)(out, err)
			if !strings.Contains(out, "X-Registry-Supports-Signatures: 1\r\n") {
				t.Errorf("a ping lacks the header:\n%s", out)
			}
		}
	})
	t.Run("signatures", func(t *testing.T) {
		t.Parallel()
		testAccessSignatures(t)
	})
}

// Signing clients upload with the login that they push with, and alone may not.
func testAccessSignatures(t *testing.T) {
	g := newGuarded(t, "")
	trust(t, g.data, "alice")
	i := newImage("signed behind a login")
	n := newNode(t)
	works(t)(n.copyTo(t, i.layout(t, "v1"), g.address+"/acme/app:v1", "--dest-creds", "ci:"+g.token, "--sign-by", fingerprintOf(t, "alice")))
	n.require(t, g.address, keyOf(t, "alice"))
	works(t)(n.pull(t, g.address+"/acme/app:v1", "--src-creds", "bob:"+password))
	content := string(sign(t, "alice", g.address+"/acme/app:v1", i.digest()))
	g.as(basic("bob", password)).do(t, "POST", lookaside("acme/app", i.digest()), content).refused(t, 403, "DENIED", "user:bob may not push")
	g.as(basic("alice", password)).do(t, "POST", lookaside("acme/app", i.digest()), content).within(t, 200, 201)
	g.get(t, lookaside("acme/app", i.digest())+"/signature-1").want(t, 404) // private
	audit, _ := newNode(t).countersign(t, g.server, password, "audit", "-username", "alice")
	if !strings.Contains(audit, "by token:ci") || !strings.Contains(audit, "by user:alice") {
		t.Errorf("the audit trail does not say who uploaded:\n%s", audit)
	}
	g.tells(t, `"subject":"token:ci"`, `"subject":"user:bob"`)
}

// Each refusal has the challenge, where a login could help, and a message that says what is wrong.
func TestAccessRefused(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "")
	jobs := g.issuer
	good := jobs.token(t, time.Hour, "one", nil)
	for what, test := range map[string]struct{ authorization, says string }{
		"nothing":        {"", "log in to push"},
		"wrong password": {basic("alice", "wrong"), "wrong credentials"},
		"no such user":   {basic("mallory", password), "wrong credentials"},
		"no such token":  {"Bearer " + g.token[:len(g.token)-1] + "x", "wrong credentials"},
		"expired":        {basic("job", jobs.token(t, -time.Minute, "one", nil)), "the token has expired"},
		"audience":       {basic("job", jobs.token(t, time.Hour, "one", map[string]any{"aud": "https://elsewhere.example.com"})), `another audience than \"` + audience},
		"issuer":         {basic("job", jobs.token(t, time.Hour, "one", map[string]any{"iss": "https://elsewhere.example.com"})), "no issuer that is known here"},
		"key id":         {basic("job", jobs.token(t, time.Hour, "two", nil)), "not signed by a key of " + jobs.url},
		"alg none":       {basic("job", jobs.none(t)), "is not signed by one of"},
		"claims":         {basic("job", jobs.token(t, time.Hour, "one", map[string]any{"repository": "acme/other"})), "match no identity of jobs"},
		"garbage":        {"Digest x", "does not read"},
	} {
		for _, path := range []string{"/v2/acme/app/manifests/v1", extension("acme/app", newImage(what).digest())} {
			a := g.as(test.authorization).do(t, "PUT", path, "{}")
			a.refused(t, 401, "UNAUTHORIZED")
			if !strings.Contains(a.body, test.says) {
				t.Errorf("%s: %s, want %q", what, a.body, test.says)
			}
			a.says(t, "Www-Authenticate", `Basic realm="countersign", charset="UTF-8"`)
		}
	}
	g.get(t, "/v2/").want(t, 401).says(t, "X-Registry-Supports-Signatures", "1")
	g.as(basic("job", good)).get(t, "/v2/").want(t, 200).says(t, "X-Registry-Supports-Signatures", "1")
	g.as(basic("job", good)).do(t, "PUT", "/v2/other/app/manifests/v1", "{}").refused(t, 403, "DENIED", "oidc:jobs:app may not push")
	g.as(basic("bob", password)).do(t, "PUT", "/v2/acme/app/manifests/v1", "{}").refused(t, 403, "DENIED", "user:bob may not push")
	g.as(basic("ci", g.token)).do(t, "POST", "/api/v1/withdrawals", withdrawal("acme/app")).refused(t, 403, "DENIED", "token:ci may not withdraw")
	n, i := newNode(t), newImage("refused")
	for login, says := range map[string]string{ // the first request is a HEAD, whose answer has no message
		"alice:wrong": "unauthorized", "job:" + jobs.token(t, -time.Minute, "one", nil): "unauthorized", "bob:" + password: "user:bob may not push",
	} {
		fails(t, says)(n.copyTo(t, i.layout(t, "v1"), g.address+"/acme/app:v1", "--dest-creds", login))
	}
	// What was taken back ends with the next request.
	g.as(basic("ci", g.token)).get(t, "/v2/").want(t, 200)
	writeSecret(t, g.tokenFile, "")
	g.as(basic("ci", g.token)).get(t, "/v2/").want(t, 401)
	writeSecret(t, g.htpasswd, "alice")
	g.as(basic("alice", password)).get(t, "/v2/").want(t, 200) // it does not read
	metrics := ask(t, g.debug, "GET", "/metrics", "").want(t, 200).body
	if !strings.Contains(metrics, `countersign_file_current{file="htpasswd"} 0`) || !strings.Contains(metrics, `countersign_file_current{file="tokens"} 1`) {
		t.Error("the metrics do not say which file does not read")
	}
	g.stop(t)
	for _, credential := range []string{password, g.token, good, "hunter2"} {
		if strings.Contains(g.stderr.String(), credential) {
			t.Error("the log has a credential in it")
		}
	}
}

func withdrawal(repository string) string {
	return fmt.Sprintf(`{"repository":%q,"digest":%q,"scope":"image","reason":"test"}`, repository, digestOf(nil))
}

// A token that expires while a client copies ends the copy with a message, and the next one goes on
// where it stopped; with a session it carries the copy to its end.
func TestTokenExpiresInCopy(t *testing.T) {
	t.Parallel()
	i := newImage("in the middle")
	plain, session := newGuarded(t, ""), newGuarded(t, "    session: 1h")
	for _, test := range []struct {
		g    *guarded
		ends bool
	}{{plain, false}, {session, true}} {
		// Tokens are taken half a minute longer than they say, for clocks that differ.
		token := test.g.issuer.token(t, -25*time.Second, "one", nil)
		witness := plain.issuer.token(t, -25*time.Second, "one", nil)
		held := test.g.holding(t, func(r *http.Request) bool { return r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") }, func() {
			eventually(t, "the token has expired", func() bool { return plain.as(basic("job", witness)).get(t, "/v2/").status == 401 })
		})
		n := newNode(t)
		out, err := n.copyTo(t, i.layout(t, "v1"), held+"/acme/middle:v1", "--dest-creds", "job:"+token)
		if test.ends {
			works(t)(out, err)
			continue
		}
		fails(t, "the token has expired")(out, err)
		works(t)(n.copyTo(t, i.layout(t, "v1"), held+"/acme/middle:v1", "--dest-creds", "job:"+test.g.issuer.token(t, time.Hour, "one", nil)))
	}
}

// holding is a proxy in front of the server, which does something before it passes on the first
// request that matches.
func (g *guarded) holding(t testing.TB, match func(*http.Request) bool, first func()) (address string) {
	t.Helper()
	target, err := url.Parse("http://" + g.address)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = g.address }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if match(r) {
			once.Do(first)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// feed runs a program with this on its standard input.
func (n *node) feed(t testing.TB, stdin, program string, args ...string) (string, error) {
	t.Helper()
	need(t, program)
	c := exec.CommandContext(t.Context(), program, args...)
	c.Env, c.Dir, c.Stdin = n.environment, n.dir, strings.NewReader(stdin)
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	return string(out), err
}

// countersign runs a client command as the node's user, with a password on standard input.
func (n *node) countersign(t testing.TB, s *server, stdin string, args ...string) (string, error) {
	t.Helper()
	more := append([]string{args[0], "-server", "http://" + s.address}, args[1:]...)
	return n.feed(t, stdin, built.program, more...)
}

// The client commands log in as docker and podman do.
func TestClientCommandsLogIn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "")
	i := newImage("commands")
	g.as(basic("alice", password)).push(t, i, "acme/app", "v1")
	reference := g.address + "/acme/app:v1"
	n := newNode(t)
	fails(t, "authentication required: log in to pull")(n.countersign(t, g.server, "", "list", "acme/app"))
	fails(t, "wrong credentials")(n.countersign(t, g.server, "wrong\n", "list", "-username", "alice", "acme/app"))
	fails(t, "no password of alice on standard input")(n.countersign(t, g.server, "", "list", "-username", "alice", "acme/app"))
	fails(t, "leave one out")(n.countersign(t, g.server, "", "list", "-username", "alice", "-token-file", "x", "acme/app"))
	for _, args := range [][]string{{"list"}, {"audit"}, {"verify", reference}} {
		works(t)(n.countersign(t, g.server, password+"\n", append([]string{args[0], "-username", "alice"}, args[1:]...)...))
	}
	works(t)(n.countersign(t, g.server, password, "withdraw", "-username", "alice", "-image", "-reason", "test", g.address+"/acme/app@"+i.digest()))
	fails(t, "may not admin everything")(n.countersign(t, g.server, password, "audit", "-username", "bob"))

	file := filepath.Join(n.dir, "token")
	writeSecret(t, file, g.token+"\n")
	works(t)(n.countersign(t, g.server, "", "list", "-token-file", file, "acme/app"))
	with := func(pair ...string) *node {
		return &node{n.dir, append(n.environment[:len(n.environment):len(n.environment)], pair...)}
	}
	works(t)(with("COUNTERSIGN_TOKEN="+g.token).countersign(t, g.server, "", "list", "acme/app"))
	works(t)(with("COUNTERSIGN_USERNAME=bob", "COUNTERSIGN_PASSWORD="+password).countersign(t, g.server, "", "list", "acme/app"))

	// What docker keeps: logins, or the name of a helper that does.
	docker := filepath.Join(n.dir, ".docker", "config.json")
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, g.address, strings.TrimPrefix(basic("bob", password), "Basic "))
	write(t, docker, auth)
	works(t)(n.countersign(t, g.server, "", "list", "acme/app"))
	write(t, docker, `{"auths":{}}`)
	fails(t, "log in to pull")(n.countersign(t, g.server, "", "list", "acme/app"))
	elsewhere := filepath.Join(n.dir, "elsewhere.json")
	write(t, elsewhere, auth)
	works(t)(n.countersign(t, g.server, "", "list", "-authfile", elsewhere, "acme/app"))
	works(t)(with("REGISTRY_AUTH_FILE="+elsewhere).countersign(t, g.server, "", "list", "acme/app"))
	bin := filepath.Join(n.dir, "bin")
	write(t, filepath.Join(bin, "docker-credential-test"), fmt.Sprintf("#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = %s ] && echo '{\"ServerURL\":\"x\",\"Username\":\"bob\",\"Secret\":\"%s\"}'\n", g.address, password))
	if err := os.Chmod(filepath.Join(bin, "docker-credential-test"), 0o755); err != nil {
		t.Fatal(err)
	}
	helping := with("PATH=" + bin + ":" + os.Getenv("PATH"))
	for _, content := range []string{`{"credsStore":"test"}`, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, g.address)} {
		write(t, docker, content)
		works(t)(helping.countersign(t, g.server, "", "list", "acme/app"))
	}
	write(t, docker, `{"credsStore":"../bin/docker-credential-test"}`)
	fails(t, "no name of a credential helper")(helping.countersign(t, g.server, "", "list", "acme/app"))
	if err := os.Remove(docker); err != nil {
		t.Fatal(err)
	}
	works(t)(n.feed(t, password, "podman", "login", "--tls-verify=false", "-u", "bob", "--password-stdin", g.address))
	works(t)(n.countersign(t, g.server, "", "list", "acme/app"))
}
