// Package node is the files with which nodes enforce signatures: policy.json, registries.d and
// keys, below one directory, /etc/containers. It makes them from a node policy, merges them into
// what a node has, writes them, and renders them for what brings files to many nodes.
//
// The same settings give the same bytes, and to apply them twice changes nothing.
package node

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// DefaultPrefix is where clients look for policy.json and registries.d.
const DefaultPrefix = "/etc/containers"

// Names below the directory.
const (
	policyName    = "policy.json"
	registriesDir = "registries.d"
	keysDir       = "countersign" // of ours alone
	readmeName    = keysDir + "/README"
)

// A Config is what one profile's nodes need.
type Config struct {
	Profile string
	Prefix  string // the directory on the node: policy.json names keys below it
	Files   []File // by path; policy.json, which names others, is the last
}

// A File is one of them. All have mode 0644, their directories 0755.
type File struct {
	Path    string // below the directory, with slashes
	Content []byte
}

// A Lookaside is where clients find the signatures of a host that does not advertise the extension.
type Lookaside struct {
	Host string // host[:port]
	URL  string // base URL
}

// file returns the content of a file, nil if there is none.
func (c Config) file(path string) []byte {
	for _, f := range c.Files {
		if f.Path == path {
			return f.Content
		}
	}
	return nil
}

// with returns the configuration with one file replaced or added.
func (c Config) with(path string, content []byte) Config {
	c.Files = slices.DeleteFunc(slices.Clone(c.Files), func(f File) bool { return f.Path == path })
	c.Files = append(c.Files, File{path, content})
	slices.SortFunc(c.Files, func(a, b File) int {
		if a.Path == policyName || b.Path == policyName {
			return cmp.Compare(btoi(a.Path == policyName), btoi(b.Path == policyName))
		}
		return cmp.Compare(a.Path, b.Path)
	})
	return c
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Policy is the content of policy.json.
func (c Config) Policy() []byte { return c.file(policyName) }

// Readme says what the files are, and what whoever applies them must know.
func (c Config) Readme() string { return string(c.file(readmeName)) }

// below returns the files of one of the directories.
func (c Config) below(directory string) (files []File) {
	for _, f := range c.Files {
		if strings.HasPrefix(f.Path, directory+"/") {
			files = append(files, f)
		}
	}
	return files
}

// Prefixes end up in JSON, YAML and shells.
var prefixes = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._-]*|/\.[A-Za-z0-9][A-Za-z0-9._-]*)+$`)

// CheckPrefix says what is wrong with a prefix.
func CheckPrefix(prefix string) error {
	if !prefixes.MatchString(prefix) || len(prefix) > 200 {
		return fmt.Errorf("prefix %q is no plain absolute path; %s is one", prefix, DefaultPrefix)
	}
	return nil
}

// written is how the files begin that are text and ours, so that they are known again.
func written(profile string) string {
	return fmt.Sprintf("# Written by countersign for nodes of profile %s.", profile)
}

// isWritten tells such a file.
func isWritten(content []byte) bool {
	return bytes.HasPrefix(content, []byte("# Written by countersign for nodes of profile "))
}

// Host is the first host that the policy has a scope for: where the configuration comes from.
func (c Config) Host() string {
	document, err := readPolicy(c.Policy())
	if err != nil {
		return ""
	}
	for _, s := range document.transport("docker").scopes {
		if host, _, _ := strings.Cut(s.key, "/"); strings.ContainsAny(host, ".:") {
			return host
		}
	}
	return "localhost"
}
