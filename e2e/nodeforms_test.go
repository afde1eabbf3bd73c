package e2e

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A form is a way in which files come to a node. It brings those of a profile, and is asked a
// second time, when nothing may change.
type form func(t *testing.T, f fleet, n *node, profile string)

// TestNodeConfigForms brings files to nodes in every form that they come in. The form must bring
// the very files that the directory has, and nodes must pull by them what they should.
func TestNodeConfigForms(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "advertise: false\n")                         // one file more: that of registries.d
	for _, who := range []string{"carol", "scratch", "retagged"} { // TestNodeConfig has them
		delete(f.images, who)
	}
	for name, bring := range map[string]form{"tar": asTar, "ansible": asRole, "machineconfig": asMachineConfig, "kubernetes": asDaemonSet} {
		for profile, accepted := range map[string][]string{"production": {"alice"}, "build": {"alice", "bob"}} {
			t.Run(name+", "+profile, func(t *testing.T) {
				t.Parallel()
				n := newNode(t).bare(t)
				bring(t, f, n, profile)
				want := filepath.Join(t.TempDir(), "containers")
				f.nodeConfig(t, "-profile", profile, "-o", want, "-prefix", n.containers())
				wantSame(t, n.containers(), want)
				f.pulls(t, n, accepted...)
				before := snapshot(t, n.containers())
				bring(t, f, n, profile)
				if after := snapshot(t, n.containers()); name != "machineconfig" && after != before {
					t.Errorf("the second time changes files:\n%s\nbefore\n%s", after, before)
				}
			})
		}
	}
}

// wantSame asserts that two directories have the same files, modes and contents.
func wantSame(t testing.TB, got, want string) {
	t.Helper()
	times := regexp.MustCompile(`(?m) \d+ (sha256:)`)
	if got, want := times.ReplaceAllString(snapshot(t, got), " $1"), times.ReplaceAllString(snapshot(t, want), " $1"); got != want {
		t.Errorf("the files are\n%s\nand as a directory\n%s", got, want)
	}
}

func asTar(t *testing.T, f fleet, n *node, profile string) {
	f.nodeConfig(t, "-profile", profile, "-prefix", n.containers(), "-o", filepath.Join(n.dir, "files.tar"))
	works(t)(n.run(t, "tar", "-C", n.containers(), "-xf", "files.tar"))
}

// role writes the role for a node, next to a playbook that uses it on this machine.
func (f fleet) role(t testing.TB, n *node, profile string, more ...string) {
	t.Helper()
	f.nodeConfig(t, append([]string{"-profile", profile, "-prefix", n.containers(), "-format", "ansible", "-o", filepath.Join(n.dir, "roles/countersign")}, more...)...)
	write(t, filepath.Join(n.dir, "site.yml"), "- hosts: all\n  gather_facts: false\n  roles: [countersign]\n")
}

var recap = regexp.MustCompile(`changed=(\d+) +unreachable=0 +failed=(\d+)`)

// play applies the role to this machine and returns how much was changed.
func (n *node) play(t testing.TB, args ...string) (changed, failed, out string) {
	t.Helper()
	out, _ = n.ansible(t, append([]string{"-i", "node,", "-c", "local", "-e", "ansible_python_interpreter=/usr/bin/python3", "site.yml"}, args...)...)
	found := recap.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the play did not come to its end:\n%s", out)
	}
	return found[1], found[2], out
}

// asRole is applied, and again.
func asRole(t *testing.T, f fleet, n *node, profile string) {
	need(t, "ansible-playbook")
	first := len(filesIn(t, n.containers())) == 0
	f.role(t, n, profile)
	changed, failed, out := n.play(t)
	if failed != "0" || (changed == "0") == first {
		t.Errorf("changed=%s failed=%s, and it is the first time: %v\n%s", changed, failed, first, out)
	}
}

// asMachineConfig writes what the operator would.
func asMachineConfig(t *testing.T, f fleet, n *node, profile string) {
	path := filepath.Join(n.dir, "machineconfig.yaml")
	f.nodeConfig(t, "-profile", profile, "-prefix", n.containers(), "-format", "machineconfig", "-o", path)
	var m struct {
		Spec struct {
			Config struct {
				Storage struct {
					Files []struct {
						Path     string
						Mode     fs.FileMode
						Contents struct{ Source string }
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, path)), &m); err != nil {
		t.Fatal(err)
	}
	for _, file := range m.Spec.Config.Storage.Files {
		encoded, ok := strings.CutPrefix(file.Contents.Source, "data:;base64,")
		content, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			t.Fatalf("%s has the source %.40q: %v", file.Path, file.Contents.Source, err)
		}
		write(t, file.Path, string(content))
		if err := os.Chmod(file.Path, file.Mode); err != nil {
			t.Fatal(err)
		}
	}
}

// asDaemonSet mounts the ConfigMap as a kubelet would, and runs what the pod runs until it says
// that it has done its work.
func asDaemonSet(t *testing.T, f fleet, n *node, profile string) {
	path := filepath.Join(n.dir, "countersign.yaml")
	f.nodeConfig(t, "-profile", profile, "-prefix", n.containers(), "-format", "kubernetes", "-image", "registry.example.com/countersign:v1", "-o", path)
	var files struct {
		Data       map[string]string
		BinaryData map[string]string `yaml:"binaryData"`
	}
	var set struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct{ Args []string }
					Volumes    []struct {
						ConfigMap struct{ Items []struct{ Key, Path string } } `yaml:"configMap"`
					}
				}
			}
		}
	}
	documents := yaml.NewDecoder(strings.NewReader(read(t, path)))
	for _, into := range []any{&struct{}{}, &files, &set} {
		if err := documents.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	volume, pod := filepath.Join(t.TempDir(), "files"), set.Spec.Template.Spec
	for _, item := range pod.Volumes[0].ConfigMap.Items {
		content, text := files.Data[item.Key]
		if !text {
			decoded, err := base64.StdEncoding.DecodeString(files.BinaryData[item.Key])
			if err != nil || len(decoded) == 0 {
				t.Fatalf("the ConfigMap has for %s %v", item.Key, err)
			}
			content = string(decoded)
		}
		write(t, filepath.Join(volume, "..2026", item.Path), content)
	}
	if err := os.Symlink("..2026", filepath.Join(volume, "..data")); err != nil {
		t.Fatal(err)
	}
	o, args := newOutput(), pod.Containers[0].Args
	for i, arg := range args {
		if arg == "/files" {
			args[i] = volume
		}
	}
	c := exec.CommandContext(t.Context(), built.program, args...)
	c.Stdout, c.Stderr, c.Env = o, o, command(t.Context()).Env
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.await(t.Context(), regexp.MustCompile(regexp.QuoteMeta(n.policyFile())+`: new|as it should be`)); err != nil {
		t.Errorf("the pod says %v\n%s", err, o)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("the pod ends with %v\n%s", err, o)
	}
}

// TestNodeRole applies the role to nodes that have files already, as the command would.
func TestNodeRole(t *testing.T) {
	t.Parallel()
	need(t, "ansible-playbook")
	f := newFleet(t, "advertise: false\n")
	n := newNode(t).bare(t)
	f.role(t, n, "production")
	refuses := func(what string, words ...string) {
		t.Helper()
		before := snapshot(t, n.containers())
		if changed, failed, out := n.play(t); changed != "0" || failed != "1" || !strings.Contains(out, strings.Join(words, "")) {
			t.Errorf("%s: changed=%s failed=%s, and it must say %q\n%s", what, changed, failed, words, out)
		}
		if after := snapshot(t, n.containers()); after != before {
			t.Errorf("%s: files were written:\n%s", what, after)
		}
	}
	n.policy(t, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"insecureAcceptAnything"}]}}}`, f.address))
	refuses("another requirement for our scope", "docker:"+f.address)

	there := `{"transports":{"docker":{"z.example.com":[{"type":"reject"}],"a.example.com":[{"type":"reject"}]}},"default":[{"type":"insecureAcceptAnything"}]}`
	elsewhere := filepath.Join(n.dir, "elsewhere.json")
	write(t, elsewhere, there)
	if err := os.Remove(n.policyFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, n.policyFile()); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(n.registries(), "mine.yaml")
	write(t, other, fmt.Sprintf("docker:\n  %q:\n    lookaside: http://127.0.0.1:1\n", f.address))
	refuses("another file claims the namespace", f.address, " in ", other)
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}

	before := snapshot(t, n.containers())
	if _, failed, out := n.play(t, "--check"); failed != "0" || snapshot(t, n.containers()) != before {
		t.Errorf("a dry run fails or writes:\n%s", out)
	}
	if changed, failed, out := n.play(t); failed != "0" || changed == "0" {
		t.Errorf("merged: changed=%s failed=%s\n%s", changed, failed, out)
	}
	if target, err := os.Readlink(n.policyFile()); err != nil || target != elsewhere {
		t.Errorf("policy.json is no link any more: %v", err)
	}
	if merged := read(t, elsewhere); !regexp.MustCompile(`(?s)z\.example\.com.*a\.example\.com.*signedBy.*insecureAcceptAnything`).MatchString(merged) {
		t.Errorf("what is there is gone, or not in its order:\n%s", merged)
	}
	f.pulls(t, n, "alice", "elsewhere")
	if changed, failed, out := n.play(t); changed != "0" || failed != "0" {
		t.Errorf("the second time: changed=%s failed=%s\n%s", changed, failed, out)
	}
	// The command finds nothing to do where the role was.
	if said := n.enforce(t, f.server, "production"); !strings.Contains(said, "nothing changes") {
		t.Errorf("after the role the command says\n%s", said)
	}
}

// TestNodeConfigSpelling gives nodes a registries.d without one of the two names of a lookaside:
// each client reads the one that it knows.
func TestNodeConfigSpelling(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "advertise: false\n")
	for _, without := range []string{"lookaside", "sigstore"} {
		t.Run("without "+without, func(t *testing.T) {
			t.Parallel()
			n := newNode(t).bare(t)
			n.enforce(t, f.server, "production")
			files, err := filepath.Glob(filepath.Join(n.registries(), "*.yaml"))
			if err != nil || len(files) != 1 {
				t.Fatalf("registries.d has %q: %v", files, err)
			}
			all := read(t, files[0])
			rest := regexp.MustCompile(`(?m)^ +`+without+`: .*\n`).ReplaceAllString(all, "")
			if rest == all {
				t.Fatalf("there is no %s:\n%s", without, all)
			}
			write(t, files[0], rest)
			for client, pull := range n.clients(t) {
				works(t)(pull(f.images["alice"]))
				if out, err := pull(f.images["nobody"]); err == nil {
					t.Errorf("%s pulls what nobody signed:\n%s", client, out)
				}
			}
		})
	}
}

// TestNodeConfigAliases pulls by every name that the server has: it signs under the first.
func TestNodeConfigAliases(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	const alias = "alias.example.test:5000"
	address := freePorts(t, 1)[0]
	s := start(t, "-listen", address, "-host", address+","+alias)
	s.push(t, newImage("by two names"), "ns/app", "v1")
	n := newNode(t).bare(t)
	n.mirrors(t, fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", alias, address))
	s.nodeConfig(t, "-o", n.containers(), "-prefix", n.containers())
	for client, pull := range n.clients(t) {
		for _, host := range []string{address, alias} {
			if out, err := pull(host + "/ns/app:v1"); err != nil {
				t.Errorf("%s, from %s: %v\n%s", client, host, err, out)
			}
		}
	}
	if out := s.cli(t, 0, "verify", alias+"/ns/app:v1"); !strings.Contains(out, "accepted") {
		t.Errorf("verify says\n%s", out)
	}
	// A policy that wants the name by which it was pulled would refuse it.
	fails(t, "Source image rejected")(n.require(t, alias, s.serverKey()).pull(t, alias+"/ns/app:v1"))
}
