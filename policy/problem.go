package policy

import (
	"errors"
	"fmt"
)

// What a Problem's Err wraps, of the mistakes that people make most.
var (
	ErrUnknownKey   = errors.New("unknown key")
	ErrDuplicateKey = errors.New("duplicate key")
	ErrNoDefault    = errors.New(`"default" is missing`)
)

// A Problem is what is wrong at one place of a policy.
type Problem struct {
	Line  int    // from 1; 0 where there is none to name
	Place string // as jq spells it; empty for the whole
	Err   error
	Late  bool // clients read the file, and find it when they need what is there
}

func (p *Problem) Error() string {
	switch {
	case p.Line == 0:
		return p.Err.Error()
	case p.Place == "":
		return fmt.Sprintf("line %d: %v", p.Line, p.Err)
	}
	return fmt.Sprintf("line %d: %s: %v", p.Line, p.Place, p.Err)
}

func (p *Problem) Unwrap() error { return p.Err }

// maxProblems is more than somebody corrects at a time.
const maxProblems = 100

// problems gather while the reading goes on.
type problems struct {
	list []Problem
	seen map[string]bool
}

// note takes a problem down, so that the reading can go on. Where nobody gathers it is returned.
func (p *problems) note(err error) error {
	if p == nil || err == nil || len(p.list) == maxProblems {
		return err
	}
	if p.seen[err.Error()] {
		return nil
	}
	p.seen[err.Error()] = true
	problem, ok := errors.AsType[*Problem](err)
	if !ok {
		problem = &Problem{Err: err}
	}
	p.list = append(p.list, *problem)
	return nil
}

// Inspect reads a policy as Parse does and goes on behind a problem, for who corrects the file:
// the policy is what could be read of it, nil if nothing could, and decides nothing unless there
// is no problem.
func Inspect(data []byte) (*Policy, []Problem) {
	all := &problems{seen: map[string]bool{}}
	p, err := parse(data, all)
	if err != nil && all.note(err) != nil {
		p = nil
	}
	return p, all.list
}
