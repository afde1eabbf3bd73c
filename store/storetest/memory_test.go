package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// A memory is a store that is only there to test the test. It does what the contract says but for
// the one thing that it has wrong.
type memory struct {
	wrong  string
	limits store.Limits
	clock  func() time.Time

	mu      sync.Mutex
	images  map[api.Image]store.Set
	old     map[api.Image]store.Set // before the last change
	serials map[string]int          // of an image's signatures and withdrawals, as they came
	serial  int
	records []numbered
	number  int
	shown   int // the highest number that Records returned
	tasks   map[string]store.Task
	leases  int
	reads   int
}

type numbered struct {
	number int
	store.Record
}

func newMemory(wrong string, limits store.Limits, clock func() time.Time) *memory {
	return &memory{
		wrong: wrong, limits: limits, clock: clock,
		images: map[api.Image]store.Set{}, old: map[api.Image]store.Set{}, serials: map[string]int{}, tasks: map[string]store.Task{},
	}
}

func (m *memory) is(wrong string) bool { return m.wrong == wrong }

// pause lets others in between, as a store does that waits for a disk.
func (m *memory) pause() {
	m.mu.Unlock()
	for range 1000 {
		runtime.Gosched()
	}
	m.mu.Lock()
}

// letOvertake lets every second change wait until one with a higher number is kept and, where somebody
// reads the trail at all, read. If all waited for as long as each other, they could stay in their order.
func (m *memory) letOvertake(number int) {
	if number%2 == 0 {
		return
	}
	for range 20 {
		m.pause()
		if m.shown > number || m.shown == 0 && m.highest() > number {
			return
		}
	}
}

func (m *memory) highest() int {
	if len(m.records) == 0 {
		return 0
	}
	return m.records[len(m.records)-1].number
}

func clone(s store.Set) store.Set {
	s.Signatures, s.Withdrawn = slices.Clone(s.Signatures), slices.Clone(s.Withdrawn)
	for i := range s.Signatures {
		s.Signatures[i].Content = bytes.Clone(s.Signatures[i].Content)
	}
	return s
}

func (m *memory) Get(_ context.Context, i api.Image) (store.Set, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	switch {
	case m.is("get is stale now and then") && m.reads%5 == 0:
		return clone(m.old[i]), nil
	case m.is("get gives out what is kept"):
		return m.images[i], nil
	case m.is("get forgets the host"):
		for other, set := range m.images {
			if other.Host < i.Host && other.Repository == i.Repository && other.Digest == i.Digest {
				return clone(set), nil
			}
		}
	case m.is("get of nothing is version 1") && m.images[i].Version == 0:
		return store.Set{Version: 1}, nil
	}
	return clone(m.images[i]), nil
}

func (m *memory) Do(ctx context.Context, c store.Change) (store.Set, error) {
	if ctx.Err() != nil && !m.is("do goes on without a context") {
		switch m.wrong {
		case "an ended context is its own error":
			return store.Set{}, ctx.Err()
		case "an ended context leaves a record":
			m.mu.Lock()
			m.log([]store.Record{c.Record}, 0)
			m.mu.Unlock()
		}
		return store.Set{}, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	number := 0
	if m.is("records are numbered before they are kept") {
		m.number++
		number = m.number
		m.letOvertake(number)
	}
	before := m.before(c)
	asked, limits := m.asked(c)
	next, records, err := before.Apply(asked, limits)
	ended, endErr := m.end(c.Ends)
	if m.is("ends is forgotten in a change that is refused") && err != nil && endErr == nil && ended != nil {
		m.keepTask(*ended)
	}
	if err = errors.Join(err, endErr); err != nil {
		m.refused(c, before)
		return store.Set{}, err
	}
	m.keep(c, before, m.stored(c, before, next))
	if m.is("a change is seen before its record") || m.is("a change is seen before its task") {
		m.pause()
	}
	if m.is("a task is seen before its record") {
		m.then(c.Then, ended)
		m.pause()
	}
	m.log(m.logged(c, records), number)
	if m.is("a change is seen before its task") {
		m.pause()
	}
	if !m.is("a task is seen before its record") {
		m.then(c.Then, ended)
	}
	if m.is("do returns what was there before") {
		return clone(before), nil
	}
	if m.is("do gives out what is kept") {
		return m.images[c.Image], nil
	}
	return clone(m.images[c.Image]), nil
}

func (m *memory) Start(ctx context.Context, c store.Change, done func(store.Set, error)) {
	if m.is("start forgets its context") {
		ctx = context.WithoutCancel(ctx)
	}
	if m.is("start says so before it has begun") {
		done(store.Set{}, nil)
		return
	}
	set, err := m.Do(ctx, c)
	switch {
	case m.is("what is refused is never answered") && err != nil:
		return
	case m.is("what is refused was done") && err != nil:
		err = nil
	case m.is("start answers twice"):
		done(set, err)
	case m.is("start answers with what was there") && err == nil:
		set = store.Set{}
	}
	done(set, err)
}

func (m *memory) before(c store.Change) store.Set {
	before := m.images[c.Image]
	if m.is("writers forget each other") {
		m.pause()
	}
	return before
}

// asked is the change as this store understands it.
func (m *memory) asked(c store.Change) (store.Change, store.Limits) {
	limits := m.limits
	c.Add = slices.Clone(c.Add)
	switch m.wrong {
	case "if is ignored":
		c.If = 0
	case "if is ignored by a refusal":
		if len(c.Add)+len(c.Drop) == 0 {
			c.If = 0
		}
	case "if is at least":
		c.If = min(c.If, m.images[c.Image].Version)
	case "at is ignored":
		c.At = 0
	case "at is ignored for the first":
		if m.images[c.Image].Version == 0 {
			c.At = 0
		}
	case "there is a limit always":
		limits.Uploaded = cmp.Or(limits.Uploaded, 100)
	case "limits are ignored":
		limits = store.Limits{}
	case "a key's limit is ignored":
		limits.Key = 0
	case "bytes are not limited":
		limits.Bytes = 0
	case "all is not limited":
		limits.All = 0
	case "the server's own are uploaded":
		for n := range c.Add {
			c.Add[n].Own = false
		}
	case "nothing has an identity":
		for n := range c.Add {
			c.Add[n].Identity = ""
		}
	case "lifts do not lift":
		c.Lift = nil
	case "a key is withdrawn but not for good":
		for _, w := range c.Withdraw {
			for _, have := range m.images[c.Image].Signatures {
				if w.Scope == store.ScopeKey && have.Fingerprint == w.Key {
					c.Drop, c.Withdraw = append(slices.Clone(c.Drop), have.Name), nil
				}
			}
		}
	case "an image is withdrawn but not for good":
		c.Withdraw = slices.DeleteFunc(slices.Clone(c.Withdraw), func(w store.Withdrawal) bool { return w.Scope == store.ScopeImage })
	}
	return c, limits
}

// stored is what this store makes of the next set.
func (m *memory) stored(c store.Change, before, next store.Set) store.Set {
	if !m.is("do keeps what it was given") {
		next = clone(next)
	}
	switch m.wrong {
	case "a drop leaves a hole":
		for n, have := range before.Signatures {
			if slices.Contains(c.Drop, have.Name) {
				next.Signatures = slices.Insert(next.Signatures, min(n, len(next.Signatures)), store.Signature{})
			}
		}
	case "a withdrawal leaves a hole":
		for n, have := range before.Signatures {
			for _, w := range c.Withdraw {
				if have.Name == w.Name {
					next.Signatures = slices.Insert(next.Signatures, n, have)
				}
			}
		}
	case "a withdrawal turns the order":
		if len(c.Withdraw) > 0 {
			slices.Reverse(next.Signatures)
		}
	case "the newest comes first":
		if len(next.Signatures) > len(before.Signatures) {
			slices.Reverse(next.Signatures)
		}
	case "a refusal counts as a change":
		next.Version = before.Version + 1
	case "a change leaves the version":
		next.Version = max(1, before.Version)
	case "what was done twice is there twice":
		if len(c.Add) > 0 && next.Version == before.Version {
			next.Signatures = append(next.Signatures, clone(store.Set{Signatures: c.Add}).Signatures...)
		}
	}
	for n := range next.Signatures {
		m.storedSignature(&next.Signatures[n])
	}
	return next
}

func (m *memory) storedSignature(s *store.Signature) {
	switch m.wrong {
	case "content ends at 60 KB":
		s.Content = s.Content[:min(len(s.Content), 60_000)]
	case "content is a string of C":
		s.Content, _, _ = bytes.Cut(s.Content, []byte{0})
	case "content is trimmed":
		s.Content = bytes.TrimSpace(s.Content)
	case "content is text":
		s.Content = bytes.ToValidUTF8(s.Content, []byte("?"))
	case "the uploader is lost":
		s.Uploader = ""
	}
}

func (m *memory) keep(c store.Change, before, next store.Set) {
	m.old[c.Image] = before
	m.images[c.Image] = next
	for key := range m.serials {
		name, ours := strings.CutPrefix(key, c.Image.String()+" ")
		again := slices.Contains(c.Drop, name) || slices.ContainsFunc(c.Lift, func(w store.Withdrawal) bool { return w.ID == name })
		if ours && (again && !m.is("what comes again is listed where it was") || !slices.Contains(keys(c.Image, next), key)) {
			delete(m.serials, key)
		}
	}
	for _, key := range keys(c.Image, next) {
		if m.serials[key] == 0 {
			m.serial++
			m.serials[key] = m.serial
		}
	}
}

func keys(i api.Image, s store.Set) (all []string) {
	for _, have := range s.Signatures {
		all = append(all, i.String()+" "+have.Name)
	}
	for _, w := range s.Withdrawn {
		all = append(all, i.String()+" "+w.ID)
	}
	return all
}

func (m *memory) refused(c store.Change, before store.Set) {
	switch m.wrong {
	case "a refused change leaves its record":
		m.log([]store.Record{c.Record}, 0)
	case "a refused change leaves its tasks":
		m.then(c.Then, nil)
	case "a refused change leaves a version":
		before = clone(before)
		before.Version++
		m.images[c.Image] = before
	case "a refused change leaves its first signature":
		if len(c.Add) > 1 {
			before = clone(before)
			before.Signatures = append(before.Signatures, c.Add[0])
			m.images[c.Image] = before
		}
	}
}

// logged is what this store keeps of the records.
func (m *memory) logged(c store.Change, records []store.Record) []store.Record {
	switch m.wrong {
	case "what was done twice is recorded twice":
		if len(records) == 0 && c.Record.Action != "" {
			c.Record.Image = c.Image
			return []store.Record{c.Record}
		}
	case "what has no action is recorded":
		if len(records) == 0 && c.Record.Action == "" && len(c.Add) > 0 {
			return []store.Record{c.Record}
		}
	case "no word of what had to make room":
		return records[:min(1, len(records))]
	case "a refusal is not recorded":
		if len(c.Add)+len(c.Drop)+len(c.Withdraw)+len(c.Lift) == 0 {
			return nil
		}
	}
	return records
}

func (m *memory) log(records []store.Record, number int) {
	for _, r := range records {
		if r.Time.IsZero() && !m.is("records have no time") {
			r.Time = m.clock()
		}
		if m.is("records are dated by the store") {
			r.Time = m.clock()
		}
		r.Names = slices.Clone(r.Names)
		if number == 0 {
			m.number++
			number = m.number
		}
		m.records = append(m.records, numbered{number, r})
		number = 0
	}
	switch last := len(m.records) - 1; {
	case m.is("a record is put before the last") && last > 0:
		m.records[last].Record, m.records[last-1].Record = m.records[last-1].Record, m.records[last].Record
	case m.is("records are in order of time"):
		slices.SortStableFunc(m.records, func(a, b numbered) int { return a.Time.Compare(b.Time) })
		for n := range m.records {
			m.records[n].number = n + 1
		}
	case m.is("records are numbered before they are kept"):
		slices.SortStableFunc(m.records, func(a, b numbered) int { return a.number - b.number })
	case m.is("records are in order of image"):
		slices.SortStableFunc(m.records, func(a, b numbered) int { return strings.Compare(a.Image.String(), b.Image.String()) })
		for n := range m.records {
			m.records[n].number = n + 1
		}
	}
}
