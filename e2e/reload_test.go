package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A volume is a directory as Kubernetes mounts secrets and ConfigMaps: names that lead through ..data,
// a link that is exchanged when the content changes.
type volume struct {
	dir      string
	versions int
	files    map[string]string
}

func newVolume(t testing.TB, files map[string]string) *volume {
	t.Helper()
	v := &volume{dir: t.TempDir(), files: map[string]string{}}
	for name, content := range files {
		v.files[name] = content
		if err := os.Symlink(filepath.Join("..data", name), v.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	v.swap(t, nil)
	return v
}

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

// swap exchanges all at once: these have another content from now on. All have the same time of change,
// as an image or git could give them.
func (v *volume) swap(t testing.TB, changed map[string]string) {
	t.Helper()
	for name, content := range changed {
		if _, ok := v.files[name]; !ok {
			t.Fatalf("%s is not in the volume", name)
		}
		v.files[name] = content
	}
	v.versions++
	next := fmt.Sprintf("..2026_%d", v.versions)
	before, _ := os.Readlink(v.path("..data")) // none at first
	if err := os.Mkdir(v.path(next), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range v.files {
		path := filepath.Join(v.path(next), name)
		writeSecret(t, path, content)
		if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(next, v.path("..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(v.path("..data_tmp"), v.path("..data")); err != nil {
		t.Fatal(err)
	}
	if before != "" {
		if err := os.RemoveAll(v.path(before)); err != nil {
			t.Fatal(err)
		}
	}
}

// follows waits until metrics say so of all these files or policies.
func (s *server) follows(t testing.TB, current int, series ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v are %d", series, current), func() bool {
		metrics := ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body
		for _, one := range series {
			if !strings.Contains(metrics, fmt.Sprintf("countersign_%s %d\n", one, current)) {
				return false
			}
		}
		return true
	})
}

// TestReload changes policies, keys, passwords, tokens and certificates below a server as Kubernetes
// does. Each counts from then on; what does not read leaves what was there in force, in the log and in
// the metrics.
func TestReload(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	keys, authority := t.TempDir(), newAuthority(t)
	certificate := func(serial int64) (certificate, key string) {
		dir := t.TempDir()
		authority.server(t, serial, dir+"/tls.crt", dir+"/tls.key")
		return read(t, dir+"/tls.crt"), read(t, dir+"/tls.key")
	}
	hash := func(password string) string {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return "alice:" + string(h) + "\n"
	}
	policy := func(host, person string) string {
		write(t, filepath.Join(keys, person+".asc"), string(built.keys[person]))
		return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, host, filepath.Join(keys, person+".asc"))
	}
	runs(t, "keys", "generate", filepath.Join(keys, "release.key"))
	first, firstKey := certificate(1)
	v := newVolume(t, map[string]string{
		"admission.json": policy("registry.example.test", "alice"), "production.json": policy("one.example.test", "alice"), "release.key": read(t, filepath.Join(keys, "release.key")),
		"htpasswd": hash("first"), "tokens": "ci sha256:" + strings.Repeat("0", 64) + "\n", "tls.crt": first, "tls.key": firstKey,
	})
	s := start(t, "-host", "registry.example.test", "-config", config(t, fmt.Sprintf(`
admission: {policy: %[1]s/admission.json}
nodes: {production: %[1]s/production.json}
tls: {certificate: %[1]s/tls.crt, key: %[1]s/tls.key}
signing:
  keys: {release: {file: %[1]s/release.key}}
  rules: [{scope: '', key: release, on: [push]}]
access:
  htpasswd: %[1]s/htpasswd
  tokens: %[1]s/tokens
  grants: [{who: ["user:alice"], repositories: ["**"], actions: [pull, push, admin]}]
`, v.dir)))
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	digest := newImage("reloaded").digest()
	send := func(method, path, body, authorization string) (status int, text string, serial int64) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization)
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		content, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, string(content), a.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	// state is what is in force: the password, the certificate, the profile, and who may upload.
	state := func(password string) string {
		t.Helper()
		wrong, _, serial := send("GET", "/v2/", "", basic("alice", "wrong"))
		right, _, _ := send("GET", "/v2/", "", basic("alice", password))
		_, nodes, _ := send("GET", "/api/v1/node-config", "", "")
		uploads := map[string]int{}
		for _, person := range []string{"alice", "bob"} {
			body := wire(t, entry{2, digest + "@0123456789abcdef0123456789abcdef", "atomic", sign(t, person, "registry.example.test/ns/app:v1", digest)})
			uploads[person], _, _ = send("PUT", extension("ns/app", digest), body, basic("alice", password))
		}
		return fmt.Sprintf("logins %d %d, certificate %d, nodes of one %v, of two %v, uploads %v", wrong, right, serial,
			strings.Contains(nodes, "one.example.test"), strings.Contains(nodes, "two.example.test"), uploads)
	}
	files := []string{`file_current{file="htpasswd"}`, `file_current{file="tokens"}`, `file_current{file="tls"}`, `file_current{file="key/release"}`, `policy_current{policy="admission"}`, `policy_current{policy="nodes/production"}`}
	const before = "logins 401 200, certificate 1, nodes of one true, of two false, uploads map[alice:201 bob:403]"
	if got := state("first"); got != before {
		t.Fatalf("in force is %s, want %s", got, before)
	}
	s.follows(t, 1, files...)

	good := map[string]string{}
	for name, content := range v.files {
		good[name] = content
	}
	bad := map[string]string{}
	for name := range v.files {
		bad[name] = "what does not read\n"
	}
	v.swap(t, bad)
	if got := state("first"); got != before {
		t.Errorf("with files that do not read %s is in force, want what was before, %s", got, before)
	}
	s.follows(t, 0, files...)
	s.tells(t, `"name":"htpasswd"`, `"name":"tokens"`, `"name":"tls"`, "release.key", "admission.json", "production.json")

	good["htpasswd"], good["admission.json"], good["production.json"] = hash("second"), policy("registry.example.test", "bob"), policy("two.example.test", "bob")
	good["tls.crt"], good["tls.key"] = certificate(2)
	v.swap(t, good)
	const after = "logins 401 200, certificate 2, nodes of one false, of two true, uploads map[alice:403 bob:201]"
	if got := state("second"); got != after {
		t.Errorf("in force is %s, want %s", got, after)
	}
	if status, _, _ := send("GET", "/v2/", "", basic("alice", "first")); status != 401 {
		t.Errorf("the password before is answered %d, want 401", status)
	}
	s.follows(t, 1, files...)

	// Of a key the same one counts, as it is now: another is another name in the settings.
	runs(t, "keys", "revoke", "-reason", "compromised", filepath.Join(keys, "release.key"))
	v.swap(t, map[string]string{"release.key": read(t, filepath.Join(keys, "release.key"))})
	s.follows(t, 0, fmt.Sprintf(`key_usable{fingerprint=%q,use="own"}`, inspectKey(t, filepath.Join(keys, "release.asc")).fingerprint))
}

// TestReloadSettings changes the settings below a server: what they say counts from then on, and what
// was begun before is ended. What does not read, is empty, is not there yet or takes a restart leaves
// those before in force.
func TestReloadSettings(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	keys := t.TempDir()
	for _, name := range []string{"one", "two"} {
		runs(t, "keys", "generate", filepath.Join(keys, name+".key"))
	}
	settings := func(key string, more string) string {
		return fmt.Sprintf("signing:\n  keys: {%s: {file: %s/%[1]s.key}}\n  rules: [{scope: '', key: %[1]s, on: [push]}]\n%[3]s", key, keys, more)
	}
	v := newVolume(t, map[string]string{"countersign.yaml": settings("one", "")})
	s := start(t, "-config", v.path("countersign.yaml"))
	const file = `file_current{file="settings"}`
	signer := func(tag string) string {
		t.Helper()
		i := newImage("reloaded " + tag)
		s.push(t, i, "ns/app", tag)
		listed := s.cli(t, 0, "list", "-digest", i.digest(), "ns/app")
		for _, name := range []string{"one", "two"} {
			if strings.Contains(listed, inspectKey(t, filepath.Join(keys, name+".asc")).fingerprint) {
				return name
			}
		}
		return listed
	}
	logged := func(words string) {
		t.Helper()
		eventually(t, "the log says "+words, func() bool { return strings.Contains(s.stderr.String(), words) })
	}
	s.follows(t, 1, file)
	if got := signer("v1"); got != "one" {
		t.Fatalf("key %s signs, want one", got)
	}
	layer := strings.Repeat("slow", 1000)
	begun := s.begin(t, "PUT", s.where(t, s.do(t, "POST", "/v2/ns/app/blobs/uploads/", "").want(t, 202), "digest="+digestOf([]byte(layer))), layer)

	v.swap(t, map[string]string{"countersign.yaml": settings("two", "advertise: false\nrelease: [ns/app]\n")})
	logged("settings read again")
	if got := signer("v2"); got != "two" {
		t.Errorf("key %s signs after the settings changed, want two", got)
	}
	if a := s.get(t, "/v2/").want(t, 200); a.header.Get("X-Registry-Supports-Signatures") != "" {
		t.Error("the extension is advertised, which the settings do not say any more")
	}
	begun.end(t).want(t, 201)
	metrics := ask(t, s.debug, "GET", "/metrics", "").want(t, 200).body
	if !strings.Contains(metrics, `countersign_signer_requests_total{key="two",outcome="signed"} 1`) || strings.Contains(metrics, `key="one"`) {
		t.Errorf("the metrics are not those of the settings:\n%s", metrics)
	}

	for name, wrong := range map[string]struct{ settings, says string }{
		"an unknown field":   {settings("one", "advertize: true\n"), "advertize"},
		"nothing":            {"", "is empty"},
		"a contradiction":    {settings("one", "limits: {all: 500}\n"), "limits.all"},
		"what wants a start": {settings("one", "data: /elsewhere\nlimits: {key: 3}\n"), "limits takes a restart"},
		"a key that is none": {settings("three", ""), "three.key"},
	} {
		v.swap(t, map[string]string{"countersign.yaml": wrong.settings})
		logged(wrong.says)
		s.follows(t, 0, file)
		if got := signer("w" + fmt.Sprint(len(name))); got != "two" {
			t.Errorf("%s: key %s signs, want two as before", name, got)
		}
	}
	// Now the key comes, which the settings name already.
	v.swap(t, map[string]string{"countersign.yaml": settings("three", "")})
	logged("three.key")
	runs(t, "keys", "generate", filepath.Join(keys, "three.key"))
	if err := s.command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.follows(t, 1, file)
	// A file in one's own directory is followed, too, and one that is gone changes nothing.
	if err := os.Remove(v.path("countersign.yaml")); err != nil {
		t.Fatal(err)
	}
	s.follows(t, 0, file)
	write(t, v.path("countersign.yaml"), settings("one", ""))
	s.follows(t, 1, file)
	if got := signer("last"); got != "one" {
		t.Errorf("key %s signs in the end, want one", got)
	}
}

// TestReloadDatabase replaces the user by which a database is reached, as Kubernetes exchanges a secret:
// new connections are that user's. A file that does not read leaves it as it was.
func TestReloadDatabase(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	sql := func(statement string) string {
		t.Helper()
		out, err := d.Psql("postgres", statement)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	sql("CREATE ROLE next LOGIN SUPERUSER PASSWORD 'canary-next'")
	url := func(user string) string {
		return fmt.Sprintf("postgres://%s:canary-%[1]s@/postgres?host=%s&sslmode=disable\n", user, d.Socket())
	}
	v := newVolume(t, map[string]string{"url": url("postgres")})
	s := start(t, "-database-file", v.path("url"), "-host", "registry.example.test", "-sign-on", "none")
	// who ends the connections that there are, and says whose the next ones are.
	who := func() string {
		t.Helper()
		sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'countersign'")
		var users string
		eventually(t, "there is a connection", func() bool {
			s.get(t, extension("ns/app", newImage("database").digest())).within(t, 200, 429)
			users = sql("SELECT string_agg(DISTINCT usename, ' ') FROM pg_stat_activity WHERE application_name = 'countersign'")
			return users != ""
		})
		return users
	}
	if got := who(); got != "postgres" {
		t.Fatalf("connections are of %q, want postgres", got)
	}
	const file = `file_current{file="database"}`
	s.follows(t, 1, file)
	v.swap(t, map[string]string{"url": url("next")})
	if got := who(); got != "next" {
		t.Errorf("connections are of %q after the URL was replaced, want next", got)
	}
	v.swap(t, map[string]string{"url": "canary-broken://what does not read"})
	if got := who(); got != "next" {
		t.Errorf("connections are of %q with a URL that does not read, want next as before", got)
	}
	s.follows(t, 0, file)
	if log := s.tells(t, `"name":"database"`); strings.Contains(log, "canary-") {
		t.Errorf("the log has a password:\n%s", tail(log, 3000))
	}
	v.swap(t, map[string]string{"url": url("next")})
	s.follows(t, 1, file)
}

// TestReloadAuthorities replaces the authorities that vouch for the registry.
func TestReloadAuthorities(t *testing.T) {
	t.Parallel()
	registry := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(registry.Close)
	registry.Config.ErrorLog = log.New(io.Discard, "", 0) // that its certificate is not taken is what is tried
	right := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw}))
	v := newVolume(t, map[string]string{"ca.crt": read(t, filepath.Join(newAuthority(t).dir, "ca.crt"))})
	s := start(t, "-host", "registry.example.test", "-config", config(t, fmt.Sprintf("registry: {url: '%s', ca: %s}\n", registry.URL, v.path("ca.crt"))))
	s.get(t, "/v2/").want(t, 503)
	v.swap(t, map[string]string{"ca.crt": right})
	eventually(t, "the registry's certificate is taken", func() bool { return s.get(t, "/v2/").status == 200 })
	v.swap(t, map[string]string{"ca.crt": "no certificate"})
	s.follows(t, 0, `file_current{file="settings"}`)
	s.get(t, "/v2/").want(t, 200)
	v.swap(t, map[string]string{"ca.crt": right})
	s.follows(t, 1, `file_current{file="settings"}`)
}
