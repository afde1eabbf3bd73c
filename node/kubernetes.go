package node

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxConfigMap is what a ConfigMap may have, in bytes; the API server counts the encoded object.
const maxConfigMap = 1 << 20

// images are references as a person would write them in YAML.
var images = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,500}$`)

type configMap struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   metadata          `yaml:"metadata"`
	Data       map[string]string `yaml:"data,omitempty"`
	BinaryData map[string]string `yaml:"binaryData,omitempty"`
}

type namespace struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
}

// Kubernetes is the files as a ConfigMap, and a DaemonSet that merges them into what each node
// has and follows the ConfigMap from then on. The image is Countersign's own, which needs no shell
// and no network. Nothing is restarted: CRI-O reads the files at every pull.
func (c Config) Kubernetes(at Placing) ([]byte, error) {
	ns, image := at.Namespace, at.Image
	switch {
	case !labels.MatchString(ns):
		return nil, fmt.Errorf("namespace %q is none", ns)
	case !images.MatchString(image):
		return nil, fmt.Errorf("image %q is none", image)
	}
	name := map[string]string{"app.kubernetes.io/name": "countersign-nodes"}
	files := configMap{
		APIVersion: "v1", Kind: "ConfigMap", Metadata: metadata{Name: "countersign-nodes", Namespace: ns, Labels: name},
		Data: map[string]string{}, BinaryData: map[string]string{},
	}
	items := &yaml.Node{Kind: yaml.SequenceNode}
	size, hash := 0, sha256.New()
	for _, f := range c.Files {
		key := strings.ReplaceAll(f.Path, "/", ".") // keys of a ConfigMap have no slashes
		if path.Ext(f.Path) != ".gpg" && utf8.Valid(f.Content) {
			files.Data[key] = string(f.Content)
			size += len(f.Content)
		} else {
			files.BinaryData[key] = base64.StdEncoding.EncodeToString(f.Content)
			size += len(files.BinaryData[key])
		}
		item := &yaml.Node{}
		if err := item.Encode(map[string]string{"key": key, "path": f.Path}); err != nil {
			return nil, err
		}
		items.Content = append(items.Content, item)
		fmt.Fprintf(hash, "%s\n%d\n%s", f.Path, len(f.Content), f.Content)
	}
	if size > maxConfigMap-64<<10 {
		return nil, fmt.Errorf("the files have %d bytes, more than a ConfigMap takes: give the profile fewer keys, or use another format", size)
	}
	set, err := daemonSet(c, at, fmt.Sprintf("%x", hash.Sum(nil)), items)
	if err != nil {
		return nil, err
	}
	room := namespace{APIVersion: "v1", Kind: "Namespace", Metadata: metadata{
		// Only a privileged namespace may write to directories of nodes.
		Name: ns, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"},
	}}
	return documents(c.header(), room, files, set)
}

// daemonSet fills the template, which is YAML without anything of ours in it.
func daemonSet(c Config, at Placing, hash string, items *yaml.Node) (*yaml.Node, error) {
	text, err := templates.ReadFile("templates/daemonset.yaml")
	if err != nil {
		return nil, err
	}
	var set yaml.Node
	filled := strings.NewReplacer("@NAMESPACE@", at.Namespace, "@IMAGE@", at.Image, "@PREFIX@", c.Prefix, "@HASH@", hash).Replace(string(text))
	if err := yaml.Unmarshal([]byte(filled), &set); err != nil {
		return nil, err
	}
	fill(&set, "@ITEMS@", items)
	arguments := &yaml.Node{}
	if err := arguments.Encode(c.arguments(at.Merging)); err != nil {
		return nil, err
	}
	fill(&set, "@ARGUMENTS@", arguments)
	return &set, nil
}

// arguments are the command of the pods.
func (c Config) arguments(m Merging) []string {
	arguments := []string{"node-config", "-from", "/files", "-o", c.Prefix, "-watch", "1m"}
	if m.Force {
		arguments = append(arguments, "-force")
	}
	if m.Default {
		arguments = append(arguments, "-replace-default")
	}
	return arguments
}

// fill puts a node where the word stands.
func fill(in *yaml.Node, word string, with *yaml.Node) {
	for i, child := range in.Content {
		if child.Value == word {
			in.Content[i] = with
		} else {
			fill(child, word, with)
		}
	}
}
