package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNodesPage follows the page about nodes as a stranger would, on a node of Debian's: with a
// policy that accepts everything, and no registries.d.
func TestNodesPage(t *testing.T) {
	t.Parallel()
	need(t, "podman", "runc", "skopeo", "gpg")
	page := read(t, "../doc/nodes.md")
	steps := console(page)
	if len(steps) < 15 {
		t.Fatalf("the page has only %d steps", len(steps))
	}
	f := newFleet(t, "")
	n := newNode(t)
	if err := os.RemoveAll(n.registries()); err != nil {
		t.Fatal(err)
	}
	there := read(t, n.policyFile())
	write(t, filepath.Join(n.dir, "policy.json"), there) // as oc debug would have fetched it
	n.environment = append(n.environment, "PATH="+filepath.Dir(built.program)+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")

	// What the page has, and what is here.
	pairs := []string{
		"https://registry.example.com", "http://" + f.address,
		"-o /etc/containers", "-prefix " + n.containers() + " -o " + n.containers(),
		"podman pull -q", "podman pull -q --tls-verify=false",
		"registry.example.com/acme/app:v1", f.images["alice"],
		"registry.example.com/acme/unsigned:v1", f.images["nobody"],
		"other.example.com/acme/app:v1", f.images["elsewhere"],
		"Example release <release@example.com>", "alice <alice@example.test>",
		"registry.example.com/countersign:v1", "registry.example.com/countersign:v1",
		"registry.example.com", f.address,
		"/etc/containers", n.containers(),
		"/root/", n.dir + "/",
	}
	var back []string
	for i := 0; i < len(pairs); i += 2 {
		back = append(back, pairs[i+1], pairs[i])
	}
	shown := strings.NewReplacer(back...)
	for i, output := range n.follow(t, n.dir, steps, strings.NewReplacer(pairs...)) {
		output = regexp.MustCompile(`(?m)^time=.* level=warning .*\n`).ReplaceAllString(shown.Replace(output), "")
		if s := steps[i]; !s.matches(output) {
			t.Errorf("$ %s\nshows\n%s\nand the page says\n%s", s.command, output, s.shows)
		}
	}
	if got := read(t, n.policyFile()); got != there {
		t.Errorf("policy.json is not as it was before:\n%s", got)
	}
}

// Commands that no test runs say why, right in front of them.
func TestNodesPageSaysWhatIsNotRun(t *testing.T) {
	t.Parallel()
	parts := strings.Split(read(t, "../doc/nodes.md"), "```")
	for i := 1; i < len(parts); i += 2 {
		kind, block, _ := strings.Cut(parts[i], "\n")
		before := strings.TrimSpace(parts[i-1])
		before = before[strings.LastIndex(before, "\n")+1:]
		if kind == "" && strings.HasPrefix(block, "$ ") && !regexp.MustCompile(`^\*(No test runs this|Not run here, but by a test of its own): .*\.\*$`).MatchString(before) {
			t.Errorf("it does not say why this is not run, but %q:\n%s", before, block)
		}
	}
}
