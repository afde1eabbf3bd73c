package node

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed templates
var templates embed.FS

// Ansible is the files as a role: it merges policy.json into what each node has, as Merge does.
func (c Config) Ansible(m Merging) ([]File, error) {
	tasks, err := templates.ReadFile("templates/role/tasks/main.yml")
	if err != nil {
		return nil, err
	}
	var files []File
	paths, registries := []string{}, []string{}
	for _, f := range c.Files {
		files = append(files, File{"files/" + f.Path, f.Content})
		if f.Path != policyName && f.Path != readmeName {
			paths = append(paths, f.Path)
		}
	}
	for _, f := range c.below(registriesDir) {
		registries = append(registries, f.Path)
	}
	vars, err := documents(written(c.Profile)+"\n", map[string]any{
		"countersign_prefix": c.Prefix, "countersign_files": paths, "countersign_registries": registries,
	})
	if err != nil {
		return nil, err
	}
	defaults := fmt.Sprintf(`# Replace scopes that a node's policy.json has with other requirements; else the play fails there.
countersign_force: %t
# Replace the default of a node's policy.json by the profile's; else it stays as it is.
countersign_replace_default: %t
`, m.Force, m.Default)
	const meta = `galaxy_info:
  role_name: countersign_nodes
  author: countersign
  description: What nodes need to enforce image signatures
  license: Apache-2.0
  min_ansible_version: "2.9"
dependencies: []
`
	readme := fmt.Sprintf("%s\n\nUse it with become: true. Variables are in defaults/main.yml.\n", strings.TrimPrefix(strings.TrimSpace(c.Readme()), "# "))
	return append(files,
		File{"files/" + readmeName + ".kept", []byte(keeping(c.Readme(), []byte("@DEFAULT@")))}, // where a node's default stays
		File{"README.md", []byte(readme)},
		File{"defaults/main.yml", []byte(defaults)},
		File{"meta/main.yml", []byte(meta)},
		File{"tasks/main.yml", tasks},
		File{"vars/main.yml", vars},
	), nil
}
