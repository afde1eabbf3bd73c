package store

import (
	"encoding/base64"
	"fmt"
	"slices"
	"time"
)

// Apply says what c makes of s, and what goes into the audit trail for it: c's record, and one
// more, Dropped, where All made it drop the server's own. It leaves s as it was. Version grows by
// one exactly when signatures or withdrawals are others than before; otherwise s is returned.
//
// The order is Lift, Withdraw, Drop, Add. A signature is there already if one with its identity or
// its name is, or, of the server's own, one by the same key for the same reference. While something
// is withdrawn, Add of it is ErrWithdrawn; limits are not looked at unless something is added, so
// lowering one takes nothing away. The server's own are never ErrFull: to make room its oldest go
// first, those in c.Add last of all.
func (s Set) Apply(c Change, l Limits) (Set, []Record, error) {
	if c.If != 0 && c.If != s.Version {
		return Set{}, nil, fmt.Errorf("%w: it is at version %d, not %d: read it again", ErrChanged, s.Version, c.If)
	}
	next := s
	next.Signatures, next.Withdrawn = slices.Clone(s.Signatures), slices.Clone(s.Withdrawn)
	next.lift(c.Lift)
	if err := next.withdraw(c.Withdraw); err != nil {
		return Set{}, nil, err
	}
	next.Signatures = slices.DeleteFunc(next.Signatures, func(have Signature) bool {
		return slices.Contains(c.Drop, have.Name)
	})
	crowded, err := next.add(c, l)
	if err != nil {
		return Set{}, nil, err
	}
	changed := !next.equal(s)
	if changed {
		next.Version++
	} else {
		next = s
	}
	return next, c.records(s.names(), next.names(), changed, crowded), nil
}

func (s *Set) lift(lifted []Withdrawal) {
	s.Withdrawn = slices.DeleteFunc(s.Withdrawn, func(have Withdrawal) bool {
		return slices.ContainsFunc(lifted, func(w Withdrawal) bool { return w.ID == have.ID })
	})
}

// withdraw refuses a scope it does not know: a withdrawal that stops nothing would be believed.
func (s *Set) withdraw(withdrawn []Withdrawal) error {
	for _, w := range withdrawn {
		if w.Scope != ScopeSignature && w.Scope != ScopeKey && w.Scope != ScopeImage {
			return fmt.Errorf("withdrawal %s: %q is not a scope", w.ID, w.Scope)
		}
		if slices.ContainsFunc(s.Withdrawn, w.same) {
			continue
		}
		if i := slices.IndexFunc(s.Signatures, func(have Signature) bool { return have.Name == w.Name }); i >= 0 && w.Scope == ScopeSignature {
			w.Identity = s.Signatures[i].Identity
		}
		s.Signatures = slices.DeleteFunc(s.Signatures, w.stops)
		s.Withdrawn = append(s.Withdrawn, w)
	}
	return nil
}

// same leaves out what does not decide anything, and Identity, which Apply fills in.
func (w Withdrawal) same(o Withdrawal) bool {
	return w.ID == o.ID && w.Scope == o.Scope && w.Name == o.Name && w.Key == o.Key
}

func (w Withdrawal) stops(s Signature) bool {
	switch w.Scope {
	case ScopeImage:
		return true
	case ScopeKey:
		return w.Key == s.Fingerprint
	default:
		return w.Name == s.Name || w.Identity != "" && w.Identity == s.Identity
	}
}

// Stops reports whether something withdrawn keeps a signature out.
func (s Set) Stops(a Signature) bool {
	return slices.ContainsFunc(s.Withdrawn, func(w Withdrawal) bool { return w.stops(a) })
}

// add returns the names of those that had to make room. At is looked at before and after that:
// an index that something else had, or that moves at once, is not what the caller asked for.
func (s *Set) add(c Change, l Limits) (crowded []string, err error) {
	if len(c.Add) == 0 {
		return nil, nil
	}
	if err := s.checkIndex(c.Add[0], c.At); err != nil {
		return nil, err
	}
	before := len(s.Signatures)
	for _, a := range c.Add {
		if i := slices.IndexFunc(s.Withdrawn, func(w Withdrawal) bool { return w.stops(a) }); i >= 0 {
			return nil, refusal(s.Withdrawn[i])
		}
		if s.find(a) < 0 {
			s.Signatures = append(s.Signatures, a)
		}
	}
	added := s.Signatures[before:]
	if len(added) == 0 {
		return nil, nil
	}
	if err := s.checkLimits(added, l); err != nil {
		return nil, err
	}
	crowded = s.makeRoom(c.Add, l.All)
	return crowded, s.checkIndex(c.Add[0], c.At)
}

func refusal(w Withdrawal) error {
	what := map[string]string{ScopeSignature: "this signature", ScopeKey: "every signature by key " + w.Key, ScopeImage: "the image"}
	return fmt.Errorf("%w: %s, since %s, because %q: lift withdrawal %s first",
		ErrWithdrawn, what[w.Scope], w.Time.UTC().Format(time.DateOnly), w.Reason, w.ID)
}

// find returns where a, or what stands for it, is; -1 if nowhere.
func (s *Set) find(a Signature) int {
	return slices.IndexFunc(s.Signatures, func(have Signature) bool {
		return have.Name == a.Name || a.Identity != "" && have.Identity == a.Identity ||
			a.Own && have.Own && have.Fingerprint == a.Fingerprint && have.Reference == a.Reference
	})
}

func (s *Set) checkIndex(a Signature, at int) error {
	place := s.find(a)
	if place < 0 {
		place = len(s.Signatures)
	}
	if at != 0 && at != place+1 {
		return fmt.Errorf("%w: index %d was asked for, and %d is the one for %s: ask for that, or for none", ErrIndex, at, place+1, a.Name)
	}
	return nil
}

func (s *Set) checkLimits(added []Signature, l Limits) error {
	uploaded := slices.DeleteFunc(slices.Clone(s.Signatures), func(have Signature) bool { return have.Own })
	if !slices.ContainsFunc(added, func(a Signature) bool { return !a.Own }) {
		return nil
	}
	if l.Uploaded > 0 && len(uploaded) > l.Uploaded {
		return full(len(uploaded), "uploaded signatures", l.Uploaded)
	}
	if n := listBytes(uploaded); l.Bytes > 0 && n > l.Bytes {
		return full(n, "bytes in its list of uploaded signatures", l.Bytes)
	}
	byKey := make(map[string]int)
	for _, u := range uploaded {
		byKey[u.Fingerprint]++
	}
	for _, a := range added {
		if n := byKey[a.Fingerprint]; !a.Own && l.Key > 0 && n > l.Key {
			return full(n, "uploaded signatures by key "+a.Fingerprint, l.Key)
		}
	}
	return nil
}

func full(would int, what string, limit int) error {
	return fmt.Errorf("%w: the image would have %d %s, and the limit is %d: withdraw what is not needed any more, or raise the limit",
		ErrFull, would, what, limit)
}

// listBytes is the size of what the extension answers for these signatures (protocol.md 3.2).
func listBytes(signatures []Signature) int {
	const list = `{"signatures":[]}`
	const entry = `{"schemaVersion":2,"name":"","type":"atomic","content":""},`
	n := len(list)
	for _, s := range signatures {
		n += len(entry) + len(s.Name) + base64.StdEncoding.EncodedLen(len(s.Content))
	}
	return n
}

// makeRoom looks at all of the added alike, whether they were there already or not: done twice,
// a change must not push out now what it kept before.
func (s *Set) makeRoom(added []Signature, limit int) (crowded []string) {
	if limit == 0 || len(s.Signatures) <= limit {
		return nil
	}
	var old, young []string
	for _, a := range added {
		if have := s.Signatures[s.find(a)]; have.Own && !slices.Contains(young, have.Name) {
			young = append(young, have.Name)
		}
	}
	for _, have := range s.Signatures {
		if have.Own && !slices.Contains(young, have.Name) {
			old = append(old, have.Name)
		}
	}
	own := append(old, young...)
	crowded = own[:min(len(own), len(s.Signatures)-limit)]
	s.Signatures = slices.DeleteFunc(s.Signatures, func(have Signature) bool { return slices.Contains(crowded, have.Name) })
	return crowded
}

func (s Set) equal(o Set) bool {
	return slices.Equal(s.names(), o.names()) && slices.EqualFunc(s.Withdrawn, o.Withdrawn, Withdrawal.same)
}

func (s Set) names() []string {
	names := make([]string, len(s.Signatures))
	for i, have := range s.Signatures {
		names[i] = have.Name
	}
	return names
}

func (c Change) records(before, after []string, changed bool, crowded []string) (records []Record) {
	asks := len(c.Add)+len(c.Drop)+len(c.Withdraw)+len(c.Lift) > 0
	if c.Record.Action != "" && (changed || !asks) {
		r := c.Record
		r.Image = c.Image
		if len(r.Names) == 0 {
			r.Names = append(without(without(before, after), crowded), without(after, before)...)
		}
		records = append(records, r)
	}
	if served := without(before, without(before, crowded)); changed && len(served) > 0 {
		records = append(records, Record{
			Time: c.Record.Time, Action: Dropped, Subject: c.Record.Subject, Address: c.Record.Address,
			Image: c.Image, Names: served, Reason: "the server's own oldest, to make room",
		})
	}
	return records
}

func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

// DefaultLimits leave a list room below what clients read, 4 MiB and 127 signatures (protocol.md 1.3, 3.4).
func DefaultLimits() Limits {
	return Limits{Uploaded: 64, Key: 32, Bytes: 3 << 20, All: 100}
}
