package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNodeConfigRotation gives a node its files before, while and after the server's key is
// replaced: with both keys it needs nothing new when the next begins to sign.
func TestNodeConfigRotation(t *testing.T) {
	t.Parallel()
	need(t, "gpg")
	s, settings, old, next, _ := rotating(t, 1)
	first, n := s.address+"/ns/app0:v0", newNode(t).bare(t)
	s.nodeConfig(t, "-o", n.containers(), "-prefix", n.containers())
	wantKeyring(t, n, fingerprint(t, []byte(read(t, old))), fingerprint(t, []byte(read(t, next))))
	works(t)(n.pull(t, first))
	s.stop(t)

	s = s.again(t, "-config", config(t, settings))
	s.push(t, newImage("by the next key"), "ns/new", "v1")
	second := s.address + "/ns/new:v1"
	for _, reference := range []string{first, second} {
		for _, pull := range n.clients(t) {
			works(t)(pull(reference))
		}
	}
	if said := s.nodeConfig(t, "-o", n.containers(), "-prefix", n.containers()); !strings.Contains(said, "nothing changes") {
		t.Errorf("with the next key signing it says\n%s", said)
	}
	s.stop(t)

	retired := regexp.MustCompile(`old: \{[^}]*\}, `).ReplaceAllString(settings, "")
	s = s.again(t, "-config", config(t, retired))
	before := filesIn(t, n.containers())
	said := s.nodeConfig(t, "-o", n.containers(), "-prefix", n.containers())
	for _, words := range []string{fmt.Sprintf("docker[%q] is brought up to date", s.address), "-and-1-more-", "is left from before"} {
		if !strings.Contains(said, words) {
			t.Errorf("without the old key it does not say %q:\n%s", words, said)
		}
	}
	if after := filesIn(t, n.containers()); len(after) != len(before)+1 {
		t.Errorf("the files were %q, and are %q", before, after)
	}
	wantKeyring(t, n, fingerprint(t, []byte(read(t, next))))
	works(t)(n.pull(t, second))
	fails(t, "Source image rejected")(n.pull(t, first))
}

// wantKeyring asserts that the node's policy names one file, which is binary and has these keys,
// and by whose name one of them is known.
func wantKeyring(t *testing.T, n *node, fingerprints ...string) {
	t.Helper()
	policy := read(t, n.policyFile())
	paths := map[string]bool{}
	for _, found := range regexp.MustCompile(`"keyPath": "([^"]*)"`).FindAllStringSubmatch(policy, -1) {
		paths[found[1]] = true
	}
	if len(paths) != 1 || strings.Contains(policy, "keyPaths") || strings.Contains(policy, "keyData") {
		t.Fatalf("policy.json does not name one file:\n%s", policy)
	}
	for path := range paths {
		keyring, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list := string(gpg(t, keyring, "--with-colons", "--show-keys"))
		named := false
		for _, f := range fingerprints {
			named = named || strings.HasPrefix(filepath.Base(path), f)
			if !strings.Contains(list, ":"+f+":") {
				t.Errorf("%s lacks %s", path, f)
			}
		}
		if got := strings.Count("\n"+list, "\npub:"); got != len(fingerprints) || !named || strings.Contains(string(keyring), "BEGIN PGP") {
			t.Errorf("%s has %d keys, want %q", path, got, fingerprints)
		}
	}
}
