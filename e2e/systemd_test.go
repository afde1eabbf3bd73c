package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const unitFile = "../deploy/systemd/countersign.service"

// TestUnit has systemd's own tools judge the unit: it reads without a word, and what it leaves open is
// little. Both see what is wrong with a worse one.
func TestUnit(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	n, unit := newNode(t), read(t, unitFile)
	analyze := func(content string, args ...string) (string, error) {
		write(t, filepath.Join(n.dir, "countersign.service"), strings.ReplaceAll(content, "/usr/local/bin/countersign", built.program))
		return n.run(t, "systemd-analyze", append(args, "--no-pager", filepath.Join(n.dir, "countersign.service"))...)
	}
	if out, err := analyze(unit, "verify", "--man=no"); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, _ := analyze(strings.Replace(unit, "ProtectClock=", "ProtectTime=", 1), "verify", "--man=no"); !strings.Contains(out, "ProtectTime") {
		t.Errorf("systemd-analyze verify does not see a directive that there is not: %q", out)
	}
	offline := []string{"security", "--offline=true", "--threshold=15"} // exposure 1.5 of 10
	works(t)(analyze(unit, offline...))
	for _, line := range []string{"ProtectSystem=strict\n", "SystemCallFilter=@system-service\n", "CapabilityBoundingSet=\n"} {
		if !strings.Contains(unit, line) {
			t.Fatalf("the unit has no %s", line)
		}
		fails(t, "Overall exposure level")(analyze(strings.ReplaceAll(strings.ReplaceAll(unit, line, ""), "User=countersign\n", ""), "security", "--offline=true", "--threshold=15"))
	}
}

var (
	systemCall = regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)`)
	family     = regexp.MustCompile(`\bsocket\((AF_\w+)`)
)

// TestUnitLetsItWork compares what the server asks of the kernel, from its start over a push that it
// signs to its end, with what the unit lets through.
func TestUnitLetsItWork(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze", "strace")
	unit := read(t, unitFile)
	trace := filepath.Join(t.TempDir(), "trace")
	s := launch(t, filepath.Join(t.TempDir(), "data"), func(c *exec.Cmd) {
		strace, err := exec.LookPath("strace")
		if err != nil {
			t.Fatal(err)
		}
		c.Path, c.Args = strace, append([]string{"strace", "-D", "-f", "-q", "-e", "signal=none", "-o", trace}, c.Args...)
	})
	s.locate(t)
	s.push(t, newImage("under the unit"), "ns/app", "v1")
	s.cli(t, 0, "list")
	s.stop(t)
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited with 0 `, s.command.Process.Pid))
	eventually(t, "strace has told all", func() bool { return end.MatchString(read(t, trace)) })
	told := read(t, trace)

	allowed := filtered(t, unit)
	for _, m := range systemCall.FindAllStringSubmatch(told, -1) {
		if !allowed[m[1]] {
			t.Errorf("the server calls %s, which the unit does not let through", m[1])
			allowed[m[1]] = true
		}
	}
	if allowed["reboot"] || allowed["ptrace"] || !allowed["read"] {
		t.Error("the filter of the unit was not read right")
	}
	families := strings.Fields(directive(t, unit, "RestrictAddressFamilies")[0])
	for _, m := range family.FindAllStringSubmatch(told, -1) {
		if !slices.Contains(families, m[1]) {
			t.Errorf("the server opens a socket of %s, and the unit allows %v", m[1], families)
		}
	}
	if m := regexp.MustCompile(`PROT_READ\|PROT_WRITE\|PROT_EXEC[^\n]*`).FindString(told); m != "" {
		t.Errorf("the server wants memory to write to and execute: %s", m)
	}
	if !strings.Contains(told, "PR_SET_DUMPABLE, 0") && !strings.Contains(told, "PR_SET_DUMPABLE, SUID_DUMP_DISABLE") || !strings.Contains(told, "RLIMIT_CORE, {rlim_cur=0") {
		t.Error("strace does not show how the server turns its core dumps off: it did not see the start")
	}
}

// directive returns the values that a unit gives a directive.
func directive(t testing.TB, unit, name string) (values []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(unit, -1) {
		values = append(values, m[1])
	}
	if len(values) == 0 {
		t.Fatalf("the unit has no %s", name)
	}
	return values
}

// filtered returns the system calls that the unit lets through.
func filtered(t testing.TB, unit string) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Fatal(err)
	}
	groups, group := map[string][]string{}, ""
	for line := range strings.SplitSeq(string(out), "\n") {
		switch word := strings.TrimSpace(line); {
		case word == "" || strings.HasPrefix(word, "#"):
		case strings.HasPrefix(line, "@"):
			group = word
		default:
			groups[group] = append(groups[group], word)
		}
	}
	allowed := map[string]bool{}
	var set func(name string, to bool)
	set = func(name string, to bool) {
		if !strings.HasPrefix(name, "@") {
			allowed[name] = to
			return
		}
		if len(groups[name]) == 0 {
			t.Fatalf("systemd knows no group %s", name)
		}
		for _, member := range groups[name] {
			set(member, to)
		}
	}
	for _, value := range directive(t, unit, "SystemCallFilter") {
		names, denied := strings.CutPrefix(value, "~")
		for name := range strings.FieldsSeq(names) {
			set(name, !denied)
		}
	}
	for _, name := range groups["@default"] {
		allowed[name] = true // systemd lets these through always
	}
	return allowed
}

// TestUnitUser has systemd make the user that the unit names, in a tree of its own.
func TestUnitUser(t *testing.T) {
	t.Parallel()
	need(t, "systemd-sysusers")
	if os.Getuid() != 0 {
		lack(t, "users are made by root only, also in a tree of one's own")
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "etc", "passwd"), "root:x:0:0:root:/root:/bin/sh\n")
	write(t, filepath.Join(root, "usr", "lib", "sysusers.d", "countersign.conf"), read(t, "../deploy/systemd/countersign.sysusers"))
	works(t)(newNode(t).run(t, "systemd-sysusers", "--root="+root))
	user := directive(t, read(t, unitFile), "User")[0]
	if got := read(t, filepath.Join(root, "etc", "passwd")); !regexp.MustCompile(`(?m)^` + user + `:.*:/var/lib/countersign:/usr/sbin/nologin$`).MatchString(got) {
		t.Errorf("user %s was not made:\n%s", user, got)
	}
}
