package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// containerImage is what tests call the image that the Dockerfile makes.
const containerImage = "localhost/countersign:test"

// container is an archive of the image that the Dockerfile makes, for podman load. Nothing is
// pulled: what the Dockerfile builds in is made here.
var container = sync.OnceValues(func() (string, error) {
	from, err := sources()
	if err != nil {
		return "", err
	}
	archive := filepath.Join(built.dir, "countersign.tar")
	b := builder{dir: filepath.Join(built.dir, "builder")}
	if err := b.configure(); err != nil {
		return "", err
	}
	if err := b.toolchain("docker.io/library/golang:1.26"); err != nil {
		return "", err
	}
	var mounts []string
	for _, m := range []struct{ variable, at string }{{"GOROOT", "/usr/local/go:ro"}, {"GOMODCACHE", "/go/pkg/mod"}, {"GOCACHE", "/root/.cache/go-build"}} {
		value, err := goEnv(m.variable)
		if err != nil {
			return "", err
		}
		mounts = append(mounts, "-v "+value+":"+m.at)
	}
	return archive, b.run(fmt.Sprintf("buildah bud -q --isolation chroot --pull-never --format docker %[1]s -t %[2]s %[3]s && buildah push -q %[2]s docker-archive:%[4]s:%[2]s",
		strings.Join(mounts, " "), containerImage, from, archive))
})

func goEnv(variable string) (string, error) {
	out, err := exec.Command("go", "env", variable).Output()
	return strings.TrimSpace(string(out)), err
}

// A builder is buildah with a storage of its own.
type builder struct{ dir string }

func (b builder) configure() error {
	for name, content := range map[string]string{
		"storage.conf":                   fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", b.dir+"/graph", b.dir+"/run"),
		"registries.conf":                "unqualified-search-registries = []\n",
		".config/containers/policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`,
	} {
		file := filepath.Join(b.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (b builder) run(script string) error {
	return shell(b.dir, script, "HOME="+b.dir, "CONTAINERS_STORAGE_CONF="+b.dir+"/storage.conf", "CONTAINERS_REGISTRIES_CONF="+b.dir+"/registries.conf")
}

// toolchain makes a stand-in for the image of Go: a shell, git, authorities. Go itself is mounted.
func (b builder) toolchain(name string) error {
	proxy, err := goEnv("GOPROXY")
	if err != nil {
		return err
	}
	sums, err := goEnv("GOSUMDB")
	if err != nil {
		return err
	}
	return b.run(fmt.Sprintf(`root=$PWD/root; mkdir -p "$root"/{bin,usr/bin,usr/local/go,go/pkg/mod,root/.cache/go-build,etc/ssl/certs,proc,sys,dev}; mkdir -m 1777 "$root/tmp"
		cp "$(command -v busybox)" "$root/bin/busybox"
		for applet in sh mkdir cp; do ln -s busybox "$root/bin/$applet"; done
		cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
		cp "$(command -v git)" "$root/usr/bin/git"
		ldd "$(command -v git)" | grep -o '/[^ ]*' | while read -r library; do mkdir -p "$root${library%%/*}"; cp -L "$library" "$root$library"; done
		echo root:x:0:0::/root:/bin/sh >"$root/etc/passwd"
		c=$(buildah from scratch)
		buildah add -q "$c" "$root" / >/dev/null
		buildah config --env GOTOOLCHAIN=local --env GOPATH=/go --env GOPROXY=%s --env GOSUMDB=%s --env PATH=/usr/local/go/bin:/usr/bin:/bin --workingdir /go "$c"
		buildah commit -q --rm "$c" %s >/dev/null; rm -rf "$root"`, proxy, sums, name))
}

// loaded is a node that has the image.
func loaded(t *testing.T) *node {
	t.Helper()
	need(t, "podman", "buildah", "runc", "busybox", "git")
	if os.Getuid() != 0 {
		lack(t, "buildah is tested as root only")
	}
	archive, err := container()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	works(t)(n.podman(t, "load", "-q", "-i", archive))
	return n
}

// hardened are the flags of a container that may do nothing but run.
func hardened(user string) []string {
	return []string{"--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges", "--user=" + user}
}

// TestContainer runs the image as the platforms do: as its own user, and as one that it has never
// heard of, of group 0; with a read-only root and without capabilities.
func TestContainer(t *testing.T) {
	t.Parallel()
	n := loaded(t)
	out, err := n.podman(t, "image", "inspect", containerImage)
	works(t)(out, err)
	var images []struct {
		Config struct {
			User        string
			Env         []string
			Entrypoint  []string
			Healthcheck struct{ Test []string }
		}
		HealthCheck struct{ Test []string } `json:"Healthcheck"`
	}
	if err := json.Unmarshal([]byte(out), &images); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if c := images[0].Config; c.User != "65532:0" || strings.Join(c.Entrypoint, " ") != "/usr/local/bin/countersign" {
		t.Errorf("the image runs %v as %q", c.Entrypoint, c.User)
	}
	if got := strings.Join(images[0].HealthCheck.Test, " "); got != "CMD /usr/local/bin/countersign health" {
		t.Errorf("the image is checked by %q", got)
	}
	if out, err := n.podman(t, append(append([]string{"run", "--rm"}, hardened("65532:0")...), containerImage, "version")...); err != nil || !strings.Contains(out, "countersign "+releaseVersion) {
		t.Errorf("version says %q, %v", out, err)
	}
	for name, user := range map[string]string{"its own user": "65532:0", "any user": "1000700000:0"} {
		t.Run(name, func(t *testing.T) {
			s := n.serve(t, user)
			defer s.end(t)
			i := newImage(name)
			s.push(t, i, "ns/app", "v1")
			if list := s.get(t, extension("ns/app", i.digest())).want(t, 200); !strings.Contains(list.body, i.digest()+"@") {
				t.Errorf("what was pushed to the container is not signed: %s", list.body)
			}
			works(t)(n.podman(t, "healthcheck", "run", s.container))
			fails(t, "connection refused")(n.podman(t, "exec", s.container, "/usr/local/bin/countersign", "health", "-debug-listen", "127.0.0.1:1"))
		})
	}
}

// A contained is a server in a container.
type contained struct {
	*server
	node      *node
	container string
}

// serve starts the image on the host's network and free ports.
func (n *node) serve(t *testing.T, user string) contained {
	t.Helper()
	ports := freePorts(t, 2)
	out, err := n.podman(t, append(append([]string{"run", "--detach"}, hardened(user)...), "--env", "COUNTERSIGN_DEBUG_LISTEN="+ports[1],
		containerImage, "serve", "-listen", ports[0])...)
	works(t)(out, err)
	c := contained{&server{address: ports[0], debug: ports[1]}, n, strings.TrimSpace(regexp.MustCompile(`[0-9a-f]{64}`).FindString(out))}
	eventually(t, "the container listens", func() bool { return dials(c.address) || !n.running(t, c.container) })
	if !n.running(t, c.container) {
		log, _ := n.podman(t, "logs", c.container) // gone with it, maybe
		t.Fatalf("the container ended: %s\n%s", out, log)
	}
	return c
}

func (n *node) running(t *testing.T, container string) bool {
	t.Helper()
	out, err := n.podman(t, "container", "inspect", "--format", "{{.State.Running}}", container)
	return err == nil && strings.TrimSpace(out) == "true"
}

// end stops the container, which must drain and say nothing of distress.
func (c contained) end(t *testing.T) {
	t.Helper()
	log, err := c.node.podman(t, "logs", c.container)
	if found := distress.FindString(log); found != "" || err != nil || t.Failed() {
		t.Errorf("the log contains %q, %v:\n%s", found, err, log)
	}
	works(t)(c.node.podman(t, "stop", "--time", "60", c.container))
}
