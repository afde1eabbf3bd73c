package e2e

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// render is what kubectl apply -k would send.
func (s *site) render(t *testing.T, directory string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "run", ".", filepath.Join(s.dir, directory))
	c.Dir = "../deploy/kubernetes/render"
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, &stderr)
	}
	return string(out)
}

// documents are those of a stream of YAML.
func documents(t *testing.T, stream string) (all []map[string]any) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(stream)); ; {
		var one map[string]any
		if err := d.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// of are the documents of these kinds. A Job, which podman of this age does not know, becomes a Pod.
func of(documents []map[string]any, kinds ...string) (some []map[string]any) {
	for _, d := range documents {
		if !slices.Contains(kinds, d["kind"].(string)) {
			continue
		}
		if d["kind"] == "Job" {
			template := d["spec"].(map[string]any)["template"].(map[string]any)
			d = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": d["metadata"], "spec": template["spec"]}
		}
		some = append(some, d)
	}
	return some
}

// playKube has podman make what the documents say, and starts the pod. Podman of this age does not decode what
// a Secret has, and lets everybody read its files whatever defaultMode says, which the server refuses: both
// is done here, as the kubelet does it.
func (n *node) playKube(t *testing.T, pod string, documents []map[string]any) {
	t.Helper()
	var stream strings.Builder
	for _, d := range documents {
		content, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		stream.WriteString("---\n" + string(content) + "\n")
	}
	file := filepath.Join(n.dir, pod+".yaml")
	writeSecret(t, file, stream.String())
	works(t)(n.podman(t, "play", "kube", "--start=false", "--network=host", file))
	secrets, err := n.podman(t, "secret", "ls", "--noheading", "--format", "{{.Name}}")
	works(t)(secrets, err)
	for _, name := range strings.Fields(secrets) {
		files, err := filepath.Glob(filepath.Join(n.dir, "graph", "volumes", name, "_data", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if content, err := base64.StdEncoding.DecodeString(read(t, file)); err == nil {
				writeSecret(t, file, string(content))
			}
			if err := os.Chmod(file, 0o440); err != nil {
				t.Fatal(err)
			}
		}
	}
	works(t)(n.podman(t, "pod", "start", pod))
}

// postgres starts the database of deploy/, for servers that have it elsewhere.
func (s *site) postgres(t *testing.T) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.database)
	works(t)(s.node.podman(t, "run", "--detach", "--name", "database", "--env", "PGPORT="+port, "--env", "POSTGRES_USER=countersign", "--env", "POSTGRES_DB=countersign",
		"--env", "POSTGRES_PASSWORD_FILE=/password", "--volume", filepath.Join(s.secrets, "database-password")+":/password:ro", postgresImage))
	eventually(t, "the database answers", func() bool { return dials(s.database) })
}

// containers are all there are on the site's node, running or not.
func (s *site) containers(t *testing.T) []string {
	t.Helper()
	names, err := s.node.podman(t, "ps", "--all", "--format", "{{.Names}}")
	works(t)(names, err)
	return strings.Fields(names)
}

// down takes away all that runs on the site's node, and shows what it said if the test has failed.
func (s *site) down(t *testing.T) {
	t.Helper()
	for _, name := range s.containers(t) {
		if log, err := s.node.podman(t, "logs", name); t.Failed() {
			t.Logf("log of %s, %v:\n%s", name, err, tail(log, 5000))
		}
	}
	works(t)(s.node.podman(t, "pod", "rm", "--all", "--force", "--time", "0"))
	works(t)(s.node.podman(t, "rm", "--all", "--force", "--time", "0"))
}

// withoutPorts is for the network of the host, on which podman takes no ports of containers.
const withoutPorts = `patches:
- target: {kind: Deployment}
  patch: |-
    - {op: test, path: /spec/template/spec/containers/1/name, value: countersign}
    - {op: remove, path: /spec/template/spec/containers/1/ports}
`

// TestKube renders the site of somebody whose server is in the registry's pod, and plays it as it is:
// the migration first, then the pod, with its Secrets and ConfigMaps.
func TestKube(t *testing.T) {
	t.Parallel()
	s := newSite(t, "kubernetes/site/secrets")
	s.settle(t, "kubernetes/sidecar/countersign.yaml", "kubernetes/sidecar/config.yml")
	settings := filepath.Join(s.dir, "kubernetes/site/countersign.yaml")
	write(t, settings, read(t, filepath.Join(s.dir, "kubernetes/sidecar/countersign.yaml")))
	s.edit(t, "kubernetes/site/kustomization.yaml", "- ../base # or ../sidecar\n", "- ../sidecar\n", "# - name: registry-users\n#   files:", "- name: registry-users\n  files:",
		"newName: registry.example.com/infra/countersign, newTag: v1.0.0", "newName: localhost/countersign, newTag: test")
	kustomization := filepath.Join(s.dir, "kubernetes/site/kustomization.yaml")
	write(t, kustomization, read(t, kustomization)+withoutPorts)
	defer s.down(t)
	s.postgres(t)
	all := documents(t, s.render(t, "kubernetes/site"))

	s.node.playKube(t, "countersign-migrate", of(all, "Secret", "ConfigMap", "Job"))
	works(t)(s.node.podman(t, "wait", "countersign-migrate-migrate"))
	if log, err := s.node.podman(t, "logs", "countersign-migrate-migrate"); err != nil || !strings.Contains(log, "The schema was 0") {
		t.Fatalf("the migration says %q, %v", log, err)
	}
	s.node.playKube(t, "countersign-pod-0", of(all, "ConfigMap", "PersistentVolumeClaim", "Deployment"))
	c := contained{s.server, s.node, "countersign-pod-0-countersign"}
	eventually(t, "the server is ready", func() bool { return s.isReady() || !s.node.running(t, c.container) })
	s.job(t)
	works(t)(s.node.podman(t, "exec", c.container, "/usr/local/bin/countersign", "health", "-ready", "-config", "/etc/countersign/settings/countersign.yaml"))
	c.end(t)
}
