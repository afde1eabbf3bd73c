package node

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A Format is one in which files come to nodes.
type Format string

const (
	Directory         Format = "dir"           // on this node, merged into what it has
	Tar               Format = "tar"           // of that directory
	AnsibleRole       Format = "ansible"       // a directory with a role
	MachineConfigYAML Format = "machineconfig" // of OpenShift
	KubernetesYAML    Format = "kubernetes"    // ConfigMap and DaemonSet
)

// Formats are all of them.
func Formats() []Format {
	return []Format{Directory, Tar, AnsibleRole, MachineConfigYAML, KubernetesYAML}
}

// Placing says where in a cluster the files go. Each format needs only some of it.
type Placing struct {
	Role      string  // of OpenShift's nodes
	Namespace string  // of Kubernetes
	Image     string  // of Countersign, for the DaemonSet
	Merging   Merging // of what merges on the nodes themselves: the role, and the DaemonSet
}

// DefaultPlacing is what is placed where nobody says so.
func DefaultPlacing() Placing { return Placing{Role: "worker", Namespace: "countersign-nodes"} }

// Render returns one file in the format: an archive, or YAML. A role is an archive here.
func (c Config) Render(f Format, at Placing) (content []byte, mediaType string, err error) {
	switch f {
	case Tar, Directory:
		return c.Tar(), "application/x-tar", nil
	case AnsibleRole:
		files, err := c.Ansible(at.Merging)
		return archived(files), "application/x-tar", err
	case MachineConfigYAML:
		content, err = c.MachineConfig(at.Role)
	case KubernetesYAML:
		content, err = c.Kubernetes(at)
	default:
		return nil, "", fmt.Errorf("format %q is none of %s", f, formatNames())
	}
	return content, "application/yaml", err
}

func formatNames() string {
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// WriteRole writes the Ansible role to a directory and says what it changed.
func (c Config) WriteRole(directory string, m Merging, dry bool) (changes []string, err error) {
	files, err := c.Ansible(m)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		change, err := write(filepath.Join(directory, filepath.FromSlash(f.Path)), f.Content, dry)
		if err != nil {
			return changes, err
		}
		if change != "" {
			changes = append(changes, f.Path+": "+change)
		}
	}
	return changes, nil
}
