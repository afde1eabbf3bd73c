package disk

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// maxScanned bounds the images, or tasks, that one page looks at.
const maxScanned = 10_000

// A position is where a listing goes on: behind this serial of this image, or behind this task.
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
	raw, err := base64.RawURLEncoding.DecodeString(string(c))
	if err != nil || len(raw) < 9 || raw[0] != kind {
		return position{}, fmt.Errorf("%w: %q", store.ErrCursor, c)
	}
	return position{kind, raw[9:], binary.BigEndian.Uint64(raw[1:9])}, nil
}

func clamp(limit int) int { return min(max(limit, 1), 1000) }

// List implements store.Store.
func (s *Store) List(ctx context.Context, f store.Filter, after store.Cursor, limit int) (page []store.Entry, next store.Cursor, err error) {
	kinds := map[string]byte{store.Signatures: 's', store.Withdrawals: 'w', store.Tasks: 't'}
	kind, ok := kinds[f.Kind]
	if !ok {
		return nil, "", fmt.Errorf("%q is no kind of listing", f.Kind)
	}
	from, err := parseCursor(kind, after)
	if err != nil {
		return nil, "", err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		l := listing{filter: f, at: from, limit: clamp(limit)}
		if kind == 't' {
			l.tasks(tx)
		} else {
			l.images(tx, s)
		}
		page = l.page
		if l.more {
			next = l.at.cursor()
		}
		return nil
	})
	return page, next, err
}

// A listing is one page on its way.
type listing struct {
	filter store.Filter
	at     position
	limit  int
	page   []store.Entry
	more   bool
}

// add returns false when the page is full.
func (l *listing) add(e store.Entry, at position) bool {
	if len(l.page) == l.limit {
		l.more = true
		return false
	}
	l.page, l.at = append(l.page, e), at
	return true
}

func (l *listing) images(tx *bbolt.Tx, s *Store) {
	prefix := l.prefix()
	c := tx.Bucket(bucketImages).Cursor()
	start := prefix
	if bytes.Compare(l.at.key, start) > 0 {
		start = l.at.key
	}
	scanned := 0
	for key, _ := c.Seek(start); bytes.HasPrefix(key, prefix) && key != nil; key, _ = c.Next() {
		if scanned++; scanned > maxScanned {
			l.more = true
			return
		}
		image := parseImageKey(key)
		if l.filter.Digest != "" && l.filter.Digest != string(image.Digest) ||
			l.filter.Repository != "" && l.filter.Repository != image.Repository {
			continue
		}
		f, err := readImage(tx, key)
		if errors.Is(err, errDamaged) {
			s.o.Damaged(image, "", err)
			continue
		}
		from := uint64(0)
		if bytes.Equal(key, l.at.key) {
			from = l.at.serial
		}
		if !l.image(tx, s, position{l.at.kind, bytes.Clone(key), from}, f) {
			return
		}
		l.at = position{l.at.kind, bytes.Clone(key), math.MaxUint64}
	}
}

// prefix is that of all keys the filter can match.
func (l *listing) prefix() []byte {
	switch {
	case l.filter.Host == "":
		return nil
	case l.filter.Repository == "":
		return []byte(l.filter.Host + "\x00")
	}
	return []byte(l.filter.Host + "\x00" + l.filter.Repository + "\x00")
}

func (l *listing) image(tx *bbolt.Tx, s *Store, at position, f imageFile) bool {
	image := parseImageKey(at.key)
	if l.filter.Kind == store.Withdrawals {
		for _, w := range f.Withdrawn {
			if w.Serial <= at.serial || l.filter.Key != "" && l.filter.Key != w.Key {
				continue
			}
			if !l.add(store.Entry{Image: image, Withdrawal: &w.Withdrawal}, position{at.kind, at.key, w.Serial}) {
				return false
			}
		}
		return true
	}
	set, serials := f.set(tx, image, s.o.Damaged), map[string]uint64{}
	for _, file := range f.Signatures {
		serials[file.Name] = file.Serial
	}
	for i, sig := range set.Signatures {
		serial := serials[sig.Name]
		if serial <= at.serial || l.filter.Key != "" && l.filter.Key != sig.Fingerprint {
			continue
		}
		sig.Content = nil
		if !l.add(store.Entry{Image: image, Index: i + 1, Signature: &sig}, position{at.kind, at.key, serial}) {
			return false
		}
	}
	return true
}

func (l *listing) tasks(tx *bbolt.Tx) {
	c := tx.Bucket(bucketTasks).Cursor()
	key, value := c.Seek(l.at.key)
	if key != nil && len(l.at.key) > 0 && bytes.Equal(key, l.at.key) {
		key, value = c.Next()
	}
	for scanned := 0; key != nil; key, value = c.Next() {
		if scanned++; scanned > maxScanned {
			l.more = true
			return
		}
		at := position{l.at.kind, bytes.Clone(key), 0}
		var t store.Task
		if json.Unmarshal(value, &t) != nil || !l.matches(t) {
			l.at = at
			continue
		}
		if !l.add(store.Entry{Image: t.Image, Task: &t}, at) {
			return
		}
	}
}

func (l *listing) matches(t store.Task) bool {
	f := l.filter
	return (f.State == "" || f.State == t.State) && (f.Host == "" || f.Host == t.Image.Host) &&
		(f.Repository == "" || f.Repository == t.Image.Repository) && (f.Digest == "" || f.Digest == string(t.Image.Digest))
}

// Records implements store.Store.
func (s *Store) Records(ctx context.Context, after store.Cursor, limit int) (page []store.Record, next store.Cursor, err error) {
	from, err := parseCursor('r', after)
	if err != nil {
		return nil, "", err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRecords)
		if from.serial > b.Sequence() {
			return fmt.Errorf("%w: it is ahead of the trail, which ends at %d", store.ErrCursor, b.Sequence())
		}
		c := b.Cursor()
		for key, value := c.Seek(binary.BigEndian.AppendUint64(nil, from.serial+1)); key != nil && len(page) < clamp(limit); key, value = c.Next() {
			var r store.Record
			if err := json.Unmarshal(value, &r); err == nil { // one that does not read is left out
				page = append(page, r)
			}
			from.serial = binary.BigEndian.Uint64(key)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return page, from.cursor(), nil
}
