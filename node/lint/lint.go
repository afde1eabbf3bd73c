// Package lint looks for mistakes in the files with which a node enforces signatures: policy.json,
// registries.d, registries.conf and the keys that they name. It reads them as clients do (protocol.md
// 2 and 6), and says of each mistake where it is, why it is one, and what to do.
package lint

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/policy"
)

// A Severity says what a finding does to a node.
type Severity string

const (
	Error   Severity = "error"   // clients refuse what they should accept, or do not what the file says
	Warning Severity = "warning" // some do, or the file hardly says what was meant
	Note    Severity = "note"    // nothing is wrong; somebody should know
)

// A Finding is one mistake at one place.
type Finding struct {
	ID       string   `json:"id"` // one of Kinds
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`   // from 1; 0: it is about the whole file
	Column   int      `json:"column,omitempty"` // from 1; 0: it is about the whole line
	Place    string   `json:"place,omitempty"`  // as jq spells a path
	What     string   `json:"what"`
	Why      string   `json:"why"`
	Remedy   string   `json:"remedy"`
}

// At is the place in front of a message, as compilers have it.
func (f Finding) At() string {
	at := f.File
	if f.Line > 0 {
		at += ":" + strconv.Itoa(f.Line)
	}
	if f.Column > 0 {
		at += ":" + strconv.Itoa(f.Column)
	}
	if f.Place != "" {
		at += ": " + f.Place
	}
	return at
}

// A Report is what there is to say of a node's files. Notes are no findings.
type Report struct {
	Files    []string  `json:"files"` // that were read, keys among them
	Findings []Finding `json:"findings"`
	Notes    []Finding `json:"notes"`
	More     int       `json:"more,omitempty"` // findings that are left out: there were too many
}

// maxFindings of one severity is more than somebody reads.
const maxFindings = 1000

// Count is how many findings are that severe.
func (r Report) Count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Options are what is known of a node beside its files.
type Options struct {
	Client Client    // that reads the files; zero: any that is in use
	Signs  bool      // images are signed and pushed there, too
	Root   string    // the node's file system; empty: this machine's
	Prefix string    // where the node has the directories that are given; empty: /etc/containers
	Now    time.Time // decides which keys are expired
	Online bool      // ask the lookasides and registries that the files name

	Progress func(done, all int) // of what is asked; may be nil
}

// soon is how long before a key expires somebody should know.
const soon = 30 * 24 * time.Hour

// Run reads the files, all of one node, and says what is wrong with them. Its error is that there
// is nothing to read.
func Run(ctx context.Context, paths []string, o Options) (Report, error) {
	files, err := collect(paths)
	if err != nil {
		return Report{}, err
	}
	return check(ctx, files, o), nil
}

// check is Run with files that were read.
func check(ctx context.Context, files []file, o Options) Report {
	l := &linter{
		Options: o, files: files, keys: map[string]*keyring{}, byName: map[string][]namespace{},
		tables: map[string]registry{}, said: map[string]bool{}, counts: map[Severity]int{},
	}
	for _, f := range files {
		l.report.Files = append(l.report.Files, f.path)
		l.file(f)
	}
	l.together()
	if o.Online {
		l.online(ctx)
	}
	return l.sorted()
}

// A linter gathers what it finds.
type linter struct {
	Options
	files    []file
	policies []nodePolicy
	sources  []namespace // of registries.d
	byName   map[string][]namespace
	mirrors  []registry          // of registries.conf
	tables   map[string]registry // of them the first by file and prefix, and by file and location
	keys     map[string]*keyring
	said     map[string]bool
	counts   map[Severity]int
	report   Report
}

// A nodePolicy is a policy.json, as far as it reads.
type nodePolicy struct {
	*policy.Policy
	file file
}

// A position is where a finding is.
type position struct {
	file         string
	line, column int
	place        string
}

// find takes a finding down, once. The last argument of those of the sentence may be a remedy.
func (l *linter) find(id kind, at position, format string, args ...any) {
	l.findWith(id, at, "", format, args...)
}

// A remedy of its own says what to do here, in front of what helps in general.
func (l *linter) findWith(id kind, at position, remedy, format string, args ...any) {
	k := id.entry()
	if remedy == "" {
		remedy = k.Remedy
	}
	f := Finding{
		ID: string(id), Severity: k.Severity, File: at.file, Line: at.line, Column: at.column, Place: at.place,
		What: fmt.Sprintf(format, args...), Why: k.Why, Remedy: remedy,
	}
	if same := f.ID + f.At() + f.What; l.said[same] {
		return
	} else {
		l.said[same] = true
	}
	if l.counts[f.Severity]++; l.counts[f.Severity] > maxFindings {
		l.report.More++
		return
	}
	if f.Severity == Note {
		l.report.Notes = append(l.report.Notes, f)
		return
	}
	l.report.Findings = append(l.report.Findings, f)
}

func (l *linter) file(f file) {
	switch f.kind {
	case policyFile:
		l.policyFile(f)
	case registriesD:
		l.registriesD(f)
	case registriesConf:
		l.registriesConf(f)
	case ignoredFile:
		l.find(fileIgnored, position{file: f.path}, "no client reads it: its name does not end in %s", f.wanted)
	}
}

// together is what no file says alone.
func (l *linter) together() {
	l.withoutPolicy()
	l.claimedTwice()
	l.lookasides()
	for _, p := range l.policies {
		l.ports(p)
		l.mirrored(p)
	}
}

// withoutPolicy tells of a directory like /etc/containers that has none.
func (l *linter) withoutPolicy() {
	if slices.ContainsFunc(l.files, func(f file) bool { return f.kind == policyFile }) {
		return
	}
	for _, f := range l.files {
		below := filepath.Dir(f.path) != filepath.Clean(f.directory) || filepath.Base(f.path) == "registries.conf"
		if f.directory != "" && below {
			l.find(policyMissing, position{file: filepath.Join(f.directory, "policy.json")}, "there is none beside registries.d and registries.conf")
		}
	}
}

// sorted is the report by file and place.
func (l *linter) sorted() Report {
	for _, list := range []*[]Finding{&l.report.Findings, &l.report.Notes} {
		if *list == nil {
			*list = []Finding{} // [] in JSON
		}
		slices.SortStableFunc(*list, func(a, b Finding) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.ID, b.ID))
		})
	}
	return l.report
}

// quoted keeps what somebody wrote from flooding or forging a message.
func quoted(s string) string {
	const most = 200
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// path spells a path as jq does, from keys and indexes.
func path(steps ...any) string {
	var out strings.Builder
	for _, step := range steps {
		switch s := step.(type) {
		case int:
			fmt.Fprintf(&out, "[%d]", s)
		case string:
			if word := strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""; !word || s == "" {
				fmt.Fprintf(&out, "[%s]", quoted(s))
				continue
			}
			if out.Len() > 0 {
				out.WriteByte('.')
			}
			out.WriteString(s)
		}
	}
	return out.String()
}
