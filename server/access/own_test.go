package access_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign-dev/countersign/server/access"
)

const host = "registry.example.com"

// A clock is set by tests. It begins now: followed files have times of the real one.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T, s access.Settings, c *clock) *access.Own {
	t.Helper()
	o, err := access.Open(s, options(c))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func options(c *clock) access.Options {
	return access.Options{Clock: c.time, Log: slog.New(slog.DiscardHandler), Hosts: []string{host, "registry.svc:5000"}}
}

// write makes a file that only we read.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	rewrite(t, path, content)
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// rewrite puts a file in place whole, as renewals do.
func rewrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// line is one of a htpasswd file, cheap to verify.
func line(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash) + "\n"
}

func token(t *testing.T, name string, expires time.Time) (token, line string) {
	t.Helper()
	token, line, err := access.NewToken(name, expires)
	if err != nil {
		t.Fatal(err)
	}
	return token, line + "\n"
}

func basic(user, password string) access.Credentials {
	return access.Credentials{
		Authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), Address: "192.0.2.1:1",
	}
}

func bearer(token string) access.Credentials {
	return access.Credentials{Authorization: "Bearer " + token, Address: "192.0.2.1:1"}
}

var nobody = access.Credentials{Address: "192.0.2.1:1"}

func in(repository string) access.Scope { return access.Scope{Host: host, Repository: repository} }

// want checks a decision: "" is allowed, else what the error is and says. A refusal of bad or of
// no credentials has a challenge, which clients answer.
func want(t *testing.T, o *access.Own, c access.Credentials, a access.Action, s access.Scope, subject, refused string) {
	t.Helper()
	got, err := o.Decide(context.Background(), c, a, s)
	if got != subject || (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
		t.Errorf("%s %s/%s: %q, %v; want %q, %q", a, s.Host, s.Repository, got, err, subject, refused)
	}
	challenge, ok := errors.AsType[*access.Challenge](err)
	if ok != errors.Is(err, access.ErrUnauthorized) || ok && (len(challenge.Header) != 1 || !strings.HasPrefix(challenge.Header[0], `Basic realm="`)) {
		t.Errorf("%s %s/%s: the challenge is %+v", a, s.Host, s.Repository, challenge)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	ci, ciLine := token(t, "ci", time.Time{})
	o := open(t, access.Settings{
		Htpasswd: write(t, line(t, "alice", "secret")+line(t, "bob", "secret")+line(t, "root", "secret")),
		Tokens:   write(t, ciLine),
		Grants: []access.Grant{
			{Who: []string{access.Anonymous}, Repositories: []string{host + "/public/**"}, Actions: []access.Action{access.Pull}},
			{Who: []string{"user:alice"}, Repositories: []string{"registry.svc:5000/prod/*"}, Actions: []access.Action{access.Pull, access.Push}},
			{Who: []string{"token:*"}, Repositories: []string{host + "/prod/**"}, Actions: []access.Action{access.Sign}},
			{Who: []string{"user:root"}, Repositories: []string{host + "/**"}, Actions: []access.Action{access.Admin, access.Withdraw}},
			{Who: []string{"**"}, Repositories: []string{"other.example.com/**"}, Actions: []access.Action{access.Push}},
		},
	}, newClock())
	alice, bob, root := basic("alice", "secret"), basic("bob", "secret"), basic("root", "secret")
	const may, login, denied = "", "authentication required", "not allowed"
	for _, test := range []struct {
		c       access.Credentials
		a       access.Action
		s       access.Scope
		subject string
		refused string
	}{
		{nobody, access.Pull, in("public/app"), access.Anonymous, may},
		{nobody, access.Pull, in("publican/app"), "", login},
		{nobody, access.Pull, in("public"), "", login}, // ** is one character or more
		{nobody, access.Pull, in("prod/app"), "", login},
		{nobody, access.Push, in("public/app"), "", login},
		{nobody, access.Pull, in(""), "", login}, // the ping: clients send their login only when asked
		{alice, access.Pull, in(""), "user:alice", may},
		{alice, access.Pull, in("public/app"), "user:alice", may},
		{alice, access.Pull, in("prod/app"), "user:alice", may},
		{alice, access.Push, in("prod/app"), "user:alice", may},
		{alice, access.Push, in("prod/app/deeper"), "user:alice", denied},
		{alice, access.Push, in("prod"), "user:alice", denied},
		{alice, access.Push, in("prod/../other"), "user:alice", denied},
		{alice, access.Push, in("prod/App"), "user:alice", denied},
		{alice, access.Push, in("public/app"), "user:alice", denied},
		{alice, access.Sign, in("prod/app"), "user:alice", denied}, // a pusher is not by that a signer
		{alice, access.Withdraw, in("prod/app"), "user:alice", denied},
		{alice, access.Admin, in(""), "user:alice", denied},
		{alice, access.Push, access.Scope{Host: "other.example.com", Repository: "a"}, "user:alice", may},
		{alice, access.Push, access.Scope{Host: "third.example.com", Repository: "prod/app"}, "user:alice", denied},
		{bob, access.Pull, in("prod/app"), "user:bob", denied},
		{bearer(ci), access.Sign, in("prod/a/b"), "token:ci", may},
		{basic("whoever", ci), access.Sign, in("prod/a/b"), "token:ci", may}, // as docker login sends it
		{basic("", ci), access.Sign, in("prod/a/b"), "token:ci", may},
		{bearer(ci), access.Push, in("prod/app"), "token:ci", denied},
		{bearer(ci), access.Sign, in("public/app"), "token:ci", denied},
		{root, access.Admin, in(""), "user:root", may},
		{root, access.Admin, in("prod/app"), "user:root", may},
		{root, access.Admin, access.Scope{Host: "other.example.com"}, "user:root", denied},
		{root, access.Push, in("prod/app"), "user:root", denied}, // nor does an admin push
		{basic("alice", "wrong"), access.Pull, in("public/app"), "", "wrong credentials"},
		{basic("mallory", "secret"), access.Pull, in(""), "", "wrong credentials"},
		{bearer("secret"), access.Pull, in(""), "", "wrong credentials"},
		{basic("", ""), access.Pull, in("public/app"), access.Anonymous, may}, // as clients without a login answer a challenge
		{basic("", ""), access.Push, in("public/app"), "", login},
		{basic("alice", ""), access.Pull, in("public/app"), "", "does not read"},
	} {
		want(t, o, test.c, test.a, test.s, test.subject, test.refused)
	}
}

// An anonymous pull is of everything, and the ping needs no login where nobody could.
func TestAnonymous(t *testing.T) {
	t.Parallel()
	o := open(t, access.Settings{Anonymous: "pull"}, newClock())
	want(t, o, nobody, access.Pull, in(""), access.Anonymous, "")
	want(t, o, nobody, access.Pull, in("any/app"), access.Anonymous, "")
	want(t, o, nobody, access.Push, in("any/app"), "", "log in to push")
	for _, s := range []access.Settings{{}, {Anonymous: "none"}} {
		o := open(t, s, newClock())
		want(t, o, nobody, access.Pull, in(""), "", "log in to pull")
		want(t, o, nobody, access.Pull, in("any/app"), "", "log in to pull")
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	c := newClock()
	short, shortLine := token(t, "short", c.time().Add(time.Hour))
	long, longLine := token(t, "long", time.Time{})
	o := open(t, access.Settings{Tokens: write(t, "# tokens\n\n"+shortLine+longLine)}, c)
	want(t, o, bearer(short), access.Pull, in(""), "token:short", "")
	c.pass(time.Hour)
	want(t, o, bearer(short), access.Pull, in(""), "", "the token has expired")
	want(t, o, bearer(long), access.Pull, in(""), "token:long", "")
	for _, other := range []string{long[1:], long + "x", strings.ToUpper(long), long[:len(long)-1]} {
		want(t, o, bearer(other), access.Pull, in(""), "", "wrong credentials")
	}
}

// What a client sends, or a proxy adds, beside the Authorization header is not even seen: of a
// request there are only these three.
func TestHeaders(t *testing.T) {
	t.Parallel()
	o := open(t, access.Settings{Htpasswd: write(t, line(t, "alice", "secret"))}, newClock())
	for header, refused := range map[string]string{
		"Basic YWxpY2U6c2VjcmV0":  "",
		"basic YWxpY2U6c2VjcmV0":  "",
		"Basic  YWxpY2U6c2VjcmV0": "",
		"Basic YWxpY2U6c2VjcmV0=": "does not read",
		"Basic YWxpY2U":           "does not read", // alice
		"Basic":                   "does not read",
		"Bearer ":                 "does not read",
		"Bearer":                  "does not read",
		"Negotiate YWxpY2U6c2Vjc": "does not read",
		"user:alice":              "does not read",
		"Basic " + strings.Repeat("YWxpY2U6c2VjcmV0", 4096):                                    "does not read",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("alice\nuser=root:secret")):        "does not read",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("alice\xff:secret")):               "does not read",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+strings.Repeat("x", 80))): "wrong credentials",
	} {
		subject := ""
		if refused == "" {
			subject = "user:alice"
		}
		want(t, o, access.Credentials{Authorization: header, Address: header}, access.Pull, in(""), subject, refused)
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	c := newClock()
	o := open(t, access.Settings{MTLS: []access.Certificate{
		{Name: "nodes", Organization: "nodes", DNS: "*.nodes.example.com"},
		{Name: "build", URI: "spiffe://example.com/ci/**"},
		{Name: "people", Email: "*@example.com"},
		{Name: "legacy", CommonName: "legacy-*"},
	}, Grants: []access.Grant{{Who: []string{"cert:nodes"}, Repositories: []string{"**"}, Actions: []access.Action{access.Pull}}}}, c)
	presented := func(change func(*x509.Certificate)) access.Credentials {
		certificate := &x509.Certificate{NotBefore: c.time().Add(-time.Hour), NotAfter: c.time().Add(time.Hour)}
		change(certificate)
		return access.Credentials{Certificate: certificate, Address: "192.0.2.1:1"}
	}
	node := presented(func(c *x509.Certificate) {
		c.Subject.Organization, c.DNSNames = []string{"nodes"}, []string{"x", "a.nodes.example.com"}
	})
	want(t, o, node, access.Pull, in("prod/app"), "cert:nodes", "")
	want(t, o, node, access.Push, in("prod/app"), "cert:nodes", "not allowed")
	want(t, o, presented(func(c *x509.Certificate) { c.DNSNames = []string{"a.nodes.example.com"} }), access.Pull, in("prod/app"), "", "log in")
	want(t, o, presented(func(c *x509.Certificate) { c.Subject.CommonName = "legacy-1" }), access.Pull, in(""), "cert:legacy", "")
	want(t, o, presented(func(c *x509.Certificate) { c.EmailAddresses = []string{"eve@example.com@evil.example"} }), access.Pull, in(""), "", "log in")
	// Who sends a login wants to be that, not what the connection is.
	both := node
	both.Authorization = bearer("not-a-token-that-there-is").Authorization
	want(t, o, both, access.Pull, in("prod/app"), "", "wrong credentials")
	c.pass(2 * time.Hour) // the connection is still open
	want(t, o, node, access.Pull, in("prod/app"), "", "not valid now")
}

// A mistake stops the start with what and where it is, and what to do.
func TestSettings(t *testing.T) {
	t.Parallel()
	grant := func(g access.Grant) access.Settings { return access.Settings{Grants: []access.Grant{g}} }
	everything, pull := []string{"**"}, []access.Action{access.Pull}
	issuer := func(change func(*access.Issuer)) access.Settings {
		i := access.Issuer{
			Name: "ci", Issuer: "https://issuer.example.com", Audience: "https://" + host,
			Identities: []access.Identity{{Claims: map[string]string{"sub": "acme"}}},
		}
		change(&i)
		return access.Settings{OIDC: []access.Issuer{i}}
	}
	for message, s := range map[string]access.Settings{
		"anonymous is \"push\"":        {Anonymous: "push"},
		"no such file":                 {Htpasswd: "/nowhere"},
		"is no regular file":           {Tokens: "/dev/null"},
		"line 1: it is not name:hash":  {Htpasswd: write(t, "alice")},
		"line 2: alice is there twice": {Htpasswd: write(t, line(t, "alice", "a")+line(t, "alice", "b"))},
		"not hashed by bcrypt":         {Htpasswd: write(t, "alice:$apr1$x$y")},
		"has cost 20":                  {Htpasswd: write(t, "alice:$2y$20$"+strings.Repeat("e", 53))},
		"line 1: it is not NAME":       {Tokens: write(t, "ci")},
		"64 hex digits":                {Tokens: write(t, "ci sha256:00")},
		"no RFC 3339 time":             {Tokens: write(t, "ci sha256:"+strings.Repeat("0", 64)+" tomorrow")},
		"grants[0]: it gives nothing":  grant(access.Grant{Who: everything}),
		"no action \"write\"":          grant(access.Grant{Who: everything, Repositories: everything, Actions: []access.Action{"write"}}),
		"anonymous more than pull":     grant(access.Grant{Who: []string{"anonymous"}, Repositories: everything, Actions: []access.Action{access.Push}}),
		"no file of such":              grant(access.Grant{Who: []string{"user:alice"}, Repositories: everything, Actions: pull}),
		"no issuer of that name":       grant(access.Grant{Who: []string{"oidc:ci:x"}, Repositories: everything, Actions: pull}),
		"no certificate of that name":  grant(access.Grant{Who: []string{"cert:x"}, Repositories: everything, Actions: pull}),
		"names nobody":                 grant(access.Grant{Who: []string{"alice"}, Repositories: everything, Actions: pull}),
		"does not begin with a host":   grant(access.Grant{Who: everything, Repositories: []string{"prod/**"}, Actions: pull}),
		"names a host only":            grant(access.Grant{Who: everything, Repositories: []string{host}, Actions: pull}),
		"has *** in it":                grant(access.Grant{Who: everything, Repositories: []string{host + "/***"}, Actions: pull}),
		"no https URL":                 issuer(func(i *access.Issuer) { i.Issuer = "http://issuer.example.com" }),
		"no audience":                  issuer(func(i *access.Issuer) { i.Audience = "" }),
		"algorithm \"HS256\"":          issuer(func(i *access.Issuer) { i.Algorithms = []string{"HS256"} }),
		"algorithm \"none\"":           issuer(func(i *access.Issuer) { i.Algorithms = []string{"none"} }),
		"no identities, and anybody's tokens would be taken": issuer(func(i *access.Issuer) { i.Identities = nil }),
		"identities[0] matches every token":                  issuer(func(i *access.Issuer) { i.Identities = []access.Identity{{Subject: "x"}} }),
		"session 48h0m0s":                                    issuer(func(i *access.Issuer) { i.Session = 48 * time.Hour }),
		"nodes matches every certificate":                    {MTLS: []access.Certificate{{Name: "nodes"}}},
		"\"a b\" is no name":                                 {MTLS: []access.Certificate{{Name: "a b", DNS: "x"}}},
		"writes: perSecond and burst are numbers":            {Writes: access.Rate{Second: -1}},
	} {
		if _, err := access.Open(s, options(newClock())); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%+v: %v, want %q", s, err, message)
		}
	}
	path := write(t, line(t, "alice", "secret"))
	for _, mode := range []os.FileMode{0o604, 0o620, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := access.Open(access.Settings{Htpasswd: path}, options(newClock())); err == nil || !strings.Contains(err.Error(), "hint: chmod") {
			t.Errorf("a htpasswd file with mode %o: %v", mode, err)
		}
	}
}

// No error holds what was sent.
func TestNothingSecret(t *testing.T) {
	t.Parallel()
	o := open(t, access.Settings{Htpasswd: write(t, line(t, "alice", "secret"))}, newClock())
	for _, c := range []access.Credentials{basic("alice", "hunter2"), bearer("hunter2"), {Authorization: "hunter2"}, {Authorization: "Digest hunter2"}} {
		if _, err := o.Decide(t.Context(), c, access.Pull, in("")); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := access.Open(access.Settings{Htpasswd: write(t, "hunter2")}, options(newClock())); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a file that does not read: %v", err)
	}
}
