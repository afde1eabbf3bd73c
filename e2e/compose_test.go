package e2e

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// override has what a test changes of deploy/compose.yaml: no network of containers, no image to build.
const override = `services:
  database: {network_mode: host, environment: {PGPORT: "@port@"}}
  migrate: {network_mode: host, image: "@image@"}
  countersign: {network_mode: host, image: "@image@"}
  registry: {network_mode: host}
`

// TestCompose brings up deploy/compose.yaml, with nothing but the secrets and this test's addresses put
// in, does the main job, and starts it again with what it had.
func TestCompose(t *testing.T) {
	t.Parallel()
	need(t, "docker-compose")
	s := newSite(t, "compose/secrets")
	s.settle(t, "compose/countersign.yaml", "compose/registry.yml")
	s.edit(t, "compose.yaml", "    ports: [\"443:5000\"]\n", "") // the host's network has them already
	port := s.database[strings.LastIndex(s.database, ":")+1:]
	write(t, filepath.Join(s.dir, "override.yaml"), strings.NewReplacer("@port@", port, "@image@", containerImage).Replace(override))
	socket := s.node.api(t)
	compose := func(args ...string) (string, error) {
		return s.node.run(t, "docker-compose", append([]string{"-H", socket, "-p", "test", "-f", filepath.Join(s.dir, "compose.yaml"), "-f", filepath.Join(s.dir, "override.yaml")}, args...)...)
	}
	defer s.down(t)
	works(t)(compose("up", "--detach", "--no-build"))
	eventually(t, "the server is ready", s.isReady)
	s.job(t)
	works(t)(compose("exec", "-T", "countersign", "/usr/local/bin/countersign", "health", "-ready", "-config", "/etc/countersign/countersign.yaml"))
	works(t)(compose("stop"))
	if s.isReady() {
		t.Error("the server answers although it was stopped")
	}
	works(t)(compose("start"))
	eventually(t, "the server is ready again", s.isReady)
	works(t)(newNode(t).require(t, s.address, s.key()).podman(t, "pull", "-q", "--cert-dir", s.ca.dir, "--creds", "alice:secret", s.address+"/ns/app:v1"))
}

// api serves Docker's API of the node's podman, and returns where.
func (n *node) api(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(n.dir, "api.sock")
	c, log := exec.CommandContext(context.WithoutCancel(t.Context()), "podman", "system", "service", "--time=0", "unix://"+socket), newOutput()
	c.Env, c.Dir, c.Stdout, c.Stderr = n.environment, n.dir, log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has no state
		_ = c.Wait()
		if t.Failed() {
			t.Logf("log of podman's API:\n%s", tail(log.String(), 5000))
		}
	})
	eventually(t, "podman's API answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "unix://" + socket
}
