package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A node is a machine that pulls or pushes: its own home, policy, registries.d and storage.
// Until require is called it accepts anything.
type node struct {
	dir         string
	environment []string
}

func newNode(t testing.TB) *node {
	t.Helper()
	// Lower case and short, for podman; removed by hand, since podman leaves modes behind.
	dir, err := os.MkdirTemp("/tmp", "e2e-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := &node{dir: dir, environment: []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"TMPDIR=" + filepath.Join(dir, "tmp"),
		"XDG_RUNTIME_DIR=" + filepath.Join(dir, "runtime"),
		"GNUPGHOME=" + built.people,
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(dir, "storage.conf"),
		"CONTAINERS_CONF=" + filepath.Join(dir, "containers.conf"),
		"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(dir, ".config/containers/registries.conf"),
	}}
	for _, sub := range []string{"tmp", "runtime", filepath.Dir(n.registries())} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n.configure(t)
	return n
}

// configure writes the files that podman needs to run on a machine of which it changes nothing:
// plain directories for layers, the host's network, no limit raised.
func (n *node) configure(t testing.TB) {
	t.Helper()
	write(t, filepath.Join(n.dir, "storage.conf"), fmt.Sprintf(
		"[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", n.dir+"/graph", n.dir+"/run"))
	write(t, filepath.Join(n.dir, "containers.conf"), `[containers]
netns = "host"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
`)
	n.mirrors(t, "unqualified-search-registries = []\n")
	write(t, filepath.Join(n.registries(), "default.yaml"), "{}\n")
	n.policy(t, `{"default":[{"type":"insecureAcceptAnything"}]}`)
}

func (n *node) registries() string { return filepath.Join(n.dir, ".config/containers/registries.d") }

func (n *node) policyFile() string { return filepath.Join(n.dir, ".config/containers/policy.json") }

func (n *node) policy(t testing.TB, policy string) {
	t.Helper()
	write(t, n.policyFile(), policy)
}

// mirrors writes registries.conf where every client looks: skopeo does not read the variable.
func (n *node) mirrors(t testing.TB, toml string) {
	t.Helper()
	write(t, filepath.Join(n.dir, ".config/containers/registries.conf"), toml)
}

// require makes the node accept images below scope only, and only if signed by a key of the file.
func (n *node) require(t testing.TB, scope, keyPath string) *node {
	t.Helper()
	n.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:`+
		`[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}}}`, scope, keyPath))
	return n
}

// lookaside makes the node look for signatures below this URL.
func (n *node) lookaside(t testing.TB, scope, url string) *node {
	t.Helper()
	write(t, filepath.Join(n.registries(), "lookaside.yaml"),
		fmt.Sprintf("docker:\n  %s:\n    lookaside: %s\n", scope, url))
	return n
}

// skopeo and podman return what the command wrote to both streams.
func (n *node) skopeo(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return n.run(t, "skopeo", append([]string{"--policy", n.policyFile(), "--registries.d", n.registries()}, args...)...)
}

func (n *node) podman(t testing.TB, args ...string) (string, error) {
	t.Helper()
	if os.Getuid() != 0 {
		lack(t, "podman is tested as root only")
	}
	need(t, "runc")
	return n.run(t, "podman", args...)
}

func (n *node) run(t testing.TB, program string, args ...string) (string, error) {
	t.Helper()
	return n.within(t, 2*time.Minute, program, args...)
}

// ansible plays a playbook, which starts hundreds of programs.
func (n *node) ansible(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return n.within(t, 10*time.Minute, "env", append([]string{"LC_ALL=C.UTF-8", "ANSIBLE_PIPELINING=true", "ansible-playbook"}, args...)...)
}

func (n *node) within(t testing.TB, patience time.Duration, program string, args ...string) (string, error) {
	t.Helper()
	need(t, program)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env, c.Dir = n.environment, n.dir
	c.WaitDelay = time.Second // a container may hold the output open
	out, err := c.CombinedOutput()
	return string(out), err
}

// copyTo pushes with skopeo; more are flags of skopeo copy.
func (n *node) copyTo(t testing.TB, from, reference string, more ...string) (string, error) {
	t.Helper()
	return n.skopeo(t, append(append([]string{"copy", "--dest-tls-verify=false"}, more...), from, "docker://"+reference)...)
}

// pull pulls with skopeo, as the node's policy allows; more are flags of skopeo copy.
func (n *node) pull(t testing.TB, reference string, more ...string) (string, error) {
	t.Helper()
	return n.skopeo(t, append(append([]string{"copy", "--src-tls-verify=false"}, more...),
		"docker://"+reference, "dir:"+t.TempDir())...)
}

// Use them around a command: works(t)(n.pull(t, "…")).
func works(t testing.TB) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// fails asserts that the command fails and that what it shows contains these words.
func fails(t testing.TB, words ...string) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("the command worked and must not have\n%s", out)
		}
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("what the person sees lacks %q:\n%s", word, out)
			}
		}
	}
}
