package node

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// labels are what Kubernetes takes as a name, and OpenShift as a role.
var labels = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ignitionVersion is read by every OpenShift since 4.6.
const ignitionVersion = "3.2.0"

type machineConfig struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       struct {
		Config struct {
			Ignition struct {
				Version string `yaml:"version"`
			} `yaml:"ignition"`
			Storage struct {
				Files []ignitionFile `yaml:"files"`
			} `yaml:"storage"`
		} `yaml:"config"`
	} `yaml:"spec"`
}

type metadata struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

type ignitionFile struct {
	Path      string `yaml:"path"`
	Mode      int    `yaml:"mode"` // decimal, as JSON wants it
	Overwrite bool   `yaml:"overwrite"`
	Contents  struct {
		Source string `yaml:"source"`
	} `yaml:"contents"`
}

// MachineConfig is the files for the nodes of an OpenShift role. The operator writes them whole:
// what the nodes' policy.json has must be merged before. Of two that write one file the last by
// name counts, and OpenShift makes a policy.json of its own (99-ROLE-generated-registries) where
// its settings allow or block registries: this one's name is behind that.
func (c Config) MachineConfig(role string) ([]byte, error) {
	if !labels.MatchString(role) {
		return nil, fmt.Errorf("role %q is none; worker and master are", role)
	}
	m := machineConfig{APIVersion: "machineconfiguration.openshift.io/v1", Kind: "MachineConfig", Metadata: metadata{
		Name:   "99-" + role + "-signature-policy",
		Labels: map[string]string{"machineconfiguration.openshift.io/role": role},
	}}
	m.Spec.Config.Ignition.Version = ignitionVersion
	for _, f := range c.Files {
		file := ignitionFile{Path: c.Prefix + "/" + f.Path, Mode: 0o644, Overwrite: true}
		file.Contents.Source = "data:;base64," + base64.StdEncoding.EncodeToString(f.Content)
		m.Spec.Config.Storage.Files = append(m.Spec.Config.Storage.Files, file)
	}
	return documents(c.header(), m)
}

// header is what a person reads who opens a rendering.
func (c Config) header() string {
	var out bytes.Buffer
	for line := range bytes.Lines([]byte(c.Readme())) {
		if line = bytes.TrimRight(bytes.TrimPrefix(line, []byte("# ")), "\n"); len(line) > 0 {
			fmt.Fprintf(&out, "# %s\n", line)
		} else {
			out.WriteString("#\n")
		}
	}
	return out.String()
}

// documents writes YAML documents behind a comment.
func documents(header string, values ...any) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(header)
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), encoder.Close()
}
