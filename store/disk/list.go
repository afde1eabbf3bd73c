package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// maxScanned bounds the entries that one page looks at: a transaction that reads for long keeps the
// file from growing, and with it those who write.
const maxScanned = 10_000

// sumSize is how much of a record's hash a cursor has.
const sumSize = 8

// A position is where a listing goes on: behind this serial of this image, or behind this task, or
// behind the record with this serial and sum. Cursors of before there were sums have none.
type position struct {
	kind   byte
	key    []byte
	serial uint64
}

func (p position) cursor() store.Cursor {
	raw := binary.BigEndian.AppendUint64([]byte{p.kind}, p.serial)
	return store.Cursor(base64.RawURLEncoding.EncodeToString(append(raw, p.key...)))
}

func parseCursor(kind byte, c store.Cursor) (position, error) {
	if c == "" {
		return position{kind: kind}, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(c))
	if err != nil || len(raw) < 9 || raw[0] != kind {
		return position{}, errCursor("begin without one")
	}
	p := position{kind, raw[9:], binary.BigEndian.Uint64(raw[1:9])}
	if kind == 'r' && len(p.key) != 0 && len(p.key) != sumSize || kind != 'r' && len(p.key) == 0 {
		return position{}, errCursor("begin without one")
	}
	return p, nil
}

func errCursor(hint string) error { return fmt.Errorf("%w: %s", store.ErrCursor, hint) }

func clamp(limit int) int { return min(max(limit, 1), 1000) }

// List implements store.Store.
func (s *Store) List(ctx context.Context, f store.Filter, after store.Cursor, limit int) ([]store.Entry, store.Cursor, error) {
	kinds := map[string]byte{store.Signatures: 's', store.Withdrawals: 'w', store.Tasks: 't'}
	kind, ok := kinds[f.Kind]
	if !ok {
		return nil, "", fmt.Errorf("%q is no kind of listing", f.Kind)
	}
	from, err := parseCursor(kind, after)
	if err != nil {
		return nil, "", err
	}
	l := listing{filter: f, at: from, limit: clamp(limit)}
	if kind != 't' && after != "" && !bytes.HasPrefix(from.key, l.prefix()) {
		return nil, "", errCursor("it is of one with another filter: begin without one")
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		if kind == 't' {
			l.tasks(tx)
			return nil
		}
		return l.images(ctx, tx)
	})
	s.tell(l.damages)
	if err != nil {
		return nil, "", err
	}
	if !l.more {
		return l.page, "", nil
	}
	return l.page, l.at.cursor(), nil
}

// A listing is one page on its way.
type listing struct {
	filter  store.Filter
	at      position // behind what was looked at
	limit   int
	page    []store.Entry
	more    bool
	scanned int
	damages []damage
}

// room says whether there is room for another entry; if not, the page ends at l.at, and there are more.
func (l *listing) room() bool {
	l.more = len(l.page) >= l.limit
	return !l.more
}

// tired says whether the page has looked at enough; if so, it ends at l.at, and there may be more.
func (l *listing) tired() bool {
	l.more = l.scanned >= maxScanned
	return l.more
}

func (l *listing) images(ctx context.Context, tx *bbolt.Tx) error {
	prefix := l.prefix()
	start := prefix
	if bytes.Compare(l.at.key, start) > 0 {
		start = l.at.key
	}
	c := tx.Bucket(bucketImages).Cursor()
	for key, _ := c.Seek(start); key != nil && bytes.HasPrefix(key, prefix); key, _ = c.Next() {
		if l.tired() {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		from := uint64(0)
		if bytes.Equal(key, l.at.key) {
			from = l.at.serial
		}
		l.scanned++
		if !l.image(tx, bytes.Clone(key), from) {
			return nil
		}
		l.at = position{l.at.kind, bytes.Clone(key), math.MaxUint64}
	}
	return nil
}

// prefix is that of all images' keys the filter can match.
func (l *listing) prefix() []byte {
	switch f := l.filter; {
	case f.Host == "":
		return nil
	case f.Repository == "":
		return []byte(f.Host + "\x00")
	case f.Digest == "":
		return []byte(f.Host + "\x00" + f.Repository + "\x00")
	default:
		return imageKey(api.Image{Host: f.Host, Repository: f.Repository, Digest: digest.Digest(f.Digest)})
	}
}

func (l *listing) wants(i api.Image) bool {
	f := l.filter
	return (f.Host == "" || f.Host == i.Host) && (f.Repository == "" || f.Repository == i.Repository) &&
		(f.Digest == "" || f.Digest == string(i.Digest))
}

// image returns false when the page is full.
func (l *listing) image(tx *bbolt.Tx, key []byte, from uint64) bool {
	image := parseImageKey(key)
	if !l.wants(image) {
		return true
	}
	f, err := readImage(tx, key)
	if err != nil {
		l.damages = append(l.damages, damage{image, "", err})
		return true
	}
	if l.filter.Kind == store.Withdrawals {
		return l.withdrawals(image, key, from, f)
	}
	return l.signatures(tx, image, key, from, f)
}

func (l *listing) withdrawals(image api.Image, key []byte, from uint64, f imageFile) bool {
	l.scanned += len(f.Withdrawn)
	for _, w := range f.Withdrawn {
		if w.Serial <= from || l.filter.Key != "" && (w.Scope != store.ScopeKey || w.Key != l.filter.Key) {
			continue
		}
		if !l.room() {
			return false
		}
		l.page = append(l.page, store.Entry{Image: image, Withdrawal: &w.Withdrawal})
		l.at = position{l.at.kind, key, w.Serial}
	}
	return true
}

// signatures reads contents only if there is something to list: what does not read is left out, and
// so decides the index of what is behind it.
func (l *listing) signatures(tx *bbolt.Tx, image api.Image, key []byte, from uint64, f imageFile) bool {
	wanted := func(s signatureFile) bool {
		return s.Serial > from && (l.filter.Key == "" || l.filter.Key == s.Fingerprint)
	}
	if !slices.ContainsFunc(f.Signatures, wanted) {
		return true
	}
	if !l.room() {
		return false
	}
	l.scanned += len(f.Signatures)
	set, damages := f.set(tx, image)
	l.damages = append(l.damages, damages...)
	index := 0
	for _, file := range f.Signatures {
		if index == len(set.Signatures) || set.Signatures[index].Name != file.Name {
			continue
		}
		index++
		if !wanted(file) {
			continue
		}
		if !l.room() {
			return false
		}
		l.page = append(l.page, store.Entry{Image: image, Index: index, Signature: &file.Signature})
		l.at = position{l.at.kind, key, file.Serial}
	}
	return true
}

func (l *listing) tasks(tx *bbolt.Tx) {
	c := tx.Bucket(bucketTasks).Cursor()
	key, value := c.Seek(l.at.key)
	if len(l.at.key) > 0 && bytes.Equal(key, l.at.key) {
		key, value = c.Next()
	}
	for ; key != nil; key, value = c.Next() {
		if l.tired() {
			return
		}
		l.scanned++
		if t, ok := parseTask(key, value); ok && l.wants(t.Image) && (l.filter.State == "" || l.filter.State == t.State) {
			if !l.room() {
				return
			}
			l.page = append(l.page, store.Entry{Image: t.Image, Task: &t})
		}
		l.at = position{l.at.kind, bytes.Clone(key), 0}
	}
}

// Records implements store.Store.
func (s *Store) Records(ctx context.Context, after store.Cursor, limit int) (page []store.Record, next store.Cursor, err error) {
	at, err := parseCursor('r', after)
	if err != nil {
		return nil, "", err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRecords)
		if at.serial > b.Sequence() {
			return errCursor(fmt.Sprintf("it is ahead of the trail, which ends at %d: begin without one", b.Sequence()))
		}
		last := b.Get(recordKey(at.serial))
		if len(at.key) > 0 && !bytes.Equal(at.key, sum(last)) {
			return errCursor("it is of another trail, as of before a backup was restored: begin without one")
		}
		c := b.Cursor()
		for key, value := c.Seek(recordKey(at.serial + 1)); key != nil && len(page) < clamp(limit); key, value = c.Next() {
			var r store.Record
			if err := json.Unmarshal(value, &r); err == nil { // one that does not read is left out
				page = append(page, r)
			}
			at.serial, last = binary.BigEndian.Uint64(key), value
		}
		if last != nil {
			at.key = sum(last)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return page, at.cursor(), nil
}

func recordKey(serial uint64) []byte { return binary.BigEndian.AppendUint64(nil, serial) }

// sum tells a record from the one that has its serial in another trail.
func sum(record []byte) []byte {
	all := sha256.Sum256(record)
	return all[:sumSize]
}
