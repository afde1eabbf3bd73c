package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

func (m *memory) Records(_ context.Context, after store.Cursor, limit int) ([]store.Record, store.Cursor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	number := 0
	if after != "" {
		n, err := fmt.Sscanf(string(after), "records %d", &number)
		if n != 1 && !m.is("any cursor of the trail is the beginning") {
			if m.is("a damaged cursor is another error") && strings.HasPrefix(string(after), "records ") {
				return nil, "", err
			}
			return nil, "", fmt.Errorf("%w: %.40q: %v", store.ErrCursor, after, err)
		}
	}
	if number > m.number && !m.is("a cursor may be ahead of the trail") {
		return nil, "", fmt.Errorf("%w: it is ahead", store.ErrCursor)
	}
	var page []store.Record
	for _, r := range m.records {
		if r.number > number && len(page) < m.clamp(limit) {
			kept := r.Record
			if !m.is("records give out what is kept") {
				kept.Names = slices.Clone(kept.Names)
			}
			page, number = append(page, kept), r.number
			m.shown = max(m.shown, number)
		}
	}
	if len(page) == 0 && m.is("the trail begins again at its end") {
		return nil, "", nil
	}
	if len(page) > 0 && m.is("a cursor of the trail is one behind") {
		number--
	}
	return page, store.Cursor(fmt.Sprintf("records %d", number)), nil
}

func (m *memory) clamp(limit int) int {
	switch {
	case m.is("no page is too long"):
		return max(limit, 1)
	case m.is("limit 0 is none") && limit == 0:
		return 1000
	case m.is("pages have 100 at most"):
		return min(max(limit, 1), 100)
	}
	return min(max(limit, 1), 1000)
}

// A place is where a listing goes on.
type place struct {
	Kind   string
	Image  api.Image
	Serial int
	Key    string
	Offset int
}

func (m *memory) compare(a, b place) int {
	if m.is("images are in order of their string") {
		if c := strings.Compare(a.Image.String(), b.Image.String()); c != 0 {
			return c
		}
	}
	if m.is("tasks are in a person's order") {
		if c := strings.Compare(strings.ToLower(a.Key), strings.ToLower(b.Key)); c != 0 {
			return c
		}
	}
	return cmp.Or(strings.Compare(a.Image.Host, b.Image.Host), strings.Compare(a.Image.Repository, b.Image.Repository),
		strings.Compare(string(a.Image.Digest), string(b.Image.Digest)), cmp.Compare(a.Serial, b.Serial), strings.Compare(a.Key, b.Key))
}

type line struct {
	place
	store.Entry
}

func (m *memory) List(_ context.Context, f store.Filter, after store.Cursor, limit int) (page []store.Entry, next store.Cursor, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines, ok := m.lines(f)
	if !ok && !m.is("any kind is a listing") {
		return nil, "", fmt.Errorf("%q is no kind", f.Kind)
	}
	var from place
	if after != "" {
		d := json.NewDecoder(strings.NewReader(string(after)))
		d.DisallowUnknownFields()
		err := d.Decode(&from)
		if err != nil && m.is("a damaged cursor is another error") && strings.HasPrefix(string(after), "{") {
			return nil, "", err
		}
		if err != nil && !m.is("any cursor is the beginning") || from.Kind != f.Kind && !m.is("a cursor is any listing's") && err == nil {
			return nil, "", fmt.Errorf("%w: %.40q", store.ErrCursor, after)
		}
	}
	if m.is("behind what is gone there is nothing") && after != "" && !slices.ContainsFunc(lines, func(l line) bool { return m.compare(l.place, from) == 0 }) {
		return nil, "", nil
	}
	for n, l := range lines {
		if after != "" && m.behind(l, from, n) || !m.matches(f, l.Entry) {
			continue
		}
		if len(page) == m.clamp(limit) {
			return page, cursor(from), nil
		}
		page, from = append(page, l.Entry), l.place
		from.Offset = n + 1
	}
	if m.is("a listing has no end") {
		return page, cursor(from), nil
	}
	return page, "", nil
}

func cursor(p place) store.Cursor {
	text, err := json.Marshal(p)
	if err != nil {
		return store.Cursor(err.Error())
	}
	return store.Cursor(text)
}

func (m *memory) behind(l line, from place, n int) bool {
	switch {
	case m.is("a cursor is a number"):
		return n < from.Offset
	case m.is("a page begins with the last of the one before"):
		return m.compare(l.place, from) < 0
	case m.is("a cursor is an image") && from.Kind != store.Tasks:
		l.Serial, from.Serial = 0, 0
	}
	return m.compare(l.place, from) <= 0
}

// lines are all there are of a kind, in order.
func (m *memory) lines(f store.Filter) (lines []line, ok bool) {
	for i, set := range m.images {
		for n, s := range set.Signatures {
			if !m.is("a listing has contents") {
				s.Content = nil
			}
			at := n + 1
			if m.is("indexes are from 0") {
				at = n
			}
			if f.Kind == store.Signatures {
				serial := m.serials[i.String()+" "+s.Name]
				lines = append(lines, line{place{Kind: f.Kind, Image: i, Serial: serial}, store.Entry{Image: i, Index: at, Signature: &s}})
			}
		}
		for _, w := range set.Withdrawn {
			if f.Kind == store.Withdrawals {
				serial := m.serials[i.String()+" "+w.ID]
				if m.is("withdrawals are in order of their id") {
					serial = int(w.ID[0])
				}
				lines = append(lines, line{place{Kind: f.Kind, Image: i, Serial: serial}, store.Entry{Image: i, Withdrawal: &w}})
			}
		}
	}
	for key, t := range m.tasks {
		if f.Kind == store.Tasks {
			if !m.is("a listing gives out the tasks that are kept") {
				t.Detail = bytes.Clone(t.Detail)
			}
			lines = append(lines, line{place{Kind: f.Kind, Key: key}, store.Entry{Image: t.Image, Task: &t}})
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return m.compare(a.place, b.place) })
	return lines, f.Kind == store.Signatures || f.Kind == store.Withdrawals || f.Kind == store.Tasks
}

func (m *memory) matches(f store.Filter, e store.Entry) bool {
	is := func(name, asked, have string) bool {
		return asked == "" || asked == have || m.is("no filter for "+name) || m.is("part of a "+name+" is enough") && strings.HasPrefix(have, asked)
	}
	ok := is("host", f.Host, e.Image.Host) && is("repository", f.Repository, e.Image.Repository) && is("digest", f.Digest, string(e.Image.Digest))
	switch {
	case e.Signature != nil:
		return ok && is("key of a signature", f.Key, e.Signature.Fingerprint)
	case e.Withdrawal != nil:
		return ok && is("key of a withdrawal", f.Key, e.Withdrawal.Key)
	}
	return ok && is("state", f.State, e.Task.State)
}
