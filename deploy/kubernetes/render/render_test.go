package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestWhole wants each site to have everything, and the directories to render that have no secrets.
func TestWhole(t *testing.T) {
	t.Parallel()
	common := []string{"Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
	own := []string{"ConfigMap", "ConfigMap", "Namespace", "Secret", "Secret", "Secret", "Secret", "Secret", "ServiceMonitor"}
	more := []string{"ConfigMap", "PersistentVolumeClaim", "Secret"}
	for name, m := range sites(t) {
		want := slices.Concat(common, own)
		if strings.HasPrefix(name, "in the pod") {
			want = append(want, more...)
		}
		if slices.Sort(want); !slices.Equal(m.kinds, want) {
			t.Errorf("%s: it makes %v, want %v", name, m.kinds, want)
		}
	}
	for _, directory := range []string{"../base", "../sidecar"} {
		decode(t, directory)
	}
	if _, err := render("../site"); err == nil || !strings.Contains(err.Error(), "secrets/") {
		t.Errorf("a site without secrets: %v, want an error that names one", err)
	}
}

// TestSettings holds the files together: a site's settings are the base's until somebody edits them, and
// in the registry's pod they differ in where it is, alone.
func TestSettings(t *testing.T) {
	t.Parallel()
	base := read(t, "../base/countersign.yaml")
	if read(t, "../site/countersign.yaml") != base || read(t, "../site/admission.json") != read(t, "../base/admission.json") {
		t.Error("the files of ../site are not those of ../base")
	}
	want := strings.Replace(base, "url: https://registry.registry.svc:5000", "url: http://127.0.0.1:5010", 1)
	if got := read(t, "../sidecar/countersign.yaml"); got != want {
		t.Errorf("the settings in the registry's pod are\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(read(t, "../sidecar/config.yml"), "addr: 127.0.0.1:5010\n") {
		t.Error("the registry in the pod listens elsewhere than on loopback")
	}
}

// TestReferences follows every name to what it names.
func TestReferences(t *testing.T) {
	t.Parallel()
	for name, m := range sites(t) {
		files := map[string][]string{}
		for _, c := range m.configs {
			files["ConfigMap "+c.Name] = keys(c.Data)
		}
		for _, s := range m.secrets {
			files["Secret "+s.Name] = keys(s.Data)
		}
		for pod, template := range m.pods() {
			if !slices.ContainsFunc(m.accounts, func(a core.ServiceAccount) bool { return a.Name == template.Spec.ServiceAccountName }) {
				t.Errorf("%s: %s runs as %q, which is not there", name, pod, template.Spec.ServiceAccountName)
			}
			mounted := m.mounted(t, files, template.Spec)
			for _, c := range template.Spec.Containers {
				for _, file := range named(m, c) {
					if !slices.Contains(mounted[c.Name], file) {
						t.Errorf("%s: %s, container %s: nothing mounted is %s: %v", name, pod, c.Name, file, mounted[c.Name])
					}
				}
			}
		}
	}
}

func keys[V any](m map[string]V) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}

// mounted are the files that each container has, of volumes that must all be there and be used.
func (m *manifests) mounted(t *testing.T, files map[string][]string, pod core.PodSpec) map[string][]string {
	t.Helper()
	volumes, used := map[string][]string{}, map[string]bool{}
	for _, v := range pod.Volumes {
		var source string
		switch {
		case v.ConfigMap != nil:
			source = "ConfigMap " + v.ConfigMap.Name
		case v.Secret != nil:
			source = "Secret " + v.Secret.SecretName
			if mode := v.Secret.DefaultMode; mode == nil || *mode != 0o440 {
				t.Errorf("volume %s: the server refuses secrets that others may read", v.Name)
			}
		case v.PersistentVolumeClaim != nil:
			if !slices.ContainsFunc(m.claims, func(c core.PersistentVolumeClaim) bool { return c.Name == v.PersistentVolumeClaim.ClaimName }) {
				t.Errorf("volume %s: there is no such claim", v.Name)
			}
		}
		if _, ok := files[source]; source != "" && !ok {
			t.Errorf("volume %s: there is no %s", v.Name, source)
		}
		volumes[v.Name] = files[source]
	}
	mounted := map[string][]string{}
	for _, c := range pod.Containers {
		for _, at := range c.VolumeMounts {
			content, ok := volumes[at.Name]
			if !ok {
				t.Errorf("container %s mounts %s, and there is no such volume", c.Name, at.Name)
			}
			used[at.Name] = true
			for _, file := range content {
				mounted[c.Name] = append(mounted[c.Name], path.Join(at.MountPath, file))
			}
		}
	}
	for volume := range volumes {
		if !used[volume] {
			t.Errorf("nobody mounts the volume %s", volume)
		}
	}
	return mounted
}

var mountedPath = regexp.MustCompile(`/etc/(countersign|registry)/[\w./-]+`)

// named are the files that a container's arguments name, and those that its settings do.
func named(m *manifests, c core.Container) []string {
	text := strings.Join(c.Args, " ") + "\n"
	for _, config := range m.configs {
		switch {
		case c.Name == "countersign" && config.Data["countersign.yaml"] != "":
			text += config.Data["countersign.yaml"]
		case c.Name == "registry" && config.Data["config.yml"] != "":
			text += config.Data["config.yml"]
		}
	}
	return mountedPath.FindAllString(text, -1)
}

// TestServer looks at what keeps the server answering.
func TestServer(t *testing.T) {
	t.Parallel()
	for name, m := range sites(t) {
		d := m.deployments[0]
		inPod := strings.HasPrefix(name, "in the pod")
		if *d.Spec.Replicas < 2 && !inPod {
			t.Errorf("%s: %d replicas", name, *d.Spec.Replicas)
		}
		if (d.Spec.Strategy.Type == "Recreate") != inPod || (d.Spec.Strategy.RollingUpdate == nil) != inPod {
			t.Errorf("%s: it is replaced by %v", name, d.Spec.Strategy)
		}
		if b := m.budgets[0].Spec; b.MaxUnavailable == nil || b.MaxUnavailable.IntValue() != 1 || !selects(t, b.Selector, d.Spec.Template) || selects(t, b.Selector, m.jobs[0].Spec.Template) {
			t.Errorf("%s: the disruption budget is %v", name, b)
		}
		selector := &meta.LabelSelector{MatchLabels: m.services[0].Spec.Selector}
		if !selects(t, selector, d.Spec.Template) || selects(t, selector, m.jobs[0].Spec.Template) {
			t.Errorf("%s: the service sends to %v", name, selector.MatchLabels)
		}
		for _, p := range m.services[0].Spec.Ports {
			if portOf(d.Spec.Template, p.TargetPort.StrVal) == 0 {
				t.Errorf("%s: the service's port %s leads nowhere", name, p.Name)
			}
		}
		checkServer(t, name, d.Spec.Template.Spec)
		if m.namespaces[0].Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			t.Errorf("%s: the namespace enforces %v", name, m.namespaces[0].Labels)
		}
	}
}

func checkServer(t *testing.T, name string, pod core.PodSpec) {
	t.Helper()
	i := slices.IndexFunc(pod.Containers, func(c core.Container) bool { return c.Name == "countersign" })
	c := pod.Containers[i]
	if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.StartupProbe.HTTPGet.Path != "/healthz" {
		t.Errorf("%s: the probes ask for other paths", name)
	}
	// The server gives requests 30 seconds, once nobody sends new ones.
	if left := *pod.TerminationGracePeriodSeconds - c.Lifecycle.PreStop.Sleep.Seconds; left < 35 {
		t.Errorf("%s: %d seconds are left to drain", name, left)
	}
	memory, err := resource.ParseQuantity(strings.TrimSuffix(c.Env[0].Value, "B"))
	memory.Add(resource.MustParse("160Mi")) // store.memory is not in Go's heap with a directory, nor are stacks of the system
	if err != nil || c.Env[0].Name != "GOMEMLIMIT" || memory.Cmp(*c.Resources.Limits.Memory()) >= 0 {
		t.Errorf("%s: %v of %v: %v", name, c.Env, c.Resources.Limits, err)
	}
	for _, c := range pod.Containers {
		if !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: container %s writes to its root", name, c.Name)
		}
	}
	if *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks {
		t.Errorf("%s: the pod gets a token, or the environment of services", name)
	}
}

func selects(t *testing.T, selector *meta.LabelSelector, pod core.PodTemplateSpec) bool {
	t.Helper()
	s, err := meta.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return !s.Empty() && s.Matches(labels.Set(pod.Labels))
}

func portOf(pod core.PodTemplateSpec, name string) int32 {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}
	return 0
}

// TestDebugPort asks the network policy who reaches what, and whether the monitoring asks where it may.
func TestDebugPort(t *testing.T) {
	t.Parallel()
	monitoring, prometheus := map[string]string{"kubernetes.io/metadata.name": "monitoring"}, map[string]string{"app.kubernetes.io/name": "prometheus"}
	for name, m := range sites(t) {
		pod := m.deployments[0].Spec.Template
		for _, c := range []struct {
			namespace, labels map[string]string
			want              []string
		}{
			{monitoring, prometheus, []string{"debug", "https"}},
			{monitoring, map[string]string{"app.kubernetes.io/name": "countersign"}, []string{"https"}},
			{map[string]string{"kubernetes.io/metadata.name": "countersign"}, prometheus, []string{"https"}},
			{map[string]string{"kubernetes.io/metadata.name": "countersign"}, pod.Labels, []string{"https"}},
			{nil, nil, []string{"https"}},
		} {
			if got := m.reaches(t, pod, c.namespace, c.labels); !slices.Equal(got, c.want) {
				t.Errorf("%s: from a pod %v of a namespace %v %v are reached, want %v", name, c.labels, c.namespace, got, c.want)
			}
		}
		if got := m.reaches(t, m.jobs[0].Spec.Template, nil, nil); len(got) != 0 {
			t.Errorf("%s: the migration is reached: %v", name, got)
		}
		monitor := m.monitors[0].Spec
		service := &core.PodTemplateSpec{ObjectMeta: m.services[0].ObjectMeta}
		ports := fmt.Sprint(m.services[0].Spec.Ports)
		if !selects(t, &monitor.Selector, *service) || len(monitor.Endpoints) != 1 || !strings.Contains(ports, "{"+monitor.Endpoints[0].Port+" ") || m.monitors[0].Namespace != m.services[0].Namespace {
			t.Errorf("%s: the monitor asks %v of %v", name, monitor.Endpoints, ports)
		}
	}
}

// reaches are the ports of a pod that another one reaches. Each policy that selects the pod counts.
func (m *manifests) reaches(t *testing.T, pod core.PodTemplateSpec, namespace, from map[string]string) (ports []string) {
	t.Helper()
	for _, p := range m.policies {
		if !selects(t, &p.Spec.PodSelector, pod) {
			t.Errorf("no policy selects %v", pod.Labels)
		}
		for _, rule := range p.Spec.Ingress {
			allowed := len(rule.From) == 0
			for _, peer := range rule.From {
				inNamespace := peer.NamespaceSelector != nil && selects(t, peer.NamespaceSelector, core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: namespace}})
				isPod := peer.PodSelector != nil && selects(t, peer.PodSelector, core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: from}})
				allowed = allowed || inNamespace && isPod
			}
			for _, port := range rule.Ports {
				if allowed && portOf(pod, port.Port.StrVal) != 0 {
					ports = append(ports, port.Port.StrVal)
				}
			}
		}
	}
	slices.Sort(ports)
	return ports
}
