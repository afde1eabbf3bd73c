package differential

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A comparison asks here and there, and counts.
type comparison struct {
	oracles []oracle

	mu              sync.Mutex
	asked, accepted int                        // accepted here and by every oracle
	seen            map[string]map[oracle]bool // which entries of the lists stood by a case with a name
}

func newComparison(t *testing.T) *comparison {
	c := &comparison{oracles: []oracle{library}, seen: map[string]map[oracle]bool{}}
	for _, o := range []oracle{skopeo} {
		if library != openpgp {
			break // once is enough
		}
		if _, err := exec.LookPath("skopeo"); err != nil {
			t.Run("skopeo", func(t *testing.T) {
				lack(t, "skopeo is not installed; run e2e/install as root, or: apt-get install skopeo")
			})
			break
		}
		c.oracles = append(c.oracles, o)
	}
	return c
}

// lack ends a test for which this machine lacks something.
func lack(t *testing.T, sentence string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(sentence)
	}
	t.Skip("SKIPPED: " + sentence)
}

// ask compares the verdicts of nodes; its error says what is not as it should be. Cases that
// stand in the source, by their names, are those that keep differences on the list.
func (c *comparison) ask(t *testing.T, name string, q question, oracles ...oracle) error {
	here := evaluate(q)
	all := here == nil
	var wrong []error
	for _, o := range oracles {
		var there error
		if o == skopeo {
			there = askSkopeo(t, q)
		} else {
			there = askLibrary(t.Context(), q)
		}
		all = all && there == nil
		wrong = append(wrong, c.judge(name, o, here, there))
	}
	c.count(all)
	if len(q.signatures) == 1 && q.transport == "docker" {
		_, here := admit(q)
		there := askLibraryAuthor
		if here != nil {
			there = askLibraryAllAuthors
		}
		wrong = append(wrong, c.judge(name, library, here, there(t.Context(), q)))
	}
	return errors.Join(wrong...)
}

func (c *comparison) count(accepted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if accepted {
		c.accepted++
	}
}

// judge compares one verdict, where nil accepts.
func (c *comparison) judge(name string, o oracle, here, there error) error {
	switch {
	case here == nil && there != nil:
		for _, e := range laxer {
			if e.name == name && e.by == o {
				c.saw(name, e.why, o)
				return nil
			}
		}
		return fmt.Errorf("%s: accepted here, and refused by %s, which is DANGEROUS: %w", name, o, there)
	case here != nil && there == nil:
		for _, d := range stricter {
			if slices.Contains(d.by, o) && strings.Contains(here.Error(), d.says) {
				c.saw(name, d.says, o)
				return nil
			}
		}
		return fmt.Errorf("%s: accepted by %s, and refused here for a reason that is not on the list of differences: %.300v", name, o, here)
	}
	return nil
}

func (c *comparison) saw(name, entry string, o oracle) {
	if strings.HasPrefix(name, generated) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[entry] == nil {
		c.seen[entry] = map[oracle]bool{}
	}
	c.seen[entry][o] = true
}

// generated begins the names of cases that do not stand in the source.
const generated = "generated"

// finish says which differences are no more, and whether enough was accepted for the rest to tell.
func (c *comparison) finish(t *testing.T) {
	t.Logf("%s: of %d questions %d were answered with yes by all", library, c.asked, c.accepted)
	if c.accepted*3 < c.asked {
		t.Errorf("of %d questions only %d were answered with yes by all, less than a third: the comparison says little", c.asked, c.accepted)
	}
	for _, d := range stricter {
		for _, o := range d.by {
			if c.counts(t, o) && !c.seen[d.says][o] {
				t.Errorf("no case with a name is accepted by %s and refused here because %q: take it off the list", o, d.says)
			}
		}
	}
	for _, e := range laxer {
		if c.counts(t, e.by) && !c.seen[e.why][e.by] {
			t.Errorf("%s is not refused by %s any more: take it off the list", e.name, e.by)
		}
	}
}

// counts says whether the lists are about this oracle: in this run, and in the versions that they
// were made with. Of others they may claim too much.
func (c *comparison) counts(t *testing.T, o oracle) bool {
	if !slices.Contains(c.oracles, o) {
		return false
	}
	for program, version := range map[string]string{"gpg": " 2.2.", "skopeo": " 1.9."} {
		if o == openpgp || program == "skopeo" && o != skopeo {
			continue
		}
		out, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if line, _, _ := strings.Cut(string(out), "\n"); err != nil || !strings.Contains(line, version) {
			t.Logf("differences with %s are not checked for being there: this is %s %v", o, line, err)
			return false
		}
	}
	return true
}
