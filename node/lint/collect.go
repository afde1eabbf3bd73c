package lint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/policy"
)

// Bounds of what is read.
const (
	maxFile  = 1 << 20 // of registries.d and registries.conf, in bytes
	maxKeys  = 32 << 20
	maxFiles = 1000 // of one run
)

// A fileKind is what a file is to clients.
type fileKind int

const (
	policyFile fileKind = iota
	registriesD
	registriesConf
	ignoredFile // it lies where clients look, under a name that they pass over
)

// A file is one that was given, or that lies in a directory that was.
type file struct {
	path      string
	directory string // that was given, in which paths below Prefix are looked up; or empty
	kind      fileKind
	wanted    string // of an ignoredFile: how its name must end
	content   []byte
}

// ErrNothing is what Run's error wraps where there is no file to read.
var ErrNothing = errors.New("nothing to look at")

// collect reads the files that are given, and in directories those that clients read there.
func collect(paths []string) (files []file, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		found := []file{{path: path}}
		if info.IsDir() {
			found, err = inDirectory(path)
		} else {
			found[0].kind, err = kindOf(path)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%d files, at most %d are read", len(files), maxFiles)
	}
	for i := range files {
		most := int64(maxFile)
		if files[i].kind == policyFile {
			most = policy.MaxSize
		}
		if files[i].content, err = readFile(files[i].path, most); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// kindOf tells what a file is by its name, and by where it lies.
func kindOf(path string) (fileKind, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return 0, err
	}
	switch name, directory := filepath.Base(absolute), filepath.Base(filepath.Dir(absolute)); {
	case strings.HasSuffix(name, ".json"):
		return policyFile, nil
	case strings.HasSuffix(name, ".conf"):
		return registriesConf, nil
	case strings.HasSuffix(name, ".yaml"):
		return registriesD, nil
	case directory == "registries.d":
		return registriesD, nil
	}
	return 0, fmt.Errorf("%w: %s is neither policy.json, nor a .yaml of registries.d, nor registries.conf", ErrNothing, path)
}

// A listing is what clients read of a directory.
type listing struct {
	directory string
	files     []file
}

// inDirectory are the files of a directory like /etc/containers, of a registries.d or
// registries.conf.d, or of policies for namespaces, as CRI-O has them.
func inDirectory(directory string) ([]file, error) {
	l := listing{directory: directory}
	var err error
	switch absolute, _ := filepath.Abs(directory); filepath.Base(absolute) {
	case "registries.d":
		err = l.dropIns(registriesD, ".", ".yaml", ".yml")
	case "registries.conf.d":
		err = l.dropIns(registriesConf, ".", ".conf", ".toml")
	default:
		err = errors.Join(l.one(policyFile, "policy.json"), l.one(registriesConf, "registries.conf"),
			l.dropIns(registriesD, "registries.d", ".yaml", ".yml"), l.dropIns(registriesConf, "registries.conf.d", ".conf", ".toml"))
		if err == nil && len(l.files) == 0 {
			err = l.dropIns(policyFile, ".", ".json")
		}
	}
	if err == nil && len(l.files) == 0 {
		err = fmt.Errorf("%w: %s has neither policy.json nor registries.d nor registries.conf", ErrNothing, directory)
	}
	return l.files, err
}

// one adds a file, if it is there.
func (l *listing) one(kind fileKind, name string) error {
	path := filepath.Join(l.directory, name)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	l.files = append(l.files, file{path: path, directory: l.directory, kind: kind})
	return err
}

// dropIns adds the files below that end as clients want it, and those that almost do.
func (l *listing) dropIns(kind fileKind, below, suffix string, almost ...string) error {
	entries, err := os.ReadDir(filepath.Join(l.directory, below))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		f := file{path: filepath.Join(l.directory, below, e.Name()), directory: l.directory, kind: kind, wanted: suffix}
		switch extension := filepath.Ext(e.Name()); {
		case e.IsDir():
		case strings.HasSuffix(e.Name(), suffix):
			l.files = append(l.files, f)
		case slices.Contains(almost, strings.ToLower(extension)), strings.EqualFold(extension, suffix):
			f.kind = ignoredFile
			l.files = append(l.files, f)
		}
	}
	return err
}

// readFile reads a regular file of a bounded size: a pipe would have us wait.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return content, err
}
