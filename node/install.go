package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Install writes the files below a directory: keys first, policy.json last and each in one step,
// so that at no moment a policy names a key that is not there. It says what it changed, a line
// each, nothing where everything is as it should be; and what it found and left. With dry it only
// says so.
func (c Config) Install(directory string, dry bool) (changes, left []string, err error) {
	if err := c.claims(filepath.Join(directory, registriesDir)); err != nil {
		return nil, nil, err
	}
	for _, f := range c.Files {
		change, err := write(filepath.Join(directory, filepath.FromSlash(f.Path)), f.Content, dry)
		if err != nil {
			return changes, nil, err
		}
		if change != "" {
			changes = append(changes, f.Path+": "+change)
		}
	}
	return changes, c.left(directory), nil
}

// claims refuses to write a namespace that another file has: clients would read neither.
func (c Config) claims(directory string) error {
	ours := map[string]string{} // by namespace
	for _, f := range c.below(registriesDir) {
		for _, namespace := range namespaces(f.Content) {
			ours[namespace] = filepath.Base(f.Path)
		}
	}
	others, err := filepath.Glob(filepath.Join(directory, "*.yaml"))
	if err != nil || len(ours) == 0 {
		return err
	}
	for _, other := range others {
		if c.file(registriesDir+"/"+filepath.Base(other)) != nil {
			continue
		}
		content, err := os.ReadFile(other)
		if err != nil {
			return err
		}
		for _, namespace := range namespaces(content) {
			if ours[namespace] != "" {
				return fmt.Errorf("%w: %s says where the signatures of %s are, and so would %s; clients refuse to read both\nhint: take it out of the first",
					ErrConflict, other, namespace, ours[namespace])
			}
		}
	}
	return nil
}

// namespaces are those that a file of registries.d claims.
func namespaces(content []byte) (names []string) {
	var file struct {
		Docker map[string]yaml.Node `yaml:"docker"`
	}
	if yaml.Unmarshal(content, &file) != nil {
		return nil // clients say so, and lint
	}
	for name := range file.Docker {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// left tells of files of ours that belong to no configuration any more.
func (c Config) left(directory string) (said []string) {
	for _, pattern := range []string{registriesDir + "/*.yaml", keysDir + "/*.gpg"} {
		found, _ := filepath.Glob(filepath.Join(directory, filepath.FromSlash(pattern))) // the pattern is good
		for _, path := range found {
			name := filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(path, directory), string(filepath.Separator)))
			content, err := os.ReadFile(path)
			if c.file(name) != nil || err != nil || strings.HasSuffix(name, ".yaml") && !isWritten(content) {
				continue
			}
			if key := []byte(filepath.Base(path)); bytes.Contains(c.Policy(), key) {
				continue
			}
			said = append(said, name+": is left from before and not used any more; remove it when no policy names it")
		}
	}
	return said
}

// write brings one file to its content and mode, in one step, and says what it did.
func write(path string, content []byte, dry bool) (string, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the link stays, and what it leads to is replaced
	}
	what := "new"
	switch info, err := os.Stat(path); {
	case err == nil && !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is no file", path)
	case err == nil:
		there, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if same := bytes.Equal(there, content); same && info.Mode().Perm() == 0o644 {
			return "", nil
		} else if what = "changed"; same {
			what = fmt.Sprintf("mode 0644, was %04o", info.Mode().Perm())
		}
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if dry {
		return what, nil
	}
	return what, replace(path, content)
}

func replace(path string, content []byte) error {
	directory := filepath.Dir(path)
	if err := makeDirectory(directory); err != nil {
		return err
	}
	file, err := os.CreateTemp(directory, ".countersign-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // in vain once it has its name
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(0o644), file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeDirectory makes what is missing with mode 0755, whatever the umask: who pulls without being
// root reads these files, too.
func makeDirectory(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(path); parent != path {
		if err := makeDirectory(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(path, 0o755)
}
