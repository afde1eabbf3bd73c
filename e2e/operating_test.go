package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// How many commands doc/operating.md has that are run here, and that are not, each with the reason.
// Whoever adds one says here which.
const (
	commandsRun    = 69
	commandsNotRun = 11
)

// A fence is a block of a page: its language, its content, and why it is not run.
type fence struct{ language, content, notRun string }

var (
	fenceBlock = regexp.MustCompile("(?ms)(?:^<!-- not run: ([^\n]*) -->\n)?^```(\\w*)\n(.*?)^```$")
)

func fences(t testing.TB, page string) (all []fence) {
	t.Helper()
	for _, m := range fenceBlock.FindAllStringSubmatch(page, -1) {
		all = append(all, fence{m[2], m[3], m[1]})
	}
	if got := strings.Count("\n"+page, "\n```"); got != 2*len(all) {
		t.Fatalf("%d fences begin or end, and %d blocks were found", got, len(all))
	}
	return all
}

// stepsOf reads a console block: "$ " begins a command, "> " goes on with it, what follows is its output.
func stepsOf(block string) (steps []step) {
	for _, part := range strings.Split("\n"+block, "\n$ ")[1:] {
		lines := strings.Split(part, "\n")
		n := 1
		for n < len(lines) && strings.HasPrefix(lines[n], "> ") {
			lines[n] = strings.TrimPrefix(lines[n], "> ")
			n++
		}
		steps = append(steps, step{strings.Join(lines[:n], "\n"), strings.TrimSpace(strings.Join(lines[n:], "\n"))})
	}
	return steps
}

// operating returns the commands of doc/operating.md that can be run, in order.
func operating(t testing.TB) (steps []step) {
	t.Helper()
	not := 0
	for _, f := range fences(t, read(t, "../doc/operating.md")) {
		switch {
		case f.language == "":
			t.Errorf("a fence has no language: console for commands, text for what is to be read\n%s", f.content)
		case f.language != "console" && f.notRun != "":
			t.Errorf("%s is never run, and need not say so\n%s", f.language, f.content)
		case f.language != "console":
		case len(stepsOf(f.content)) == 0:
			t.Errorf("a console has no command\n%s", f.content)
		case f.notRun != "":
			if not += len(stepsOf(f.content)); len(f.notRun) < 20 {
				t.Errorf("%q is no reason not to run\n%s", f.notRun, f.content)
			}
		default:
			steps = append(steps, stepsOf(f.content)...)
		}
	}
	if len(steps) != commandsRun || not != commandsNotRun {
		t.Errorf("doc/operating.md has %d commands that are run and %d that are not, want %d and %d", len(steps), not, commandsRun, commandsNotRun)
	}
	return steps
}

// TestOperating runs the commands of doc/operating.md, from an empty directory to the last upgrade, in
// one shell; each must succeed and show what the page says. The page's registry and database are there.
func TestOperating(t *testing.T) {
	t.Parallel()
	need(t, "gpg", "skopeo", "crane", "curl")
	steps := operating(t)
	if t.Failed() {
		return
	}
	ports := freePorts(t, 2)
	n, d := newNode(t), newCluster(t)
	dir, home := filepath.Join(n.dir, "walk"), filepath.Join(n.dir, "alice")
	for _, made := range []string{dir, home} {
		if err := os.Mkdir(made, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { stopAgent(home) })
	writeSecret(t, filepath.Join(dir, "database-url"), fmt.Sprintf("postgres://postgres@/postgres?host=%s&sslmode=disable\n", d.Socket()))
	places := strings.NewReplacer("127.0.0.1:5000", ports[0], "127.0.0.1:5080", ports[1], "127.0.0.1:5010", distribution(t, ""))

	const mark = "=== next ==="
	var script strings.Builder
	script.WriteString("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n")
	for i, s := range steps {
		fmt.Fprintf(&script, "%s\nended=$?\necho %q; [ $ended = 0 ] || { echo command %d ended with $ended; cat countersign.log; exit 1; }\n", places.Replace(s.command), mark, i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", script.String())
	c.Dir, c.WaitDelay = dir, 10*time.Second
	c.Env = append(n.environment, "GNUPGHOME="+home, "PATH="+filepath.Dir(built.program)+":"+os.Getenv("PATH"),
		"COUNTERSIGN_SERVER=http://"+ports[0], "GORACE=atexit_sleep_ms=0")
	out, err := c.CombinedOutput()
	outputs := strings.Split(string(out), mark+"\n")
	for i, s := range steps[:min(len(steps), len(outputs)-1)] {
		if !s.matches(outputs[i]) {
			t.Errorf("command %d\n$ %s\nshows\n%s\nand the page says\n%s", i, s.command, outputs[i], s.shows)
		}
	}
	if err != nil || len(outputs) != len(steps)+1 {
		last := steps[min(max(len(outputs)-2, 0), len(steps)-1)]
		t.Errorf("%v after %d of %d commands, the last being\n$ %s\n%s", err, len(outputs)-1, len(steps), last.command, tail(string(out), 6000))
	}
	if found := distress.FindString(read(t, filepath.Join(dir, "countersign.log"))); found != "" {
		t.Errorf("the log contains %q", found)
	}
}

// TestNamesOfTests holds doc/operating.md to the tests that it names.
func TestNamesOfTests(t *testing.T) {
	t.Parallel()
	all := testsOf(t, "..")
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(read(t, "../doc/operating.md"), -1) {
		if !all[name] {
			t.Errorf("doc/operating.md names %s, which is no test", name)
		}
	}
}

// testsOf is the names of the tests and fuzz tests in a directory and all below it.
func testsOf(t testing.TB, directory string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(read(t, path), -1) {
			names[m[1]] = true
		}
		return nil
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("%s has %d tests, %v", directory, len(names), err)
	}
	return names
}
