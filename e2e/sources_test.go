package e2e

import (
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// releaseVersion is the tag of the commit that tests make of the sources.
const releaseVersion = "v1.2.3"

// sources is a repository of git with one commit, tagged: what is in the tree that is tested. The
// checkout itself may belong to another user, have no repository, or be a worktree.
var sources = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(built.dir, "sources")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := copyTree("..", dir); err != nil {
		return "", err
	}
	script := `git init -q && git add -A && git commit -q -m sources && git tag ` + releaseVersion
	return dir, shell(dir, script)
})

// copyTree leaves out what git has beside the sources.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case name == ".git" || name == "countersign-data" || name == "dist":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular() || name == "countersign":
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, info.Mode().Perm())
	})
}

// shell runs a script as somebody whom git knows, at a time of its own.
func shell(dir, script string, environment ...string) error {
	c := exec.Command("bash", "-euc", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=somebody", "GIT_AUTHOR_EMAIL=somebody@example.test",
		"GIT_COMMITTER_NAME=somebody", "GIT_COMMITTER_EMAIL=somebody@example.test")
	c.Env = append(c.Env, environment...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}

// TestReleaseBuilds makes a release twice, in two places at two times, and compares what came out. What
// one architecture takes minutes for with nothing in the build cache, make soak does for both, and
// the second time with a cache of its own.
func TestReleaseBuilds(t *testing.T) {
	t.Parallel()
	need(t, "git", "make")
	first, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(t.TempDir(), "elsewhere", "deeper")
	architectures, other := []string{"amd64"}, []string{"TZ=Pacific/Auckland", "HOME=" + t.TempDir()}
	for _, variable := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"} { // HOME says where they are
		value, err := exec.CommandContext(t.Context(), "go", "env", variable).Output()
		if err != nil {
			t.Fatal(err)
		}
		other = append(other, variable+"="+strings.TrimSpace(string(value)))
	}
	if soak() {
		architectures, other = append(architectures, "arm64"), append(other, "GOCACHE="+t.TempDir())
	}
	release := "make release ARCHITECTURES='" + strings.Join(architectures, " ") + "'"
	if err := shell(".", "git clone -q "+first+" "+second); err != nil {
		t.Fatal(err)
	}
	if err := shell(first, release); err != nil {
		t.Fatal(err)
	}
	if err := shell(second, "umask 077; "+release, other...); err != nil {
		t.Fatal(err)
	}
	names := []string{"SHA256SUMS"}
	for _, architecture := range architectures {
		binary := "countersign-linux-" + architecture
		names = append(names, binary, binary+".cdx.json")
		checkStatic(t, filepath.Join(first, "dist", binary), architecture)
		checkMaterials(t, filepath.Join(first, "dist", binary))
	}
	slices.Sort(names)
	for _, dir := range []string{first, second} {
		var found []string
		entries, err := os.ReadDir(filepath.Join(dir, "dist"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, e.Name())
		}
		if !slices.Equal(found, names) {
			t.Errorf("%s/dist has %v, want %v", dir, found, names)
		}
		if err := shell(filepath.Join(dir, "dist"), "sha256sum --check --strict --quiet SHA256SUMS"); err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		if read(t, filepath.Join(first, "dist", name)) != read(t, filepath.Join(second, "dist", name)) {
			t.Errorf("two builds differ in %s", name)
		}
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(first, "dist", "countersign-linux-amd64"), "version").Output()
	if want := "countersign " + releaseVersion + "\n"; string(out) != want || err != nil {
		t.Errorf("version says %q, %v, want %q", out, err, want)
	}
}

// checkStatic wants a binary that needs nothing of the machine, and tells nothing of that which
// built it.
func checkStatic(t *testing.T, binary, architecture string) {
	t.Helper()
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[architecture]; f.Machine != want {
		t.Errorf("%s is for %v, want %v", binary, f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has a segment %v", binary, p.Type)
		}
	}
	content := read(t, binary)
	for _, path := range []string{built.dir, filepath.Dir(binary)} {
		if strings.Contains(content, path) {
			t.Errorf("%s has in it where it was built, %s", binary, path)
		}
	}
}

// checkMaterials wants the bill of materials to have what the toolchain wrote into the binary.
func checkMaterials(t *testing.T, binary string) {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if info.Main.Version != releaseVersion {
		t.Errorf("%s is of version %s, want %s", binary, info.Main.Version, releaseVersion)
	}
	want := []string{"std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, m.Path+"@"+m.Version)
	}
	type component struct{ Type, Name, Version, Purl string }
	var bom struct {
		BOMFormat, SpecVersion string
		Metadata               struct{ Component component }
		Components             []component
	}
	if err := json.Unmarshal([]byte(read(t, binary+".cdx.json")), &bom); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range bom.Components {
		got = append(got, c.Name+"@"+c.Version)
		if c.Purl != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%s has the package URL %s", c.Name, c.Purl)
		}
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion == "" || bom.Metadata.Component.Version != releaseVersion || !slices.Equal(got, want) {
		t.Errorf("%s.cdx.json is %s %s of %v with\n%v, want\n%v", binary, bom.BOMFormat, bom.SpecVersion, bom.Metadata.Component, got, want)
	}
}
