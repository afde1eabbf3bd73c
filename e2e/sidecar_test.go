package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBesideDebian stands beside Debian's docker-registry, which wants user names and passwords:
// clients push, sign and pull through the server as through that registry, and nothing is configured.
func TestBesideDebian(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	s := trusting(t, "-registry", "http://"+debian(t))
	alice := s.as(basic("alice", "secret"))

	s.get(t, "/v2/").says(t, "X-Registry-Supports-Signatures", "1").says(t, "Www-Authenticate", `Basic realm="debian"`).want(t, 401)
	alice.get(t, "/v2/").says(t, "X-Registry-Supports-Signatures", "1").want(t, 200)

	i, reference := newImage("beside debian"), s.address+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret", "--sign-by", fingerprintOf(t, "alice")))
	alice.wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference, "--src-creds", "bob:secret"))
	fails(t, "unauthorized")(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
	fails(t, "unauthorized")(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference, "--src-creds", "bob:wrong"))

	testBesideRefusals(t, s, "ns/app", i.digest(), `Basic realm="debian"`)
	// A tag that is deleted is gone, and so is the manifest.
	alice.do(t, "DELETE", "/v2/ns/app/manifests/"+i.digest(), "").want(t, 202)
	alice.get(t, "/v2/ns/app/manifests/"+i.digest()).want(t, 404)
	alice.get(t, extension("ns/app", i.digest())).want(t, 200) // it is the registry's to say who may ask
}

// testBesideRefusals holds every door to what the registry lets in.
func testBesideRefusals(t *testing.T, s *server, repository, digest, challenge string) {
	t.Helper()
	for name, authorization := range map[string]string{"nobody": "", "a wrong password": basic("alice", "wrong"), "another scheme": "Negotiate x"} {
		who := s.as(authorization)
		entry := wire(t, entry{2, digest + "@0123456789abcdef0123456789abcdef", "atomic", sign(t, "alice", s.address+"/"+repository+":v9", digest)})
		for _, a := range []answer{
			who.get(t, extension(repository, digest)),
			who.do(t, "PUT", extension(repository, digest), entry),
			who.do(t, "POST", lookaside(repository, digest), "x"),
			who.get(t, "/api/v1/signatures?repository="+repository),
			who.do(t, "POST", "/api/v1/verify", fmt.Sprintf(`{"reference":%q}`, s.address+"/"+repository+"@"+digest)),
		} {
			a.refused(t, 401, "UNAUTHORIZED")
			if got := a.header.Get("Www-Authenticate"); !strings.HasPrefix(got, challenge) {
				t.Errorf("%s, %s: challenge %q, want the registry's, %s", name, a.asked, got, challenge)
			}
		}
		who.get(t, lookaside(repository, digest)+"/signature-1").refused(t, 404, "NAME_INVALID")
	}
	alice := s.as(basic("alice", "secret"))
	for _, a := range []answer{
		alice.get(t, "/api/v1/audit"), alice.get(t, "/api/v1/signatures"),
		alice.do(t, "POST", "/api/v1/withdrawals", fmt.Sprintf(`{"repository":%q,"digest":%q,"scope":"image","reason":"x"}`, repository, digest)),
	} {
		a.refused(t, 403, "DENIED")
	}
	// No header but Authorization makes anybody somebody.
	for _, header := range []string{"X-Forwarded-User: alice", "X-Remote-User: alice", "Forwarded: for=127.0.0.1;host=" + s.address, "X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1", "Proxy-Authorization: " + basic("alice", "secret"), "Cookie: user=alice"} {
		s.get(t, extension(repository, digest), header).refused(t, 401, "UNAUTHORIZED")
	}
}

// TestBesideTokens stands beside a registry that wants Bearer tokens.
func TestBesideTokens(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo")
	k := newTokenServer(t)
	s := trusting(t, "-config", config(t, fmt.Sprintf("registry: {url: 'http://%s', realms: ['%s']}\n", k.registry(t), k.address)))
	i, reference := newImage("beside tokens"), s.address+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret", "--sign-by", fingerprintOf(t, "alice")))
	s.as("Bearer "+k.token("alice", time.Minute, "repository:ns/app:pull")).wantSigned(t, "ns/app", i.digest(), "server "+reference, "alice "+reference)
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference, "--src-creds", "bob:secret"))
	fails(t, "denied")(newNode(t).copyTo(t, i.layout(t, "v1"), s.address+"/ns/app:v2", "--dest-creds", "bob:secret"))

	t.Run("curl", func(t *testing.T) { testBesideCurl(t, s, k, i) })
	t.Run("refused", func(t *testing.T) { testBesideTokenRefused(t, s, k, i) })
	t.Run("public", func(t *testing.T) { testBesidePublic(t, s, k) })
}

// testBesideCurl sends user names and passwords to a registry that wants tokens.
func testBesideCurl(t *testing.T, s *server, k *tokenServer, i image) {
	alice, bob := s.as(basic("alice", "secret")), s.as(basic("bob", "secret"))
	reference := s.address + "/ns/app:curl"
	alice.do(t, "POST", lookaside("ns/app", i.digest()), string(sign(t, "alice", reference, i.digest()))).want(t, 201)
	if !k.wasAsked("alice repository:ns/app:pull,push") {
		t.Errorf("tokens were asked for as %q, want one of alice for repository:ns/app:pull,push", k.asked)
	}
	bob.get(t, extension("ns/app", i.digest())).want(t, 200)
	if !k.wasAsked("bob repository:ns/app:pull") {
		t.Errorf("tokens were asked for as %q, want one of bob for repository:ns/app:pull", k.asked)
	}
	// What the server looks up for a caller it looks up as them.
	for _, who := range []*server{alice, bob, s.as("Bearer " + k.token("bob", time.Minute, "repository:ns/app:pull"))} {
		a := who.do(t, "POST", "/api/v1/verify", fmt.Sprintf(`{"reference":%q}`, s.address+"/ns/app:v1")).want(t, 200)
		if !strings.Contains(a.body, `"accepted":true`) {
			t.Errorf("v1 is not accepted: %s", a.body)
		}
	}
	bob.do(t, "POST", lookaside("ns/app", i.digest()), "x").refused(t, 403, "DENIED", "not allowed")
	bob.get(t, extension("private/app", i.digest())).refused(t, 403, "DENIED")
	s.as(basic("bob", "wrong")).get(t, extension("ns/app", i.digest())).refused(t, 401, "UNAUTHORIZED", "no token")
}

// testBesideTokenRefused sends what is no token for this.
func testBesideTokenRefused(t *testing.T, s *server, k *tokenServer, i image) {
	header := func(changes ...any) map[string]any {
		h := map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{k.chain}}
		for n := 0; n < len(changes); n += 2 {
			if h[changes[n].(string)] = changes[n+1]; changes[n+1] == nil {
				delete(h, changes[n].(string))
			}
		}
		return h
	}
	all := []map[string]any{{"type": "repository", "name": "ns/app", "actions": []string{"pull", "push"}}}
	claims := func(changes ...any) map[string]any {
		c := k.claims("alice", time.Minute, all)
		for n := 0; n < len(changes); n += 2 {
			c[changes[n].(string)] = changes[n+1]
		}
		return c
	}
	other := newTokenServer(t)
	good := k.issue(header(), claims())
	body := wire(t, entry{2, i.digest() + "@0123456789abcdef0123456789abcdef", "atomic", sign(t, "alice", s.address+"/ns/app:token", i.digest())})
	for name, token := range map[string]string{
		"expired":                       k.issue(header(), claims("exp", time.Now().Add(-2*time.Minute).Unix())),
		"not yet valid":                 k.issue(header(), claims("nbf", time.Now().Add(10*time.Minute).Unix())),
		"for another service":           k.issue(header(), claims("aud", "other")),
		"by another issuer":             k.issue(header(), claims("iss", "other")),
		"by a key nobody knows":         other.issue(header("x5c", []string{other.chain}), claims()),
		"by another key":                other.issue(header(), claims()),
		"of an unknown key id":          k.issue(header("x5c", nil, "kid", "unknown"), claims()),
		"without algorithm":             k.issue(header("alg", "none"), claims()),
		"without algorithm or key":      k.issue(header("alg", "none", "x5c", nil), claims()),
		"for another repository":        k.token("alice", time.Minute, "repository:ns/other:pull,push"),
		"for a longer name":             k.token("alice", time.Minute, "repository:ns/app/more:pull,push"),
		"for nothing":                   k.token("alice", time.Minute),
		"with another's signature":      good[:strings.LastIndex(good, ".")] + k.token("bob", time.Minute)[strings.LastIndex(k.token("bob", time.Minute), "."):],
		"of spaces":                     "a b",
		"of nothing":                    "",
		"that is a user's and password": strings.TrimPrefix(basic("alice", "secret"), "Basic "),
	} {
		who := s.as("Bearer " + token)
		for _, a := range []answer{who.get(t, extension("ns/app", i.digest())), who.do(t, "PUT", extension("ns/app", i.digest()), body)} {
			a.refused(t, 401, "UNAUTHORIZED")
			if got := a.header.Get("Www-Authenticate"); !strings.HasPrefix(got, `Bearer realm="http://`+k.address+`/token",service="reg",scope="repository:ns/app:p`) {
				t.Errorf("a token %s, %s: challenge %q, want the registry's", name, a.asked, got)
			}
		}
	}
	// Who may only pull, and writes: the challenge says what is lacking.
	bob := s.as("Bearer " + k.token("bob", time.Minute, "repository:ns/app:pull,push"))
	bob.get(t, extension("ns/app", i.digest())).want(t, 200)
	a := bob.do(t, "PUT", extension("ns/app", i.digest()), body)
	a.refused(t, 401, "UNAUTHORIZED")
	if got := a.header.Get("Www-Authenticate"); !strings.Contains(got, `scope="repository:ns/app:pull,push"`) && !strings.Contains(got, `scope="repository:ns/app:push,pull"`) {
		t.Errorf("bob, who may pull, writes: challenge %q, want the scope that is lacking", got)
	}
	s.as("Bearer "+good).do(t, "PUT", extension("ns/app", i.digest()), body).want(t, 201)
}

// testBesidePublic lets everybody pull what the registry lets everybody pull. An anonymous client
// of such a registry has a token, too.
func testBesidePublic(t *testing.T, s *server, k *tokenServer) {
	i, reference := newImage("public"), s.address+"/public/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret"))
	works(t)(newNode(t).require(t, s.address, s.serverKey()).pull(t, reference))
	fails(t, "denied")(newNode(t).copyTo(t, i.layout(t, "v1"), s.address+"/public/app:v2"))
}
