package disk

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/fastcache"
	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// A memory knows what images have, outside of Go's heap, so that the garbage collector neither walks
// it nor lets the process grow to twice its size. Nobody else writes to the file while it is open:
// what was read is current until somebody writes. That forgets it before the commit, and nothing is
// remembered of it until the commit is over: nobody sees the old after anybody has seen the new. What
// has withdrawals, or is damaged, is not remembered; it is rare, and read from the file.
type memory struct {
	sets    *fastcache.Cache
	mu      sync.Mutex
	changes uint64
	writes  *bbolt.Tx       // the last transaction that wrote; there is one at a time
	written map[string]bool // by it, and not yet known to be committed
}

func newMemory(size int) *memory {
	return &memory{sets: fastcache.New(size), written: map[string]bool{}}
}

func (m *memory) get(key []byte) (store.Set, bool) {
	value, ok := m.sets.HasGet(nil, key)
	if !ok {
		return store.Set{}, false
	}
	return decodeSet(value)
}

// now is the moment that put wants to know: before the file was read.
func (m *memory) now() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// put remembers what was read, unless something changed since: it may have been this.
func (m *memory) put(key []byte, set store.Set, since uint64) {
	value, ok := encodeSet(set)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == since && !m.written[string(key)] {
		m.sets.Set(key, value)
	}
}

// forget is called before a transaction writes. One that is rolled back keeps what it would have
// written unknown until the next one comes.
func (m *memory) forget(tx *bbolt.Tx, key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writes != tx {
		m.writes = tx
		clear(m.written)
	}
	m.changes++
	m.written[string(key)] = true
	m.sets.Del(key)
	tx.OnCommit(func() { m.committed(tx, key) })
}

func (m *memory) committed(tx *bbolt.Tx, key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	if m.writes == tx {
		delete(m.written, string(key))
	}
}

// forgetAll gives the memory back, when the file is closed.
func (m *memory) forgetAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	m.sets.Reset()
}

// encodeSet is the bytes of what follows but the contents, version, count, signatures, and the contents.
// Texts have their lengths in front, as times have, in their own encoding; Own is a byte. It is false
// for what is not remembered.
func encodeSet(set store.Set) ([]byte, bool) {
	if len(set.Signatures) == 0 || len(set.Withdrawn) > 0 {
		return nil, false
	}
	head := binary.AppendUvarint(nil, set.Version)
	head = binary.AppendUvarint(head, uint64(len(set.Signatures)))
	var contents []byte
	for _, s := range set.Signatures {
		for _, t := range texts(&s) {
			head = append(binary.AppendUvarint(head, uint64(len(*t))), *t...)
		}
		for _, t := range []time.Time{s.Signed, s.Added} {
			b, err := t.MarshalBinary()
			if err != nil {
				return nil, false
			}
			head = append(binary.AppendUvarint(head, uint64(len(b))), b...)
		}
		head = append(head, map[bool]byte{true: 1}[s.Own])
		head = binary.AppendUvarint(head, uint64(len(s.Content)))
		contents = append(contents, s.Content...)
	}
	return slices.Concat(binary.AppendUvarint(nil, uint64(len(head))), head, contents), true
}

func texts(s *store.Signature) [7]*string {
	return [...]*string{&s.Name, &s.Identity, &s.Fingerprint, &s.UserID, &s.Reference, &s.Origin, &s.Uploader}
}

// decodeSet is the inverse. Contents are parts of the value, which is its reader's alone.
func decodeSet(value []byte) (set store.Set, ok bool) {
	size, n := binary.Uvarint(value)
	if n <= 0 || size > uint64(len(value)-n) {
		return set, false
	}
	head, contents := value[n:n+int(size)], value[n+int(size):]
	d := decoder{head, string(head), false} // one copy for all texts
	set.Version = d.number()
	set.Signatures = make([]store.Signature, min(d.number(), size))
	for i := range set.Signatures {
		s := &set.Signatures[i]
		for _, t := range texts(s) {
			*t = d.text()
		}
		d.time(&s.Signed)
		d.time(&s.Added)
		s.Own = d.number() == 1
		at := d.number()
		if at > uint64(len(contents)) {
			return set, false
		}
		s.Content, contents = contents[:at:at], contents[at:]
	}
	return set, !d.bad && len(d.rest) == 0 && len(contents) == 0
}

type decoder struct {
	rest []byte
	all  string // what ends with rest
	bad  bool
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return ""
	}
	at := len(d.all) - len(d.rest)
	d.rest = d.rest[n:]
	return d.all[at : at+int(n)]
}

func (d *decoder) time(t *time.Time) {
	n := d.number()
	if n > uint64(len(d.rest)) || t.UnmarshalBinary(d.rest[:n]) != nil {
		d.bad, d.rest = true, nil
		return
	}
	d.rest = d.rest[n:]
}
