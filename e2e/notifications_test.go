package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const hookSecret = "0123456789abcdef0123456789abcdef"

// TestNotifications runs a registry behind nginx with the very file that doc/operating.md shows:
// pushes and pulls go past the server, which hears of them from the registry.
func TestNotifications(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo", "nginx", "docker-registry")
	address := freePorts(t, 1)[0]
	dir := t.TempDir()
	users := filepath.Join(dir, "htpasswd")
	write(t, users, "alice:"+secretHash+"\nbob:"+secretHash+"\n")
	behind := startRegistry(t, func(settings string) *exec.Cmd { return exec.Command("docker-registry", "serve", settings) }, fmt.Sprintf(
		"auth: {htpasswd: {realm: debian, path: %s}}\nnotifications: {endpoints: [{name: countersign, url: 'http://%s/api/v1/notifications',"+
			" headers: {Authorization: ['Bearer %s']}, timeout: 10s, threshold: 5, backoff: 1s}]}\n", users, address, hookSecret))
	front := startNginx(t, behind, address)
	secret, auth := filepath.Join(dir, "secret"), filepath.Join(dir, "auth.json")
	writeSecret(t, secret, hookSecret+"\n")
	writeSecret(t, auth, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, behind, strings.TrimPrefix(basic("bob", "secret"), "Basic ")))
	s := trusting(t, "-listen", address, "-host", front, "-config", config(t, fmt.Sprintf(
		"registry: {url: 'http://%s', authFile: %s, notifications: %s}\n", behind, auth, secret)))
	alice := s.as(basic("alice", "secret"))

	ask(t, front, "GET", "/v2/", "").says(t, "X-Registry-Supports-Signatures", "1").want(t, 401)
	ask(t, front, "GET", "/v2/", "", "Authorization: "+basic("alice", "secret")).says(t, "X-Registry-Supports-Signatures", "1").want(t, 200)
	i, reference := newImage("notified"), front+"/ns/app:v1"
	works(t)(newNode(t).copyTo(t, i.layout(t, "v1"), reference, "--dest-creds", "alice:secret", "--sign-by", fingerprintOf(t, "alice")))
	eventually(t, "the server signs what was pushed past it", func() bool {
		return slices.Contains(alice.signed(t, "ns/app", i.digest()), "server "+reference)
	})
	works(t)(newNode(t).require(t, front, s.serverKey()).pull(t, reference, "--src-creds", "bob:secret"))
	fails(t, "unauthorized")(newNode(t).require(t, front, s.serverKey()).pull(t, reference))
	ask(t, front, "GET", "//sigstore//ns/app@x", "").within(t, 400, 404)

	testNotificationsRefused(t, s, i)
	testNotificationsBelieved(t, s, alice, i, front)
}

// startNginx serves the registry's host with the documented file.
func startNginx(t testing.TB, registry, countersign string) (address string) {
	t.Helper()
	shown, err := filepath.Abs("../deploy/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	address = freePorts(t, 1)[0]
	write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`user root;
daemon off;
pid %[1]s/pid;
error_log stderr warn;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream registry { server %[2]s; }
	upstream countersign { server %[3]s; }
	server { listen %[4]s; include %[5]s; }
}
`, dir, registry, countersign, address, shown))
	log := newOutput()
	c := exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-s", "stop").Run()
		_ = c.Wait()
		if t.Failed() {
			t.Logf("log of nginx:\n%s", log)
		}
	})
	eventually(t, "nginx listens", func() bool { return dials(address) })
	return address
}

func event(action, repository, tag, digest string) string {
	return fmt.Sprintf(`{"events":[{"id":"x","action":%q,"target":{"mediaType":%q,"repository":%q,"tag":%q,"digest":%q,"size":1},"actor":{"name":"admin"}}]}`,
		action, manifestType, repository, tag, digest)
}

// testNotificationsRefused sends what no registry would.
func testNotificationsRefused(t *testing.T, s *server, i image) {
	path, good := "/api/v1/notifications", "Bearer "+hookSecret
	for _, authorization := range []string{"", "Bearer", "Bearer ", good + "x", good[:len(good)-1], strings.ToLower(good), hookSecret, basic("alice", "secret"), basic("x", hookSecret)} {
		a := s.as(authorization).do(t, "POST", path, event("push", "ns/app", "v1", i.digest()))
		a.refused(t, 401, "UNAUTHORIZED", "registry.notifications")
		a.says(t, "Www-Authenticate", `Bearer realm="countersign notifications"`)
	}
	hook := s.as(good)
	hook.do(t, "POST", path, "{").refused(t, 400, "UNSUPPORTED")
	hook.do(t, "POST", path, strings.Repeat(" ", 1<<20+1)).refused(t, 413, "SIGNATURE_INVALID")
	hook.do(t, "POST", path, `{"events":[`+strings.Repeat(`{},`, 1000)+`{}]}`).refused(t, 413, "SIGNATURE_INVALID")
	hook.do(t, "GET", path, "").refused(t, 405, "UNSUPPORTED")
	start(t).as(good).do(t, "POST", path, event("push", "ns/app", "v1", i.digest())).refused(t, 404, "NAME_INVALID", "registry.notifications")
	// Nothing of these is any repository's.
	for _, body := range []string{
		`{}`, `{"events":null}`, event("push", "../ns/app", "v1", ""), event("push", "ns/app", "../v1", ""), event("delete", "ns/app?", "v1", ""),
		event("push", "ns/app", "", "sha256:x"), event("pull", "ns/app", "v1", i.digest()), event("push", "ns/other", "v1", i.digest()), event("push", "ns/app", "v9", i.digest()),
		strings.Replace(event("push", "ns/app", "", digestOf(i.blobs[0])), manifestType, "application/octet-stream", 1),
	} {
		hook.do(t, "POST", path, body).want(t, 204)
	}
}

// testNotificationsBelieved lies about digests: what the registry has under the tag is what counts.
func testNotificationsBelieved(t *testing.T, s, alice *server, i image, host string) {
	j := newImage("another")
	hook := s.as("Bearer " + hookSecret)
	for range 2 { // at least once
		hook.do(t, "POST", "/api/v1/notifications", event("push", "ns/app", "v1", j.digest())).want(t, 204)
		hook.do(t, "POST", "/api/v1/notifications", event("delete", "ns/app", "", i.digest())).want(t, 204)
	}
	if got := alice.signed(t, "ns/app", j.digest()); len(got) != 0 {
		t.Errorf("what was never pushed is signed: %v", got)
	}
	want := []string{"alice " + host + "/ns/app:v1", "server " + host + "/ns/app:v1"}
	if got := alice.signed(t, "ns/app", i.digest()); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("signed %v, want %v", got, want)
	}
}

// TestDeployFilesAreShown holds doc/operating.md to the files that it shows.
func TestDeployFilesAreShown(t *testing.T) {
	t.Parallel()
	page := read(t, "../doc/operating.md")
	for _, name := range []string{"nginx.conf", "envoy.yaml", "traefik.yaml"} {
		if !strings.Contains(page, "\n"+read(t, "../deploy/"+name)+"```\n") {
			t.Errorf("doc/operating.md does not show deploy/%s as it is", name)
		}
	}
}
