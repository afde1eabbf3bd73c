package schemas

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ignition "github.com/coreos/ignition/v2/config/v3_2"
	openshift "github.com/openshift/api/machineconfiguration/v1"
	"github.com/vincent-petithory/dataurl"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/countersign-dev/countersign/node"
	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// ring has one key, made once: it takes its time.
var ring = sync.OnceValues(func() (*signature.Keyring, error) {
	_, public, err := signature.Generate("release", 3072, time.Unix(1_700_000_000, 0))
	if err != nil {
		return nil, err
	}
	return signature.ReadKeyring(public)
})

// profiles are configurations of all kinds: with and without lookasides, below another prefix.
func profiles(t *testing.T) map[string]node.Config {
	t.Helper()
	keys, err := ring()
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"registry.example.com", "registry.svc:5000"}
	all := map[string]node.Config{}
	for name, options := range map[string]node.Options{
		"extension": {Profile: "production", Hosts: hosts},
		"lookaside": {Profile: "dmz", Lookasides: []node.Lookaside{{Host: hosts[0], URL: "https://sigs.example.com"}, {Host: hosts[1], URL: "https://sigs.example.com"}}},
		"prefix":    {Profile: "build", Prefix: "/usr/local/etc/containers"},
	} {
		if all[name], err = node.Make(policy.Trust(hosts, keys), options); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// decode reads YAML as an API server does that was asked to be strict.
func decode(t *testing.T, document []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		t.Fatalf("%T: %v\n%s", into, err, document)
	}
}

func TestMachineConfig(t *testing.T) {
	t.Parallel()
	for name, c := range profiles(t) {
		for _, role := range []string{"worker", "master", "infra-1"} {
			t.Run(name+", "+role, func(t *testing.T) {
				t.Parallel()
				document, err := c.MachineConfig(role)
				if err != nil {
					t.Fatal(err)
				}
				var m openshift.MachineConfig
				decode(t, document, &m)
				if want := openshift.GroupVersion.String(); m.APIVersion != want || m.Kind != "MachineConfig" || m.Labels[openshift.MachineConfigRoleLabelKey] != role {
					t.Errorf("it is a %s %s with labels %v, want %s", m.APIVersion, m.Kind, m.Labels, want)
				}
				wantName(t, m.ObjectMeta)
				// The operator merges them in the order of their names, and the last policy.json counts.
				if m.Name < "99-"+role+"-generated-registries" {
					t.Errorf("%s comes before what OpenShift generates, which replaces it", m.Name)
				}
				config, report, err := ignition.Parse(m.Spec.Config.Raw)
				if err != nil || len(report.Entries) > 0 {
					t.Fatalf("ignition says %v: %s", err, report)
				}
				if len(config.Storage.Files) != len(c.Files) {
					t.Fatalf("%d files, want %d", len(config.Storage.Files), len(c.Files))
				}
				for i, f := range c.Files {
					got := config.Storage.Files[i]
					content, err := dataurl.DecodeString(*got.Contents.Source)
					if err != nil || !bytes.Equal(content.Data, f.Content) || got.Path != c.Prefix+"/"+f.Path || *got.Mode != 0o644 || !*got.Overwrite {
						t.Errorf("%s with mode %o is not %s: %v", got.Path, *got.Mode, f.Path, err)
					}
				}
			})
		}
	}
}

// wantName asserts that an object's name, namespace and labels are ones.
func wantName(t *testing.T, m meta.ObjectMeta) {
	t.Helper()
	wrong := validation.IsDNS1123Subdomain(m.Name)
	if m.Namespace != "" {
		wrong = append(wrong, validation.IsDNS1123Label(m.Namespace)...)
	}
	for key, value := range m.Labels {
		wrong = append(append(wrong, validation.IsQualifiedName(key)...), validation.IsValidLabelValue(value)...)
	}
	if len(wrong) > 0 {
		t.Errorf("%s/%s: %q", m.Namespace, m.Name, wrong)
	}
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	for name, c := range profiles(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := node.DefaultPlacing()
			at.Image = "registry.example.com/countersign:v1"
			at.Merging = node.Merging{Force: true, Default: true}
			text, err := c.Kubernetes(at)
			if err != nil {
				t.Fatal(err)
			}
			documents := bytes.Split(text, []byte("\n---\n"))
			if len(documents) != 3 {
				t.Fatalf("%d documents, want 3", len(documents))
			}
			var room core.Namespace
			var files core.ConfigMap
			var set apps.DaemonSet
			for i, into := range []any{&room, &files, &set} {
				decode(t, documents[i], into)
			}
			for kind, m := range map[string]meta.ObjectMeta{"v1 Namespace": room.ObjectMeta, "v1 ConfigMap": files.ObjectMeta, "apps/v1 DaemonSet": set.ObjectMeta} {
				wantName(t, m)
				if !slices.Contains([]string{room.APIVersion + " " + room.Kind, files.APIVersion + " " + files.Kind, set.APIVersion + " " + set.Kind}, kind) {
					t.Errorf("there is no %s", kind)
				}
			}
			if room.Name != at.Namespace || files.Namespace != at.Namespace || set.Namespace != at.Namespace {
				t.Errorf("the namespaces are %s, %s, %s", room.Name, files.Namespace, set.Namespace)
			}
			wantFiles(t, c, files, set.Spec.Template.Spec)
			wantPods(t, set)
			wantSecurity(t, room, set.Spec.Template)
		})
	}
}

// wantFiles asserts that what the ConfigMap's volume has is the configuration's files.
func wantFiles(t *testing.T, c node.Config, files core.ConfigMap, pod core.PodSpec) {
	t.Helper()
	items := map[string]string{} // keys by paths
	for _, item := range pod.Volumes[0].ConfigMap.Items {
		items[item.Path] = item.Key
	}
	if pod.Volumes[0].ConfigMap.Name != files.Name || len(items) != len(c.Files) {
		t.Errorf("the volume has %d files of %s, want %d of %s", len(items), pod.Volumes[0].ConfigMap.Name, len(c.Files), files.Name)
	}
	for _, f := range c.Files {
		key := items[f.Path]
		if wrong := validation.IsConfigMapKey(key); len(wrong) > 0 {
			t.Errorf("%s has the key %q: %q", f.Path, key, wrong)
		}
		content, binary := files.BinaryData[key]
		if text, ok := files.Data[key]; ok == binary {
			t.Errorf("%s is twice in the ConfigMap, or not at all", key)
		} else if ok {
			content = []byte(text)
		}
		if !bytes.Equal(content, f.Content) {
			t.Errorf("%s is %.60q, want %.60q", f.Path, content, f.Content)
		}
	}
}

// wantPods asserts what an API server does beyond types: pods are found by their labels, and what
// is mounted is there.
func wantPods(t *testing.T, set apps.DaemonSet) {
	t.Helper()
	selector, err := meta.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels(set.Spec.Template.Labels)) {
		t.Errorf("%v does not select pods with %v: %v", selector, set.Spec.Template.Labels, err)
	}
	pod := set.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	for _, mount := range pod.Containers[0].VolumeMounts {
		if !slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == mount.Name }) {
			t.Errorf("%s is no volume", mount.Name)
		}
	}
	if args := strings.Join(pod.Containers[0].Args, " "); !strings.HasPrefix(args, "node-config ") || !strings.HasSuffix(args, " -force -replace-default") {
		t.Errorf("the pods run %s", args)
	}
}

type labels map[string]string

func (l labels) Has(key string) bool              { return l[key] != "" }
func (l labels) Get(key string) string            { return l[key] }
func (l labels) Lookup(key string) (string, bool) { v, ok := l[key]; return v, ok }

// wantSecurity asserts that the pods ask for no more than they need: a directory of the node, and
// the SELinux type that may write there. That is more than the standards baseline and restricted
// allow, and the namespace says so.
func wantSecurity(t *testing.T, room core.Namespace, pod core.PodTemplateSpec) {
	t.Helper()
	evaluator, err := security.NewEvaluator(security.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(level api.Level) (forbidden []string) {
		all := evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec)
		for _, result := range all {
			if !result.Allowed {
				forbidden = append(forbidden, result.ForbiddenReason)
			}
		}
		slices.Sort(forbidden)
		return slices.Compact(forbidden)
	}
	if got, want := fmt.Sprint(ask(api.LevelBaseline)), "[hostPath volumes seLinuxOptions]"; got != want {
		t.Errorf("baseline forbids %s, want %s", got, want)
	}
	if got := ask(api.Level(room.Labels[api.EnforceLevelLabel])); len(got) > 0 {
		t.Errorf("the namespace forbids its own pods: %q", got)
	}
}
