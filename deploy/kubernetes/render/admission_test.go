package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// restricted is what Kubernetes says of a pod at its restricted standard: nothing, or why not.
func restricted(t *testing.T, pod core.PodTemplateSpec) error {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	latest := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(latest, &pod.ObjectMeta, &pod.Spec))
	if result.Allowed {
		return nil
	}
	return errors.New(result.ForbiddenDetail())
}

// restrictedSCC is what OpenShift's restricted-v2 says of a pod, rule by rule, as its definition has
// them. It fills in what a pod leaves out, so a field that is absent meets a rule that chooses.
func restrictedSCC(pod core.PodSpec) error {
	var errs []error
	must := func(ok bool, rule string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(rule, args...))
		}
	}
	must(!pod.HostNetwork, "allowHostNetwork: false")
	must(!pod.HostPID, "allowHostPID: false")
	must(!pod.HostIPC, "allowHostIPC: false")
	for _, v := range pod.Volumes {
		s := v.VolumeSource
		must(s.ConfigMap != nil || s.Secret != nil || s.EmptyDir != nil || s.PersistentVolumeClaim != nil || s.Projected != nil || s.DownwardAPI != nil || s.CSI != nil || s.Ephemeral != nil,
			"volumes: %s is of another kind", v.Name)
	}
	if c := pod.SecurityContext; c != nil {
		must(c.RunAsUser == nil, "runAsUser: MustRunAsRange, and the pod chooses %v", value(c.RunAsUser))
		must(c.FSGroup == nil, "fsGroup: MustRunAs, of the namespace's range, and the pod chooses %v", value(c.FSGroup))
		must(c.SELinuxOptions == nil, "seLinuxContext: MustRunAs, and the pod chooses")
		must(c.SeccompProfile == nil || c.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault, "seccompProfiles: runtime/default")
		must(len(c.Sysctls) == 0, "forbiddenSysctls")
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, p := range c.Ports {
			must(p.HostPort == 0, "allowHostPorts: false, and %s has %d", c.Name, p.HostPort)
		}
		s := c.SecurityContext
		if s == nil {
			continue
		}
		must(s.RunAsUser == nil, "runAsUser: MustRunAsRange, and %s chooses %v", c.Name, value(s.RunAsUser))
		must(s.SELinuxOptions == nil, "seLinuxContext: MustRunAs, and %s chooses", c.Name)
		must(s.Privileged == nil || !*s.Privileged, "allowPrivilegedContainer: false")
		must(s.AllowPrivilegeEscalation == nil || !*s.AllowPrivilegeEscalation, "allowPrivilegeEscalation: false")
		must(s.Capabilities == nil || !slices.ContainsFunc(s.Capabilities.Add, func(c core.Capability) bool { return c != "NET_BIND_SERVICE" }), "allowedCapabilities: NET_BIND_SERVICE alone")
		must(s.SeccompProfile == nil || s.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault, "seccompProfiles: runtime/default")
	}
	return errors.Join(errs...)
}

func value(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// TestAdmitted asks both platforms about every pod, and about pods that each of them must refuse.
func TestAdmitted(t *testing.T) {
	t.Parallel()
	for name, m := range sites(t) {
		if len(m.pods()) != 2 {
			t.Errorf("%s: %d kinds of pods, want the server's and the migration's", name, len(m.pods()))
		}
		for pod, template := range m.pods() {
			if err := restricted(t, template); err != nil {
				t.Errorf("%s: %s at the restricted standard: %v", name, pod, err)
			}
			err := restrictedSCC(template.Spec)
			// In the registry's pod elsewhere somebody must choose a user: the registry's image does not.
			if chosen := name == "in the pod" && strings.HasPrefix(pod, "Deployment"); chosen != (err != nil) {
				t.Errorf("%s: %s under OpenShift's restricted SCC: %v", name, pod, err)
			}
		}
	}
}

// TestRefused spoils a pod in one way each: what TestAdmitted asks does refuse.
func TestRefused(t *testing.T) {
	t.Parallel()
	good := decode(t, site(t)).deployments[0].Spec.Template
	yes, root := true, int64(0)
	for name, spoil := range map[string]func(*core.PodSpec){
		"host network": func(p *core.PodSpec) { p.HostNetwork = true },
		"host path": func(p *core.PodSpec) {
			p.Volumes[0].VolumeSource = core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/"}}
		},
		"root":       func(p *core.PodSpec) { p.SecurityContext.RunAsUser = &root },
		"unconfined": func(p *core.PodSpec) { p.SecurityContext.SeccompProfile.Type = core.SeccompProfileTypeUnconfined },
		"escalation": func(p *core.PodSpec) { p.Containers[0].SecurityContext.AllowPrivilegeEscalation = &yes },
		"capability": func(p *core.PodSpec) {
			p.Containers[0].SecurityContext.Capabilities.Add = []core.Capability{"SYS_ADMIN"}
		},
		"privileged":         func(p *core.PodSpec) { p.Containers[0].SecurityContext.Privileged = &yes },
		"port of the host":   func(p *core.PodSpec) { p.Containers[0].Ports[0].HostPort = 5000 },
		"processes of hosts": func(p *core.PodSpec) { p.HostPID = true },
	} {
		pod := *good.DeepCopy()
		spoil(&pod.Spec)
		if restricted(t, pod) == nil {
			t.Errorf("%s: accepted at the restricted standard", name)
		}
		if restrictedSCC(pod.Spec) == nil {
			t.Errorf("%s: accepted by OpenShift's restricted SCC", name)
		}
	}
}
