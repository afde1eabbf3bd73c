package disk

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/VictoriaMetrics/fastcache"
	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// memorySize bounds what is remembered of images, in bytes: about a hundred thousand of one
// signature each.
const memorySize = 128 << 20

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

func newMemory() *memory {
	return &memory{sets: fastcache.New(memorySize), written: map[string]bool{}}
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

// encodeSet is version, count and signatures: texts with their lengths in front, times as they encode
// themselves, a byte for Own. It is false for what is not remembered.
func encodeSet(set store.Set) ([]byte, bool) {
	if len(set.Signatures) == 0 || len(set.Withdrawn) > 0 {
		return nil, false
	}
	value := binary.AppendUvarint(nil, set.Version)
	value = binary.AppendUvarint(value, uint64(len(set.Signatures)))
	for _, s := range set.Signatures {
		for _, t := range texts(&s) {
			value = append(binary.AppendUvarint(value, uint64(len(*t))), *t...)
		}
		value = append(binary.AppendUvarint(value, uint64(len(s.Content))), s.Content...)
		for _, t := range []time.Time{s.Signed, s.Added} {
			b, err := t.MarshalBinary()
			if err != nil {
				return nil, false
			}
			value = append(binary.AppendUvarint(value, uint64(len(b))), b...)
		}
		value = append(value, map[bool]byte{true: 1}[s.Own])
	}
	return value, true
}

func texts(s *store.Signature) [7]*string {
	return [...]*string{&s.Name, &s.Identity, &s.Fingerprint, &s.UserID, &s.Reference, &s.Origin, &s.Uploader}
}

// decodeSet is the inverse. Contents are parts of the value, which is its reader's alone.
func decodeSet(value []byte) (set store.Set, ok bool) {
	d := decoder{rest: value}
	set.Version = d.number()
	set.Signatures = make([]store.Signature, min(d.number(), uint64(len(value))))
	for i := range set.Signatures {
		s := &set.Signatures[i]
		for _, t := range texts(s) {
			*t = string(d.bytes())
		}
		s.Content = d.bytes()
		d.time(&s.Signed)
		d.time(&s.Added)
		s.Own = d.number() == 1
	}
	return set, !d.bad && len(d.rest) == 0
}

type decoder struct {
	rest []byte
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

func (d *decoder) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) time(t *time.Time) {
	if t.UnmarshalBinary(d.bytes()) != nil {
		d.bad = true
	}
}
