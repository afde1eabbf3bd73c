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
)

// A step of the tour is a command and what the README says that it shows.
type step struct{ command, shows string }

// tour reads the README's console blocks: "$ " begins a command, what follows is its output.
func tour(t *testing.T) (steps []step) {
	t.Helper()
	_, section, found := strings.Cut(read(t, "../README.md"), "\n## Five minutes\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("the README has no section Five minutes")
	}
	return console(section)
}

// console are the steps of a page's console blocks.
func console(page string) (steps []step) {
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		steps = append(steps, stepsOf(block[1])...)
	}
	return steps
}

// differs are what no two machines have alike: digests, fingerprints, addresses, times.
var differs = []struct {
	re   *regexp.Regexp
	same string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "DIGEST"},
	{regexp.MustCompile(`@[0-9a-f]{32}\b`), "@NAME"},
	{regexp.MustCompile(`\b[0-9A-F]{40}\b`), "FINGERPRINT"},
	{regexp.MustCompile(`"timestamp":\d+`), `"timestamp":TIME`},
	{regexp.MustCompile(`time="[^"]*"`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`), "DAY"},
	{regexp.MustCompile(`"duration":\d+`), `"duration":TIME`},
	{regexp.MustCompile(`127\.0\.0\.\d+:\d+`), "ADDRESS"},
}

// matches compares output with what a page says; "..." stands for anything, on a line of its own for any
// lines.
func (s step) matches(output string) bool {
	same := func(text string) string {
		for _, d := range differs {
			text = d.re.ReplaceAllString(text, d.same)
		}
		return strings.TrimSpace(strings.ReplaceAll(text, "\r", ""))
	}
	var pattern []string
	for _, line := range strings.Split(same(s.shows), "\n") {
		if line == "..." {
			pattern = append(pattern, `(?:.*\n)*?.*`)
		} else {
			pattern = append(pattern, strings.ReplaceAll(regexp.QuoteMeta(line), regexp.QuoteMeta("..."), ".*"))
		}
	}
	return regexp.MustCompile(`^` + strings.Join(pattern, "\n") + `$`).MatchString(same(output))
}

// TestTour follows the README as a stranger would, in an empty directory.
func TestTour(t *testing.T) {
	t.Parallel()
	need(t, "script", "podman", "runc", "skopeo", "gpg", "curl")
	steps := tour(t)
	if len(steps) < 10 || steps[0].command != "make run" {
		t.Fatalf("the tour does not begin with make run, or has only %d steps", len(steps))
	}
	n := newNode(t)
	dir := n.dir + "/tour"
	write(t, dir+"/.keep", "")
	address, shown := n.terminal(t, dir)
	if !steps[0].matches(shown) {
		t.Errorf("make run shows\n%s\nand the README says\n%s", shown, steps[0].shows)
	}
	home := filepath.Join(n.dir, "alice")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopAgent(home) })
	n.environment = append(n.environment, "GNUPGHOME="+home)
	for i, output := range n.follow(t, dir, steps[1:], strings.NewReplacer("127.0.0.1:5000", address)) {
		if s := steps[i+1]; !s.matches(output) {
			t.Errorf("$ %s\nshows\n%s\nand the README says\n%s", s.command, output, s.shows)
		}
	}
}

// follow runs the commands as one shell, since what one sets the next uses, and returns what each
// shows. The replacer puts what is here for what the page has.
func (n *node) follow(t *testing.T, dir string, steps []step, here *strings.Replacer) []string {
	t.Helper()
	const mark = "=== next ==="
	var script strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&script, "%s\necho %q\n", here.Replace(s.command), mark)
	}
	c := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	c.Dir, c.Env = dir, n.environment
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	outputs := strings.Split(string(out), mark+"\n")
	if len(outputs) != len(steps)+1 { // the last is what follows the last mark
		t.Fatalf("%d outputs of %d commands:\n%s", len(outputs)-1, len(steps), out)
	}
	return outputs[:len(steps)]
}

// terminal runs the server as a person at a terminal does, with free ports, and returns its
// address and what the terminal shows.
func (n *node) terminal(t *testing.T, dir string) (address, shown string) {
	t.Helper()
	o := newOutput()
	c := exec.Command("script", "--quiet", "--return", "--command",
		"exec "+built.program+" serve -listen 127.0.0.1:0 -debug-listen 127.0.0.1:0", "/dev/null")
	c.Dir, c.Stdout, c.Stderr = dir, o, o
	c.Env = command(t.Context()).Env
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	gone, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		_ = c.Wait() // script ends with the server, whose end others test
	}()
	t.Cleanup(func() {
		_, _ = stdin.Write([]byte("\x03"))
		<-gone.Done()
	})
	if _, err := o.await(gone, regexp.MustCompile(`(?s)--sign-by.*\.asc`)); err != nil {
		t.Fatalf("%v\n%s", err, o)
	}
	found := regexp.MustCompile(`signatures at (\S+)`).FindStringSubmatch(o.String())
	if found == nil {
		t.Fatalf("the terminal does not say where the server is:\n%s", o)
	}
	return found[1], o.String()
}
