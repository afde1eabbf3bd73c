package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/countersign-dev/countersign/server/access"
)

// A provider issues tokens as CI services do.
type provider struct {
	*httptest.Server
	ca    string // file
	asked atomic.Int64

	mu        sync.Mutex
	keys      jose.JSONWebKeySet
	key       any
	discovery func(http.ResponseWriter, *http.Request) // in place of the honest one
	jwks      func(http.ResponseWriter, *http.Request)
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		p.answer(w, r, p.discovery, map[string]string{"issuer": p.URL, "jwks_uri": p.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) { p.answer(w, r, p.jwks, p.keys) })
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	p.ca = write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
	p.rotate(t, "one")
	return p
}

func (p *provider) answer(w http.ResponseWriter, r *http.Request, other func(http.ResponseWriter, *http.Request), honest any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other != nil {
		other(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(honest)
}

// rotate makes a new key, beside shared secrets and keys that are for something else.
func (p *provider) rotate(t *testing.T, id string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key = jose.JSONWebKey{Key: key, KeyID: id}
	p.keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: []byte("a secret that everybody can read"), KeyID: "secret", Algorithm: "HS256"},
		{Key: &key.PublicKey, KeyID: "encryption", Use: "enc"},
		{Key: &key.PublicKey, KeyID: id, Algorithm: "ES256", Use: "sig"},
	}}
}

// claims of a good token; change says what is not.
func (p *provider) claims(c *clock, change map[string]any) map[string]any {
	claims := map[string]any{
		"iss": p.URL, "aud": []string{"https://" + host}, "sub": "repo:acme/app:ref:refs/heads/main", "exp": c.time().Add(5 * time.Minute).Unix(),
		"repository": "acme/app", "ref": "refs/heads/main", "run": 7,
	}
	for name, value := range change {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (p *provider) token(t *testing.T, c *clock, change map[string]any) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	return sign(t, jose.ES256, p.key, p.claims(c, change))
}

func (p *provider) open(t *testing.T, c *clock, change func(*access.Issuer)) *access.Own {
	t.Helper()
	i := access.Issuer{Name: "ci", Issuer: p.URL, Audience: "https://" + host, CA: p.ca, Identities: []access.Identity{{Claims: map[string]string{"sub": "**"}}}}
	if change != nil {
		change(&i)
	}
	return open(t, access.Settings{OIDC: []access.Issuer{i}, Grants: []access.Grant{{
		Who: []string{"oidc:ci:repo:acme/*:ref:refs/heads/main", "oidc:ci:releases"}, Repositories: []string{host + "/acme/**"},
		Actions: []access.Action{access.Pull, access.Push},
	}}}, c)
}

const main = "oidc:ci:repo:acme/app:ref:refs/heads/main"

func TestOIDC(t *testing.T) {
	t.Parallel()
	c, p := newClock(), newProvider(t)
	o := p.open(t, c, nil)
	good := p.token(t, c, nil)
	want(t, o, bearer(good), access.Push, in("acme/app"), main, "")
	want(t, o, basic("whoever", good), access.Push, in("acme/app"), main, "") // as a docker password
	want(t, o, bearer(good), access.Push, in("other/app"), main, "not allowed")
	want(t, o, bearer(good), access.Sign, in("acme/app"), main, "not allowed")
	branch := p.token(t, c, map[string]any{"sub": "repo:acme/app:ref:refs/heads/evil"})
	want(t, o, bearer(branch), access.Push, in("acme/app"), "oidc:ci:repo:acme/app:ref:refs/heads/evil", "not allowed")

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	payload, _ := json.Marshal(p.claims(c, nil))
	parts := strings.Split(good, ".")
	public, _ := json.Marshal(p.keys.Keys[2].Key)
	hmacOf := sign(t, jose.HS256, []byte("a secret that everybody can read"), p.claims(c, nil))
	for what, test := range map[string]struct{ token, refused string }{
		"alg none":           {part(`{"alg":"none"}`) + "." + part(string(payload)) + ".", "not signed by one of"},
		"alg None, signed":   {part(`{"alg":"None","kid":"one"}`) + "." + parts[1] + "." + parts[2], "not signed by one of"},
		"HMAC, their own":    {hmacOf, "not signed by one of"},
		"HMAC, public key":   {sign(t, jose.HS256, append(public, make([]byte, 32)...), p.claims(c, nil)), "not signed by one of"},
		"not listed":         {sign(t, jose.PS256, rsaKey, p.claims(c, nil)), "is not signed by one of [RS256 ES256]"},
		"unknown key id":     {sign(t, jose.RS256, jose.JSONWebKey{Key: rsaKey, KeyID: "two"}, p.claims(c, nil)), "not signed by a key of " + p.URL},
		"another's key":      {sign(t, jose.RS256, jose.JSONWebKey{Key: rsaKey, KeyID: "one"}, p.claims(c, nil)), "not signed by a key of"},
		"encryption key":     {sign(t, jose.ES256, jose.JSONWebKey{Key: p.key.(jose.JSONWebKey).Key, KeyID: "encryption"}, p.claims(c, nil)), "not signed by a key of"},
		"other payload":      {parts[0] + "." + part(string(payload)) + "." + parts[2][:len(parts[2])-4] + "AAAA", "not signed by a key of"},
		"wrong audience":     {p.token(t, c, map[string]any{"aud": "https://other.example.com"}), `another audience than "https://registry.example.com"`},
		"no audience":        {p.token(t, c, map[string]any{"aud": nil}), "another audience"},
		"expired":            {p.token(t, c, map[string]any{"exp": c.time().Add(-time.Minute).Unix()}), "the token has expired"},
		"never expires":      {p.token(t, c, map[string]any{"exp": nil}), "never expires"},
		"not yet":            {p.token(t, c, map[string]any{"nbf": c.time().Add(time.Hour).Unix()}), "not valid"},
		"another issuer":     {p.token(t, c, map[string]any{"iss": "https://evil.example.com"}), "no issuer that is known here"},
		"no subject":         {p.token(t, c, map[string]any{"sub": nil}), "match no identity"},
		"subject of lines":   {p.token(t, c, map[string]any{"sub": "a\nb"}), "match no identity"},
		"no signature":       {parts[0] + "." + parts[1] + ".", "not signed by"},
		"too long":           {p.token(t, c, map[string]any{"x": strings.Repeat("x", 20<<10)}), "does not read"},
		"several signatures": {"ey.{}.{}", "does not read"},
	} {
		credentials := bearer(test.token)
		credentials.Address = fmt.Sprintf("198.51.100.%d:1", len(what))
		if _, err := o.Decide(t.Context(), credentials, access.Push, in("acme/app")); err == nil || !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%s: %v, want %q", what, err, test.refused)
		}
		want(t, o, credentials, access.Push, in("acme/app"), "", test.refused)
	}
	c.pass(6 * time.Minute)
	want(t, o, bearer(good), access.Push, in("acme/app"), "", "the token has expired")
}

// Claims name identities; the first whose claims all match counts.
func TestIdentities(t *testing.T) {
	t.Parallel()
	c, p := newClock(), newProvider(t)
	o := p.open(t, c, func(i *access.Issuer) {
		i.Identities = []access.Identity{
			{Subject: "releases", Claims: map[string]string{"repository": "acme/*", "ref": "refs/heads/main", "run": "7"}},
			{Subject: "groups", Claims: map[string]string{"groups": "deploy"}},
		}
	})
	want(t, o, bearer(p.token(t, c, nil)), access.Push, in("acme/app"), "oidc:ci:releases", "")
	for _, change := range []map[string]any{
		{"ref": "refs/heads/evil"}, {"repository": "acme/app/x"}, {"repository": nil}, {"run": 77}, {"run": map[string]any{"x": 7}},
		{"groups": []any{"x", []any{"deploy"}}, "ref": nil}, {"groups": map[string]any{"deploy": 1}, "ref": nil},
	} {
		want(t, o, bearer(p.token(t, c, change)), access.Push, in("acme/app"), "", "match no identity of ci")
	}
	grouped := bearer(p.token(t, c, map[string]any{"ref": nil, "groups": []string{"x", "deploy"}}))
	want(t, o, grouped, access.Push, in("acme/app"), "oidc:ci:groups", "not allowed")
}

// A session ends a push with the token that it began with, and no other.
func TestSession(t *testing.T) {
	t.Parallel()
	c, p := newClock(), newProvider(t)
	o := p.open(t, c, func(i *access.Issuer) { i.Session = time.Hour })
	used, other := bearer(p.token(t, c, nil)), bearer(p.token(t, c, map[string]any{"run": 8}))
	want(t, o, used, access.Push, in("acme/app"), main, "")
	c.pass(30 * time.Minute)
	want(t, o, used, access.Push, in("acme/app"), main, "")
	want(t, o, other, access.Push, in("acme/app"), "", "the token has expired")
	c.pass(40 * time.Minute)
	want(t, o, used, access.Push, in("acme/app"), "", "the token has expired")
}

// What is known of an issuer outlasts other settings, and not its own.
func TestGoOn(t *testing.T) {
	t.Parallel()
	c, p := newClock(), newProvider(t)
	session := func(i *access.Issuer) { i.Session = time.Hour }
	before := p.open(t, c, session)
	used, fresh := bearer(p.token(t, c, nil)), bearer(p.token(t, c, map[string]any{"exp": c.time().Add(time.Hour).Unix()}))
	want(t, before, used, access.Push, in("acme/app"), main, "")
	p.discovery = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	c.pass(10 * time.Minute)
	next := func(change func(*access.Issuer)) *access.Own {
		o := p.open(t, c, func(i *access.Issuer) {
			session(i)
			change(i)
		})
		o.GoOn(before)
		return o
	}
	o := next(func(*access.Issuer) {})
	want(t, o, used, access.Push, in("acme/app"), main, "") // it has expired, and its session lasts
	want(t, o, fresh, access.Push, in("acme/app"), main, "")
	for _, other := range []struct {
		what   string
		change func(*access.Issuer)
	}{
		{"session", func(i *access.Issuer) { i.Session++ }},
		{"audience", func(i *access.Issuer) { i.Audience += "/" }},
		{"algorithms", func(i *access.Issuer) { i.Algorithms = []string{"ES256"} }},
		{"identities", func(i *access.Issuer) { i.Identities[0].Subject = "somebody" }},
		{"file of authorities", func(i *access.Issuer) { i.CA = write(t, read(t, p.ca)) }},
		{"content of that file", func(*access.Issuer) { rewrite(t, p.ca, read(t, p.ca)+"\n") }}, // the last: it stays so
	} {
		o := next(other.change)
		for what, token := range map[string]access.Credentials{"used": used, "new": fresh} {
			if subject, err := o.Decide(t.Context(), token, access.Push, in("acme/app")); !errors.Is(err, access.ErrUnavailable) {
				t.Errorf("another %s, a token that is %s: %q, %v, want %v: nothing is known of this issuer", other.what, what, subject, err, access.ErrUnavailable)
			}
		}
	}
}

// A new key is fetched when a token has it, a key that is gone ends within the hour, and key ids
// that nobody has do not make the server ask again and again.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	c, p := newClock(), newProvider(t)
	o := p.open(t, c, nil)
	first := p.token(t, c, map[string]any{"exp": c.time().Add(48 * time.Hour).Unix()})
	want(t, o, bearer(first), access.Push, in("acme/app"), main, "")
	p.rotate(t, "two")
	second := p.token(t, c, map[string]any{"exp": c.time().Add(48 * time.Hour).Unix()})
	want(t, o, bearer(second), access.Push, in("acme/app"), "", "not signed by a key of") // asked a moment ago
	c.pass(11 * time.Second)
	want(t, o, bearer(second), access.Push, in("acme/app"), main, "")
	want(t, o, bearer(first), access.Push, in("acme/app"), "", "not signed by a key of")

	asked := p.asked.Load()
	for n := range 200 {
		forged := sign(t, jose.ES256, jose.JSONWebKey{Key: p.key.(jose.JSONWebKey).Key, KeyID: fmt.Sprint(n)}, p.claims(c, nil))
		credentials := bearer(forged)
		credentials.Address = fmt.Sprintf("192.0.2.%d:1", n)
		if _, err := o.Decide(t.Context(), credentials, access.Push, in("acme/app")); err == nil {
			t.Fatal("it was let in")
		}
	}
	if more := p.asked.Load() - asked; more > 1 {
		t.Errorf("200 unknown key ids made %d requests to the issuer", more)
	}

	// While the issuer is away its keys are good for a day.
	p.discovery = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	c.pass(20 * time.Hour)
	want(t, o, bearer(second), access.Push, in("acme/app"), main, "")
	c.pass(5 * time.Hour)
	want(t, o, bearer(second), access.Push, in("acme/app"), "", "cannot decide now")
}

// A hostile or broken issuer costs a bounded time and memory, and lets nobody in.
func TestHostileIssuer(t *testing.T) {
	t.Parallel()
	document := func(format string, a ...any) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, format, a...) }
	}
	huge := func(w http.ResponseWriter, _ *http.Request) {
		for n := 0; n < 64; n++ {
			if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
				return
			}
		}
		fmt.Fprint(w, "{}")
	}
	slow := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for what, hostile := range map[string]struct {
		discovery, jwks func(http.ResponseWriter, *http.Request)
	}{
		"another issuer":  {document(`{"issuer":"https://evil.example.com","jwks_uri":"https://127.0.0.1:1"}`), nil},
		"keys over plain": {document(`{"issuer":"ISSUER","jwks_uri":"http://127.0.0.1:1"}`), nil},
		"keys in a file":  {document(`{"issuer":"ISSUER","jwks_uri":"file:///etc/passwd"}`), nil},
		"no JSON":         {document("<html>"), nil},
		"huge":            {huge, nil},
		"huge keys":       {nil, huge},
		"many keys":       {nil, document(`{"keys":[%s{}]}`, strings.Repeat("{},", 1000))},
		"no keys":         {nil, document(`{"keys":[]}`)},
		"secrets only":    {nil, document(`{"keys":[{"kty":"oct","k":"YQ","kid":"one"}]}`)},
		"slow":            {slow, nil},
		"slow keys":       {nil, slow},
		"redirected to plain": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1", http.StatusFound)
		}, nil},
		"redirected for ever": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, p := newClock(), newProvider(t)
			p.discovery, p.jwks = hostile.discovery, hostile.jwks
			if what == "keys over plain" || what == "keys in a file" {
				p.discovery = func(w http.ResponseWriter, r *http.Request) {
					body := httptest.NewRecorder()
					hostile.discovery(body, r)
					fmt.Fprint(w, strings.Replace(body.Body.String(), "ISSUER", p.URL, 1))
				}
			}
			o := p.open(t, c, nil)
			want(t, o, bearer(p.token(t, c, nil)), access.Push, in("acme/app"), "", "cannot decide now")
		})
	}
}
