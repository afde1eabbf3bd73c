package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// A manifests is what a kustomization makes, decoded as the API server does it: a field that it does
// not know is an error.
type manifests struct {
	kinds       []string // of all, sorted
	namespaces  []core.Namespace
	accounts    []core.ServiceAccount
	deployments []apps.Deployment
	jobs        []batch.Job
	budgets     []disruption.PodDisruptionBudget
	services    []core.Service
	policies    []networking.NetworkPolicy
	monitors    []monitoring.ServiceMonitor
	configs     []core.ConfigMap
	secrets     []core.Secret
	claims      []core.PersistentVolumeClaim
}

func decode(t *testing.T, directory string) *manifests {
	t.Helper()
	resources, err := render(directory)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifests{}
	for _, r := range resources.Resources() {
		content, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.add(r.GetKind(), content); err != nil {
			t.Fatalf("%s: %s %s: %v", directory, r.GetKind(), r.GetName(), err)
		}
		m.kinds = append(m.kinds, r.GetKind())
	}
	slices.Sort(m.kinds)
	return m
}

func (m *manifests) add(kind string, content []byte) error {
	switch kind {
	case "Namespace":
		return appendTo(&m.namespaces, content)
	case "ServiceAccount":
		return appendTo(&m.accounts, content)
	case "Deployment":
		return appendTo(&m.deployments, content)
	case "Job":
		return appendTo(&m.jobs, content)
	case "PodDisruptionBudget":
		return appendTo(&m.budgets, content)
	case "Service":
		return appendTo(&m.services, content)
	case "NetworkPolicy":
		return appendTo(&m.policies, content)
	case "ServiceMonitor":
		return appendTo(&m.monitors, content)
	case "ConfigMap":
		return appendTo(&m.configs, content)
	case "Secret":
		return appendTo(&m.secrets, content)
	case "PersistentVolumeClaim":
		return appendTo(&m.claims, content)
	}
	return fmt.Errorf("no test looks at a %s", kind)
}

func appendTo[T any](list *[]T, content []byte) error {
	var one T
	err := yaml.UnmarshalStrict(content, &one)
	*list = append(*list, one)
	return err
}

// pods are all that runs, by name.
func (m *manifests) pods() map[string]core.PodTemplateSpec {
	pods := map[string]core.PodTemplateSpec{}
	for _, d := range m.deployments {
		pods["Deployment "+d.Name] = d.Spec.Template
	}
	for _, j := range m.jobs {
		pods["Job "+j.Name] = j.Spec.Template
	}
	return pods
}

// site is a copy of all these files whose site is that of somebody who has made their secrets, and who
// has edited its kustomization: pairs of old and new.
func site(t *testing.T, edits ...string) (directory string) {
	t.Helper()
	all := t.TempDir()
	if err := os.CopyFS(all, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	directory = filepath.Join(all, "site")
	file := filepath.Join(directory, "kustomization.yaml")
	content := read(t, file)
	for n := 0; n < len(edits); n += 2 {
		if strings.Count(content, edits[n]) != 1 {
			t.Fatalf("site/kustomization.yaml has not %q once", edits[n])
		}
		content = strings.Replace(content, edits[n], edits[n+1], 1)
	}
	write(t, file, content)
	for _, name := range []string{"database-url", "release.key", "release.pass", "tls.crt", "tls.key", "tokens", "htpasswd"} {
		write(t, filepath.Join(directory, "secrets", name), name)
	}
	write(t, filepath.Join(directory, "secrets", "registry.json"), `{"auths":{}}`)
	return directory
}

// Edits of a site whose server is in the registry's pod, and of one on OpenShift.
var (
	inThePod    = []string{"- ../base # or ../sidecar\n", "- ../sidecar\n", "# - name: registry-users\n#   files:", "- name: registry-users\n  files:"}
	onOpenShift = []string{"components:\n", "components:\n- ../openshift\n"}
)

// sites are all that somebody would make of these files.
func sites(t *testing.T) map[string]*manifests {
	t.Helper()
	return map[string]*manifests{
		"beside":                   decode(t, site(t)),
		"beside, on OpenShift":     decode(t, site(t, onOpenShift...)),
		"in the pod":               decode(t, site(t, inThePod...)),
		"in the pod, on OpenShift": decode(t, site(t, slices.Concat(inThePod, onOpenShift)...)),
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
