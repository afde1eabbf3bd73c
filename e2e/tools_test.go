package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tools builds the clients that Debian does not have, into a directory of their own.
func tools(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c := exec.CommandContext(t.Context(), "go", "install", "tool")
	c.Dir, c.Env = "tools", append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return dir
}

// crane and oras keep logins as docker does, and push and pull with a token as the password.
func TestOtherClientsLogIn(t *testing.T) {
	t.Parallel()
	if !soak() {
		t.Skip("SKIPPED: crane and oras are built, which takes minutes, by make soak only")
	}
	dir := tools(t)
	g := newGuarded(t, "")
	n := newNode(t)
	crane, oras := filepath.Join(dir, "crane"), filepath.Join(dir, "oras")
	write(t, filepath.Join(n.dir, "layer"), "a layer")
	works(t)(n.run(t, "tar", "cf", "layer.tar", "layer"))
	fails(t, "401")(n.run(t, crane, "append", "--insecure", "--new_layer", "layer.tar", "--new_tag", g.address+"/acme/crane:v1"))
	works(t)(n.feed(t, g.token, crane, "auth", "login", "-u", "ci", "--password-stdin", g.address))
	works(t)(n.run(t, crane, "append", "--insecure", "--new_layer", "layer.tar", "--new_tag", g.address+"/acme/crane:v1"))
	works(t)(n.run(t, crane, "copy", "--insecure", g.address+"/acme/crane:v1", g.address+"/acme/mounted:v1"))
	fails(t, "403")(n.run(t, crane, "copy", "--insecure", g.address+"/acme/crane:v1", g.address+"/other/crane:v1"))
	works(t)(n.run(t, crane, "pull", "--insecure", g.address+"/acme/mounted:v1", "pulled.tar"))

	other := newNode(t)
	works(t)(other.feed(t, g.token, oras, "login", "--plain-http", "-u", "ci", "--password-stdin", g.address))
	write(t, filepath.Join(other.dir, "file"), "content")
	works(t)(other.run(t, oras, "push", "--plain-http", g.address+"/acme/oras:v1", "file"))
	works(t)(other.run(t, oras, "pull", "--plain-http", "-o", filepath.Join(other.dir, "out"), g.address+"/acme/oras:v1"))
	if got := strings.TrimSpace(read(t, filepath.Join(other.dir, "out", "file"))); got != "content" {
		t.Errorf("oras pulled %q", got)
	}
	fails(t, "403")(other.run(t, oras, "push", "--plain-http", g.address+"/other/oras:v1", "file"))
}
