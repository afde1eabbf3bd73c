package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestServerRole plays deploy/ansible on this machine, into a tree of its own: first only to say what
// would change, then in earnest; a server starts by the unit that is there then, and the second time
// nodes get what it says, and the server nothing. Of what is secret nothing is shown.
func TestServerRole(t *testing.T) {
	t.Parallel()
	need(t, "ansible-playbook", "gpg")
	if os.Getuid() != 0 {
		lack(t, "files of root are written by root only")
	}
	n, ports := newNode(t).bare(t), freePorts(t, 2)
	playbook, err := filepath.Abs("../deploy/ansible/site.yml")
	if err != nil {
		t.Fatal(err)
	}
	runs(t, "keys", "generate", filepath.Join(n.dir, "release.key"))
	secret := line64(t, filepath.Join(n.dir, "release.key"))
	write(t, filepath.Join(n.dir, "vars.yml"), strings.ReplaceAll(fmt.Sprintf(`
ansible_python_interpreter: /usr/bin/python3
countersign_become: false
countersign_binary: %[1]s
countersign_command: %[1]s
countersign_path: ROOT/bin/countersign
countersign_config: ROOT/etc
countersign_data: ROOT/data
countersign_unit_path: ROOT/countersign.service
countersign_user: countersign-of-a-test
countersign_settings:
  listen: %[2]s
  debugListen: %[3]s
  signing: {keys: {release: {file: ROOT/etc/release.key}}}
countersign_server_files:
- {name: release.key, content: "{{ lookup('ansible.builtin.file', '%[4]s/release.key') }}\n"}
countersign_ready: ''
countersign_server: http://%[2]s
countersign_node_role: %[4]s/role
countersign_prefix: %[5]s
`, built.program, ports[0], ports[1], n.dir, n.containers()), "ROOT", n.dir+"/root"))
	if err := os.MkdirAll(filepath.Join(n.dir, "root", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	play := func(inventory string, args ...string) map[string]string {
		t.Helper()
		write(t, filepath.Join(n.dir, "inventory"), inventory)
		out, err := n.ansible(t, append([]string{"--diff", "-i", "inventory", "-e", "@vars.yml", playbook}, args...)...)
		works(t)(out, err)
		if strings.Contains(out, secret) {
			t.Error("the play shows a private key")
		}
		changed := map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^(\w+) +: ok=\d+ +changed=(\d+)`).FindAllStringSubmatch(out, -1) {
			changed[m[1]] = m[2]
		}
		return changed
	}
	const servers = "[countersign_servers]\nbox ansible_connection=local\n"
	if changed := play(servers, "--check"); changed["box"] == "0" || changed["box"] == "" {
		t.Errorf("on a machine that has nothing %v would change", changed)
	}
	if found, err := filepath.Glob(filepath.Join(n.dir, "root", "*")); err != nil || len(found) != 1 {
		t.Errorf("a play with --check wrote %v, %v", found, err)
	}
	root := []string{"-e", "countersign_user=root", "-e", "countersign_make_user=false"}
	play(servers, root...)

	unit := read(t, filepath.Join(n.dir, "root", "countersign.service"))
	start := strings.Fields(directive(t, unit, "ExecStart")[0])
	if start[0] != filepath.Join(n.dir, "root", "bin", "countersign") || read(t, start[0]) != read(t, built.program) {
		t.Errorf("the unit starts %s, want the binary that was copied", start[0])
	}
	s := invoke(t, filepath.Join(n.dir, "root", "data"), nil, start[2:]...)
	s.ready(t, 200)
	i := newImage("by ansible")
	s.push(t, i, "ns/app", "v1")

	changed := play(servers+"[countersign_nodes]\nnode ansible_connection=local\n", root...)
	if changed["box"] != "0" || changed["node"] == "0" || changed["node"] == "" {
		t.Errorf("the second time %v changed, want nothing on the server and something on the node", changed)
	}
	works(t)(n.pull(t, s.address+"/ns/app:v1"))
	fails(t)(n.pull(t, newImageElsewhere(t)))
}

// newImageElsewhere is the reference of an image that nobody has signed, on a registry that no policy names.
func newImageElsewhere(t testing.TB) string {
	t.Helper()
	s := start(t, "-sign-on", "none")
	s.push(t, newImage("elsewhere"), "ns/app", "v1")
	return s.address + "/ns/app:v1"
}
