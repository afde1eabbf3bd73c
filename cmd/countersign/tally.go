package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
)

// Bounds of what an import keeps in mind: groups of refusals, and images that could not be read one
// after the other before it gives up.
const (
	maxGroups   = 1000
	maxFailures = 20
)

// A tally counts what became of an import, and writes down what was refused.
type tally struct {
	mu       sync.Mutex
	out      io.Writer
	progress *progress
	asJSON   bool
	dry      bool
	err      error // of out

	images, imported, known, refused, failed int
	inARow                                   int // images that could not be read
	groups                                   map[group]*refusals
}

// A group of refusals has one remedy.
type group struct {
	fingerprint string
	unknownKey  bool
}

type refusals struct {
	n     int
	first string // reason
}

func newTally(out io.Writer, p *progress, asJSON, dry bool) *tally {
	return &tally{out: out, progress: p, asJSON: asJSON, dry: dry, groups: map[group]*refusals{}}
}

// A tallied is a line of import -json.
type tallied struct {
	Path string `json:"path"`
	api.ImportResult
}

func (t *tally) add(path string, r api.ImportResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r.Outcome {
	case api.Imported:
		t.imported++
	case api.Known:
		t.known++
	default:
		t.refused++
		t.group(r)
	}
	if t.asJSON {
		t.keep(json.NewEncoder(t.out).Encode(tallied{path, r}))
	} else if r.Outcome == api.Refused {
		t.say("refused %s: %s\n", printable(path), printable(r.Reason))
	}
	t.progress.show(t.line)
}

func (t *tally) group(r api.ImportResult) {
	g := group{r.Fingerprint, r.UnknownKey}
	if t.groups[g] == nil && len(t.groups) >= maxGroups {
		g = group{}
	}
	if t.groups[g] == nil {
		t.groups[g] = &refusals{first: r.Reason}
	}
	t.groups[g].n++
}

// unread is for what the source cannot read.
func (t *tally) unread(path string, reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed++
	t.inARow++
	if t.asJSON {
		t.keep(json.NewEncoder(t.out).Encode(tallied{path, api.ImportResult{Outcome: "unread", Reason: reason.Error()}}))
		return
	}
	t.say("not read %s: %s\n", printable(path), printable(reason.Error()))
}

func (t *tally) readable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inARow = 0
}

func (t *tally) hopeless() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inARow >= maxFailures
}

func (t *tally) image() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.images++
	t.progress.show(t.line)
}

func (t *tally) line() string {
	return fmt.Sprintf("%s images: %s signatures %s, %s here already, %s refused, %s not read",
		count(t.images), count(t.imported), t.verb(), count(t.known), count(t.refused), count(t.failed))
}

func (t *tally) verb() string {
	if t.dry {
		return "would be imported"
	}
	return "imported"
}

func (t *tally) say(format string, args ...any) {
	t.progress.clear()
	_, err := fmt.Fprintf(t.out, format, args...)
	t.keep(err)
}

func (t *tally) keep(err error) { t.err = errors.Join(t.err, err) }

// A sum is the last line of import -json.
type sum struct {
	Images   int  `json:"images"`
	Imported int  `json:"imported"`
	Known    int  `json:"known"`
	Refused  int  `json:"refused"`
	Unread   int  `json:"unread"`
	DryRun   bool `json:"dryRun,omitempty"`
}

// sum ends the output: what was refused by key, the most first, with what would admit it.
func (t *tally) sum(took time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asJSON {
		t.keep(json.NewEncoder(t.out).Encode(map[string]sum{"sum": {t.images, t.imported, t.known, t.refused, t.failed, t.dry}}))
		return t.err
	}
	keys := slices.SortedFunc(maps.Keys(t.groups), func(a, b group) int {
		return cmp.Or(cmp.Compare(t.groups[b].n, t.groups[a].n), cmp.Compare(a.fingerprint, b.fingerprint))
	})
	for _, g := range keys {
		r := t.groups[g]
		switch {
		case g.unknownKey:
			t.say("\n%s refused by key %s, which is not known. With its public key in a file, this would admit it:\n  countersign keys trust %[2]s.asc\n", count(r.n), g.fingerprint)
		case g.fingerprint != "":
			t.say("\n%s refused by key %s; the first: %s\n", count(r.n), g.fingerprint, printable(r.first))
		default:
			t.say("\n%s refused that name no key; the first: %s\n", count(r.n), printable(r.first))
		}
	}
	t.say("%s, in %v\n", t.line(), took.Round(100*time.Millisecond))
	return t.err
}
