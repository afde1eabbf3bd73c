package node

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/policy"
)

// Bounds of a configuration that comes from elsewhere.
const (
	maxFiles = 4096
	maxBytes = 64 << 20
)

// Tar is the files as they stand below the directory, the same bytes for the same files.
func (c Config) Tar() []byte { return archived(c.Files, registriesDir, keysDir) }

// archived writes files, and directories so that they have their mode, whatever the umask of who
// unpacks them.
func archived(files []File, directories ...string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out) // a buffer never fails
	for _, d := range directories {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	}
	for _, f := range files {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: int64(len(f.Content)), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
		_, _ = w.Write(f.Content)
	}
	_ = w.Close()
	return out.Bytes()
}

// known are the paths that a configuration has; whoever sends one names no others.
var known = regexp.MustCompile(`^(?:policy\.json|registries\.d/[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.yaml|countersign/(?:README|[0-9A-F]{40}(?:-and-[0-9]{1,5}-more-[0-9a-f]{16})?\.gpg))$`)

// ReadTar reads what Tar wrote, and nothing else: what comes over a network is not trusted to
// name files.
func ReadTar(r io.Reader) (Config, error) {
	var c Config
	in := tar.NewReader(io.LimitReader(r, maxBytes))
	for {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return c.checked()
		case err != nil:
			return Config{}, fmt.Errorf("not an archive of node configuration: %w", err)
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg || !known.MatchString(h.Name):
			return Config{}, fmt.Errorf("not an archive of node configuration: it has %q", h.Name)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return Config{}, err
		}
		if c, err = c.adding(h.Name, content); err != nil {
			return Config{}, err
		}
	}
}

// ReadDirectory reads what was written to a directory, or unpacked there. Of what else is in it
// nothing is read.
func ReadDirectory(directory string) (Config, error) {
	// A volume of Kubernetes changes as a whole, by one link; what is behind it does not.
	if whole, err := filepath.EvalSymlinks(filepath.Join(directory, "..data")); err == nil {
		directory = whole
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return Config{}, err
	}
	defer root.Close()
	var c Config
	for _, d := range []string{".", registriesDir, keysDir} {
		entries, err := fs.ReadDir(root.FS(), d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Config{}, err
		}
		for _, entry := range entries {
			name := path.Join(d, entry.Name())
			if !known.MatchString(name) {
				continue
			}
			content, err := root.ReadFile(filepath.FromSlash(name))
			if err != nil {
				return Config{}, err
			}
			if d == registriesDir && !isWritten(content) {
				continue
			}
			if c, err = c.adding(name, content); err != nil {
				return Config{}, err
			}
		}
	}
	return c.checked()
}

func (c Config) adding(name string, content []byte) (Config, error) {
	if len(c.Files) == maxFiles {
		return Config{}, fmt.Errorf("more than %d files", maxFiles)
	}
	return c.with(name, content), nil
}

// checked finds out profile and prefix again.
func (c Config) checked() (Config, error) {
	document := c.Policy()
	if document == nil {
		return Config{}, fmt.Errorf("%s is not among the files", policyName)
	}
	p, err := policy.Parse(document)
	if err != nil {
		return Config{}, err
	}
	c.Prefix = DefaultPrefix
	for _, s := range p.Scopes() {
		for _, r := range s.Requirements {
			for _, f := range r.Files {
				prefix, rest, ok := strings.Cut(f.Path, "/"+keysDir+"/")
				switch {
				case ok && c.file(keysDir+"/"+rest) != nil:
					c.Prefix = prefix
				case ok:
					return c, fmt.Errorf("%s names %s, which is not among the files", policyName, f.Path)
				}
			}
		}
	}
	first, _, _ := strings.Cut(c.Readme(), "\n")
	c.Profile = strings.TrimSuffix(strings.TrimPrefix(first, "# Written by countersign for nodes of profile "), ".")
	return c, nil
}
