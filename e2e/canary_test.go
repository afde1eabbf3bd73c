package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// canaries are secrets by what they are for, each a word that is nowhere else.
type canaries map[string]string

// leaks returns which of them a text has: as they are, in hexadecimal, in base64 wherever in what was
// encoded they stand, or quoted as a URL does.
func (c canaries) leaks(text string) (found []string) {
	lower, standard := strings.ToLower(text), strings.NewReplacer("-", "+", "_", "/").Replace(text)
	for name, value := range c {
		var forms []string
		for before := range 3 {
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + value))
			// Its ends depend on what stands beside it.
			forms = append(forms, encoded[(before*8+5)/6:len(encoded)-1])
		}
		if strings.Contains(text, value) || strings.Contains(text, strings.ReplaceAll(value, "/", "%2F")) ||
			strings.Contains(lower, hex.EncodeToString([]byte(value))) ||
			slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(standard, form) }) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// TestCanariesAreFound holds the search to what it is for.
func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	c := canaries{"one": "canary/one/0123456789", "two": "canary-two-9876543210"}
	for name, text := range map[string]string{
		"as it is": "x canary/one/0123456789 y", "in JSON": `{"a":"canary/one/0123456789"}`, "in a URL": "postgres://u:canary%2Fone%2F0123456789@h",
		"in hex": "0xff" + hex.EncodeToString([]byte(c["one"])), "in HEX": strings.ToUpper(hex.EncodeToString([]byte(c["one"]))),
		"a login": basic("u", c["one"]), "a login of another length": basic("us", c["one"]), "and another": basic("use", c["one"]) + "=",
		"URL-safe": base64.URLEncoding.EncodeToString([]byte("user:" + c["one"] + "\n")),
	} {
		if found := c.leaks(text); !slices.Equal(found, []string{"one"}) {
			t.Errorf("%s: %q has canary one, and %v were found", name, text, found)
		}
	}
	if found := c.leaks("canary/one/012345678 canary-two-"); len(found) != 0 {
		t.Errorf("found %v, where there is none", found)
	}
}

// A cage is everything a server can be told in secret.
type cage struct {
	dir, settings string
	secrets       canaries
	certificates  *authority
	registry      string
}

// line returns the middle line of a file in PEM or armor, which is nothing but its content.
func line64(t testing.TB, file string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(read(t, file)), "\n")
	middle := lines[len(lines)/2]
	if len(middle) < 60 {
		t.Fatalf("%s has no whole line in its middle: %q", file, middle)
	}
	return middle
}

func (c *cage) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	writeSecret(t, path, content)
	return path
}

func newCage(t testing.TB) *cage {
	t.Helper()
	c := &cage{dir: t.TempDir(), certificates: newAuthority(t), secrets: canaries{}}
	for _, name := range []string{"database", "direct", "passphrase", "registry", "notifications", "password", "wrong"} {
		c.secrets[name] = fmt.Sprintf("canary-%s-%d", name, time.Now().UnixNano())
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(c.secrets["password"]), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	c.secrets["hash"] = string(hash)
	htpasswd := c.write(t, "htpasswd", "alice:"+string(hash)+"\n")
	token, err := command(t.Context(), "token", "-file", filepath.Join(c.dir, "tokens"), "-days", "1", "ci").Output()
	if err != nil {
		t.Fatal(err)
	}
	c.secrets["token"] = strings.TrimSpace(string(token))
	pass := c.write(t, "pass", c.secrets["passphrase"]+"\n")
	runs(t, "keys", "generate", "-passphrase-file", pass, filepath.Join(c.dir, "release.key"))
	c.secrets["signing key"] = line64(t, filepath.Join(c.dir, "release.key"))
	c.certificates.server(t, 5, filepath.Join(c.dir, "tls.crt"), filepath.Join(c.dir, "tls.key"))
	c.secrets["TLS key"] = strings.Split(read(t, filepath.Join(c.dir, "tls.key")), "\n")[1]

	c.registry = distribution(t, fmt.Sprintf("auth: {htpasswd: {realm: cage, path: %s}}\n", htpasswd))
	c.write(t, "auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, c.registry, strings.TrimPrefix(basic("robot", c.secrets["registry"]), "Basic ")))
	c.write(t, "notifications", c.secrets["notifications"]+"\n")
	c.settings = fmt.Sprintf(`
hosts: [registry.example.test]
logLevel: debug
registry: {url: 'http://%[2]s', authFile: %[1]s/auth.json, notifications: %[1]s/notifications}
store: {databaseFile: %[1]s/database, directURLFile: %[1]s/direct, stale: 0s, timeout: 500ms}
tls: {certificate: %[1]s/tls.crt, key: %[1]s/tls.key}
signing:
  keys: {planted-key: {file: %[1]s/release.key, passphraseFile: %[1]s/pass}}
  rules: [{scope: '', key: planted-key, on: [push, upload, request]}]
access:
  htpasswd: %[1]s/htpasswd
  tokens: %[1]s/tokens
  grants: [{who: ["user:alice", "token:ci"], repositories: ["**"], actions: [pull, push, sign, withdraw, admin]}]
`, c.dir, c.registry)
	return c
}

// A caller asks a server over TLS, and keeps what it was answered.
type caller struct {
	client  *http.Client
	base    string
	answers bytes.Buffer
}

func (c *caller) ask(t testing.TB, method, path, body, authorization string) (status int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	a, err := c.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&c.answers, "%s %s: %s %v %s\n", method, path, a.Status, a.Header, text)
	return a.StatusCode
}

// everywhere asks for all there is, as everybody, with every secret that somebody could send.
func (c *caller) everywhere(t testing.TB, secrets canaries) {
	t.Helper()
	digest := newImage("caged").digest()
	for _, authorization := range []string{
		"", basic("alice", secrets["password"]), basic("alice", secrets["wrong"]), "Bearer " + secrets["token"], "Bearer " + secrets["wrong"],
		"Bearer " + secrets["notifications"], "Negotiate " + secrets["wrong"], "Basic " + secrets["wrong"],
	} {
		for _, path := range []string{
			"/v2/", "/v2/_catalog", "/v2/planted/app/manifests/v1", extension("planted/app", digest), lookaside("planted/app", digest) + "/signature-1",
			"/api", "/api/v1", "/api/v1/keys", "/api/v1/node-config", "/api/v1/signatures", "/api/v1/withdrawals", "/api/v1/audit", "/api/v1/calendar",
			"/api/v1/export", "/api/v1/repositories", "/api/v1/queue", "/api/v1/tags?repository=planted/app", "/api/v1/coverage?repository=planted/app",
		} {
			c.ask(t, "GET", path, "", authorization)
		}
		c.ask(t, "PUT", extension("planted/app", digest), "no JSON", authorization)
		c.ask(t, "POST", "/v2/planted/app/blobs/uploads/", "", authorization)
		for _, post := range []string{"sign", "verify", "withdrawals", "import", "resign", "notifications"} {
			c.ask(t, "POST", "/api/v1/"+post, `{"reference":"registry.example.test/planted/app:v1","events":[{"action":"push","target":{"repository":"planted/app","tag":"v1","digest":"`+digest+`"}}]}`, authorization)
		}
	}
}

// TestCanaries gives a server secrets in every place that has some, sends it others, takes away what it
// stands on, breaks its files and kills it; and then looks for them in its log, metrics, help, answers
// and in what it says as it crashes. In each of these something that belongs there is found the same way.
func TestCanaries(t *testing.T) {
	t.Parallel()
	c, d := newCage(t), newDatabase(t)
	url := func(password string) string {
		return fmt.Sprintf("postgres://postgres:%s@/postgres?host=%s&sslmode=disable", password, d.Socket())
	}
	c.write(t, "database", url(c.secrets["database"])+"\n")
	c.write(t, "direct", url(c.secrets["direct"])+"\n")
	s := start(t, "-config", config(t, c.settings))
	client := &caller{base: "https://" + s.address, client: &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}}
	if status := client.ask(t, "GET", "/api/v1/audit", "", basic("alice", c.secrets["password"])); status != 200 {
		t.Fatalf("alice is answered %d, want 200: nothing behind her login would be looked at", status)
	}
	client.everywhere(t, c.secrets)

	// What does not read any more, with the secret in it; and nobody there who is asked.
	for name, content := range map[string]string{
		"htpasswd": "alice:" + c.secrets["password"] + "\n", "tokens": "ci " + c.secrets["token"] + "\n", "auth.json": `{"auths":{"x":{"auth":"` + c.secrets["registry"] + `"}}`,
		"notifications": c.secrets["notifications"][:10], "pass": c.secrets["wrong"], "release.key": c.secrets["signing key"], "tls.key": c.secrets["TLS key"],
	} {
		c.write(t, name, content)
	}
	if err := s.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says that the files do not read", func() bool { return strings.Count(s.stderr.String(), "do not read") >= 3 })
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	client.ask(t, "GET", extension("planted/app", newImage("caged").digest()), "", "Bearer "+c.secrets["token"])
	client.ask(t, "POST", "/api/v1/sign", `{"reference":"registry.example.test/planted/app:v1"}`, "Bearer "+c.secrets["token"])
	metrics := ask(t, s.debug, "GET", "/metrics", "").body + ask(t, s.debug, "GET", "/readyz", "").body + ask(t, s.debug, "GET", "/healthz", "").body

	log := s.tells(t, "/v2/planted/app/manifests/v1", "the database is away")
	for sink, looked := range map[string]struct{ text, belongs string }{
		"log": {log, "/v2/planted/app/manifests/v1"}, "log, of a database that is away": {log, "the database is away"},
		"metrics": {metrics, `key="planted-key"`}, "answers": {client.answers.String(), "/v2/planted/app/manifests/v1"},
		"errors": {client.answers.String(), `"code":"UNAUTHORIZED"`}, "/api": {client.answers.String(), "-----BEGIN PGP PUBLIC KEY BLOCK-----"},
		"crash": {s.crash(t, syscall.SIGQUIT), "SIGQUIT: quit"}, "help": {helps(t, c.secrets), "-database-url"},
	} {
		if len(canaries{"": looked.belongs}.leaks(looked.text)) == 0 {
			t.Errorf("%s: the search does not find %q, which belongs there, in\n%s", sink, looked.belongs, tail(looked.text, 3000))
		}
		for _, name := range c.secrets.leaks(looked.text) {
			t.Errorf("%s: it tells the secret of %s", sink, name)
		}
	}
}

// crash has a server end with what the runtime tells of it, in the middle of a request, and returns that.
// Nothing of its memory is left in a file.
func (s *server) crash(t testing.TB, signal syscall.Signal) string {
	t.Helper()
	limits := read(t, fmt.Sprintf("/proc/%d/limits", s.command.Process.Pid))
	if !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("it would leave a core dump:\n%s", limits)
	}
	before := len(s.stderr.String())
	if err := s.command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	s.ended(t, 2)
	told := s.stderr.String()[before:]
	if !strings.Contains(told, "goroutine ") || !strings.Contains(told, "main.serve") {
		t.Errorf("the dump has no stack of ours:\n%s", tail(told, 2000))
	}
	for _, directory := range []string{s.data, "."} {
		if found, err := filepath.Glob(filepath.Join(directory, "core*")); err != nil || len(found) > 0 {
			t.Errorf("%v, %v: a core dump", found, err)
		}
	}
	s.stderr = newOutput() // that it crashed was wanted: finish need not mind
	return told
}

// helps is what every command says of itself, with secrets in its environment.
func helps(t testing.TB, secrets canaries) string {
	t.Helper()
	var all bytes.Buffer
	out, err := command(t.Context(), "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`).FindAllStringSubmatch(string(out), -1) {
		h := command(t.Context(), m[1], "-h")
		h.Env = append(h.Env, "COUNTERSIGN_DATABASE_URL=postgres://u:"+secrets["database"]+"@h/x", "COUNTERSIGN_PASSWORD="+secrets["password"], "COUNTERSIGN_TOKEN="+secrets["token"])
		text, err := h.CombinedOutput()
		if err != nil && m[1] != "version" {
			t.Errorf("%s -h: %v", m[1], err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestCanariesOfRefusedStarts writes secrets where settings have none, or not that way: the sentence
// that stops the start tells none of them.
func TestCanariesOfRefusedStarts(t *testing.T) {
	t.Parallel()
	secrets := canaries{"it": "canary-misplaced-0123456789"}
	secret, dir := secrets["it"], t.TempDir()
	file := filepath.Join(dir, "secret")
	writeSecret(t, file, secret+"\n")
	for name, test := range map[string]struct{ settings, says string }{
		"store as a URL":       {"store: 'postgres://u:" + secret + "@h/x'\n", "store"},
		"database as a list":   {"store: {database: ['postgres://u:" + secret + "@h/x']}\n", "line 1"},
		"no such field":        {"store: {databse: 'postgres://u:" + secret + "@h/x'}\n", "databse"},
		"no such database URL": {"store: {database: 'postgres://u:" + secret + "%zz@h/x'}\n", "store.database"},
		"direct URL":           {"store: {database: 'postgres://u@h/x', directURL: 'postgres://u:" + secret + "%zz@h/x'}\n", "store.directURL"},
		"registry as a URL":    {"registry: 'http://u:" + secret + "@h'\n", "registry"},
		"login of a registry":  {"registry: {url: 'http://u:" + secret + "@h'}\n", "registry.url"},
		"login of a lookaside": {"lookasides: [{host: h.example.test, url: 'http://u:" + secret + "@h/'}]\n", "lookasides"},
		"login of ours":        {"url: 'https://u:" + secret + "@h/'\n", "url"},
		"authFile":             {"registry: {url: 'http://h', authFile: " + file + "}\n", "registry.authFile"},
		"passphrase as a key":  {"signing: {keys: {a: {file: " + file + "}}}\n", "signing.keys.a"},
		"TLS":                  {"tls: {certificate: " + file + ", key: " + file + "}\n", "tls"},
		"htpasswd":             {"access: {htpasswd: " + file + ", grants: []}\n", "line 1"},
		"tokens":               {"access: {tokens: " + file + ", grants: []}\n", "line 1"},
		"policy":               {"admission: {policy: " + file + "}\n", file},
	} {
		out := refusal(t, "serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-debug-listen", "127.0.0.1:0", "-config", config(t, test.settings))
		if !strings.Contains(out, test.says) {
			t.Errorf("%s: want a word on %q: %s", name, test.says, out)
		}
		if len(secrets.leaks(out)) > 0 {
			t.Errorf("%s: it tells the secret: %s", name, out)
		}
	}
}

// TestCanariesOfPanics kills a server with the embedded registry and a key of its own by SIGABRT, as the
// runtime ends itself, while a login is being read.
func TestCanariesOfPanics(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, "", "-log-level", "debug")
	secrets := canaries{"password": password, "token": g.token}
	reading, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	if _, err := fmt.Fprintf(reading, "POST /v2/ HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n", g.address, basic("alice", password)); err != nil {
		t.Fatal(err)
	}
	g.as(basic("alice", password)).push(t, newImage("before a crash"), "acme/app", "v1")
	secrets["signing key"] = line64(t, filepath.Join(g.data, "keys", "server.key"))
	secrets["uploads"] = read(t, filepath.Join(g.data, "registry", "secret"))
	g.as("Bearer "+g.token).get(t, "/v2/acme/none/manifests/v1").want(t, 404)
	g.as(basic("alice", password+"?")).get(t, "/v2/acme/none/manifests/v1").want(t, 401)
	log := g.tells(t, `"level":"DEBUG"`, "/v2/acme/none/manifests/v1")
	told := log + g.crash(t, syscall.SIGABRT)
	for _, belongs := range []string{"SIGABRT: abort", `"level":"DEBUG"`, "/v2/acme/none/manifests/v1"} {
		if len(canaries{"": belongs}.leaks(told)) == 0 {
			t.Errorf("the search does not find %q, which belongs into log or dump:\n%s", belongs, tail(told, 2000))
		}
	}
	for _, name := range secrets.leaks(told) {
		t.Errorf("log or dump tell the secret of %s", name)
	}
}
