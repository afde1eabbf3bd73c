package postgres

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// A signatureRow is a row of signatures.
type signatureRow struct {
	Serial  int64  `json:"serial"`
	Content []byte `json:"content"` // and not Signature's
	store.Signature
}

type withdrawalRow struct {
	Serial int64 `json:"serial"`
	store.Withdrawal
}

// An imageRow is what an image has, as it was read in one snapshot. It is immutable, but for when
// it was known to be current.
type imageRow struct {
	image      api.Image
	version    int64
	serial     int64
	state      string // empty: there is no such image
	signatures []signatureRow
	withdrawn  []withdrawalRow
	damages    []string // names of those whose content is another's
	current    atomic.Int64
	ctid       atomic.Uint64 // see isAt
}

// addWithdrawal adds one as JSON.
func (r *imageRow) addWithdrawal(text []byte) error {
	var w withdrawalRow
	if err := json.Unmarshal(text, &w); err != nil {
		return fmt.Errorf("what %s has does not read: %w", r.image, err)
	}
	r.withdrawn = append(r.withdrawn, w)
	return nil
}

// settle puts what was read in order, and what does not read aside.
func (r *imageRow) settle() {
	slices.SortFunc(r.signatures, func(a, b signatureRow) int { return cmp.Compare(a.Serial, b.Serial) })
	slices.SortFunc(r.withdrawn, func(a, b withdrawalRow) int { return cmp.Compare(a.Serial, b.Serial) })
	r.signatures = slices.DeleteFunc(r.signatures, func(s signatureRow) bool {
		bad := api.Name(r.image.Digest, s.Content) != s.Name
		if bad {
			r.damages = append(r.damages, s.Name)
		}
		return bad
	})
}

// set is a copy, but for the contents, which nobody writes to.
func (r *imageRow) set() (s store.Set) {
	s.Version = uint64(r.version)
	if len(r.signatures) > 0 {
		s.Signatures = make([]store.Signature, 0, len(r.signatures))
	}
	for _, row := range r.signatures {
		row.Signature.Content = row.Content
		s.Signatures = append(s.Signatures, row.Signature)
	}
	for _, row := range r.withdrawn {
		s.Withdrawn = append(s.Withdrawn, row.Withdrawal)
	}
	return s
}

// size is about what it takes in memory.
func (r *imageRow) size() int {
	n := 512
	for _, s := range r.signatures {
		n += 512 + len(s.Content) + len(s.UserID) + len(s.Reference)
	}
	for _, w := range r.withdrawn {
		n += 512 + len(w.Reason)
	}
	return n
}

// replaced is the row that after makes of r. What was there before keeps its serial, so that a
// listing knows where it was although places move. What was dropped and added again gets a new one, behind
// the others: serials always grow along the list.
func (r *imageRow) replaced(after store.Set, state string) *imageRow {
	next := &imageRow{image: r.image, version: int64(after.Version), serial: r.serial, state: state}
	last := int64(0)
	serial := func(old int64) int64 {
		if old <= last {
			next.serial++
			old = next.serial
		}
		last = old
		return old
	}
	for _, s := range after.Signatures {
		row := signatureRow{Signature: s, Content: s.Content}
		row.Signature.Content = nil
		if i := slices.IndexFunc(r.signatures, func(have signatureRow) bool { return have.Name == s.Name }); i >= 0 {
			row.Serial = r.signatures[i].Serial
		}
		row.Serial = serial(row.Serial)
		next.signatures = append(next.signatures, row)
	}
	last = 0
	for _, w := range after.Withdrawn {
		row := withdrawalRow{Withdrawal: w}
		same := func(have withdrawalRow) bool {
			return have.ID == w.ID && have.Scope == w.Scope && have.Name == w.Name && have.Key == w.Key
		}
		if i := slices.IndexFunc(r.withdrawn, same); i >= 0 {
			row.Serial = r.withdrawn[i].Serial
		}
		row.Serial = serial(row.Serial)
		next.withdrawn = append(next.withdrawn, row)
	}
	return next
}

func (r *imageRow) has(serial int64) bool {
	return slices.ContainsFunc(r.signatures, func(s signatureRow) bool { return s.Serial == serial }) ||
		slices.ContainsFunc(r.withdrawn, func(w withdrawalRow) bool { return w.Serial == serial })
}

// maxKey bounds a task's key, in bytes: an index has room for no more.
const maxKey = 2000

// clean refuses what could be stored and never be read again, and returns a copy of the rest as the
// database keeps it: text that is UTF-8 without NUL, and times of microseconds.
func clean(c store.Change) (store.Change, error) {
	c.Add, c.Drop, c.Withdraw = slices.Clone(c.Add), slices.Clone(c.Drop), slices.Clone(c.Withdraw)
	c.Lift, c.Then, c.Record.Names = slices.Clone(c.Lift), slices.Clone(c.Then), slices.Clone(c.Record.Names)
	if !storable(c.Image) {
		return c, errors.New("an image's name is UTF-8")
	}
	for n := range c.Add {
		a := &c.Add[n]
		if name := api.Name(c.Image.Digest, a.Content); a.Name != name {
			return c, fmt.Errorf("signature %q has the content of %q", a.Name, name)
		}
		a.Content = bytes.Clone(a.Content)
		cleanText(&a.Identity, &a.Fingerprint, &a.UserID, &a.Reference, &a.Origin, &a.Uploader)
		a.Signed, a.Added = instant(a.Signed), instant(a.Added)
	}
	for n := range c.Withdraw {
		w := &c.Withdraw[n]
		cleanText(&w.ID, &w.Scope, &w.Name, &w.Identity, &w.Key, &w.Reason, &w.Subject)
		w.Time = instant(w.Time)
	}
	for n := range c.Then {
		t := &c.Then[n]
		if len(t.Key) == 0 || len(t.Key) > maxKey || t.Key != text(t.Key) || !storable(t.Image) {
			return c, fmt.Errorf("task %.100q: a key has 1 to %d bytes of UTF-8", t.Key, maxKey)
		}
		t.Detail = bytes.Clone(t.Detail)
		cleanText(&t.Kind, &t.Problem)
		t.Due, t.Queued = instant(t.Due), instant(t.Queued)
	}
	if c.Ends != nil {
		ends := *c.Ends
		cleanText(&ends.Key, &ends.Problem, &ends.Lease)
		ends.Due = instant(ends.Due)
		c.Ends = &ends
	}
	r := &c.Record
	cleanText(&r.Action, &r.Subject, &r.Address, &r.Fingerprint, &r.Reference, &r.Reason)
	for n := range r.Names {
		cleanText(&r.Names[n])
	}
	r.Time = instant(r.Time)
	return c, nil
}

func cleanText(all ...*string) {
	for _, s := range all {
		*s = text(*s)
	}
}

// text is what of a string a column of type text takes.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storable tells an image whose name the database can have.
func storable(i api.Image) bool {
	for _, part := range []string{i.Host, i.Repository, string(i.Digest)} {
		if !utf8.ValidString(part) || strings.Contains(part, "\x00") {
			return false
		}
	}
	return true
}

// instant is a time as the database keeps it. A zero time stays one.
func instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// numberNoise are the bits of an image's number that are drawn, behind microseconds.
const numberNoise = 12

// numbersFrom is when microseconds begin to count, so that numbers are positive until 2097.
var numbersFrom = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// drawNumber draws a number for the n-th image of a transaction. What is added next is then beside what was added last,
// in the database's indexes. Should another process have drawn the same one, the database refuses it, and others are
// drawn.
func drawNumber(n int) int64 {
	return (time.Since(numbersFrom).Microseconds()+int64(n))<<numberNoise | rand.Int64N(1<<numberNoise)
}

func imageOf(host, repository, d string) api.Image {
	return api.Image{Host: host, Repository: repository, Digest: digest.Digest(d)}
}
