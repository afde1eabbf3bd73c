package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExportSynced looks at the system calls of exports: when one has ended, a power failure takes back
// nothing of what it put, trimmed and removed.
func TestExportSynced(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "strace")
	l := newLiveTree(t, "export synced")
	l.directory = filepath.Join(t.TempDir(), "live")
	if changed := l.exportSynced(t); changed[filepath.Join(l.directory, treePath("ns/app", l.image.digest()))] == 0 {
		t.Errorf("changed were %v, want the image's directory among them", changed)
	}
	if changed := l.exportSynced(t); len(changed) != 0 {
		t.Errorf("changed by an export that has nothing to do were %v, want nothing", changed)
	}
	l.withdraw(t) // what stays is there twice, and trimmed
	l.exportSynced(t)
	other := newImage("export synced, too")
	l.s.upload(t, "ns/app", other.digest(), sign(t, "alice", l.reference, other.digest())).want(t, 201)
	l.s.do(t, "POST", "/api/v1/withdrawals", fmt.Sprintf(`{"repository":"ns/app","digest":%q,"scope":"image","reason":"x"}`, l.image.digest())).want(t, 201)
	if changed := l.exportSynced(t); changed[filepath.Join(l.directory, "ns")] < 2 {
		t.Errorf("changed were %v, want ns twice: an image came, and one went", changed)
	}
}

// changes are system calls that change which names a directory has, at the directory as os.Root has it open.
var changes = regexp.MustCompile(`(?:renameat2?|mkdirat|unlinkat|fsync)\(\d+<([^>]*)>`)

// exportSynced exports, and returns the directories in which names changed, with how often.
func (l *liveTree) exportSynced(t *testing.T) map[string]int {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	c := command(t.Context(), "export", "-server", "http://"+l.s.address, "-host", l.s.address, l.directory)
	c.Args = append([]string{"strace", "-f", "-y", "-e", "trace=?renameat,?renameat2,?mkdirat,?unlinkat,fsync", "-o", log, c.Path}, c.Args[1:]...)
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal(err)
	}
	c.Path = path
	if out, err := c.CombinedOutput(); strings.Contains(string(out), "Operation not permitted") {
		lack(t, "strace may not trace here; run the tests as root, or allow ptrace")
	} else if err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	changed, pending := map[string]int{}, map[string]string{}
	for line := range strings.Lines(read(t, log)) {
		m := changes.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[1], l.directory) || strings.Contains(line, " = -1 ") {
			continue
		}
		if strings.Contains(line, "fsync(") {
			delete(pending, m[1])
			continue
		}
		changed[m[1]]++
		pending[m[1]] = line
	}
	for directory, line := range pending {
		if _, err := os.Stat(directory); err == nil {
			t.Errorf("%s was not made durable after %s", directory, line)
		}
	}
	return changed
}
