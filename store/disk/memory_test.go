package disk

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/store"
)

// What is remembered comes back as it was, and what was cut does not come back at all.
func TestSetHasAnInverse(t *testing.T) {
	t.Parallel()
	set := store.Set{Version: 300, Signatures: []store.Signature{
		{},
		{Name: "n", Content: []byte("content"), Identity: "i", Fingerprint: "f", UserID: "Zoë", Reference: "r", Own: true, Origin: "o", Uploader: "u",
			Signed: time.Unix(1, 2).UTC(), Added: time.Unix(3, 4).UTC()},
		{Name: strings.Repeat("long", 100), Content: bytes.Repeat([]byte{0, 255}, 500), Signed: time.Unix(5, 0).UTC(), Added: time.Unix(6, 0).UTC()},
	}}
	value, ok := encodeSet(set)
	if !ok {
		t.Fatalf("%+v is not encoded", set)
	}
	for cut := range value {
		if got, ok := decodeSet(value[:cut]); ok {
			t.Errorf("%d bytes of %d decode to %+v", cut, len(value), got)
		}
	}
	set.Signatures[0].Content = []byte{}
	if got, ok := decodeSet(value); !ok || !reflect.DeepEqual(got, set) {
		t.Errorf("decoded (%v):\n%+v\nwant\n%+v", ok, got, set)
	}
}

// FuzzDecodeSet must end, whatever the bytes; what it takes it would write again.
func FuzzDecodeSet(f *testing.F) {
	value, _ := encodeSet(store.Set{Version: 1, Signatures: []store.Signature{{Name: "n", Content: []byte("c"), Own: true}}})
	f.Add(value)
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, value []byte) {
		set, ok := decodeSet(value)
		if !ok || len(set.Signatures) == 0 {
			return
		}
		again, _ := encodeSet(set)
		if same, ok := decodeSet(again); !ok || !reflect.DeepEqual(set, same) {
			t.Errorf("%+v comes back as %+v (%v)", set, same, ok)
		}
	})
}

// A reader that was slow does not bring back what was changed meanwhile.
func TestForgotten(t *testing.T) {
	t.Parallel()
	m, key := newMemory(1<<20), []byte("image")
	old := store.Set{Version: 1, Signatures: []store.Signature{{Name: "a", Content: []byte("a")}}}
	young := store.Set{Version: 2, Signatures: []store.Signature{{Name: "b", Content: []byte("b")}}}
	missing := func(when string) {
		t.Helper()
		if got, ok := m.get(key); ok {
			t.Errorf("%s there is %+v", when, got)
		}
	}
	before := m.now()
	m.put(key, old, before)
	if got, ok := m.get(key); !ok || got.Version != 1 {
		t.Fatalf("what was put is %+v (%v), want version 1", got, ok)
	}
	tx := &bbolt.Tx{}
	m.forget(tx, key)
	during := m.now()
	m.put(key, old, before)
	m.put(key, old, during)
	missing("before the commit is over")
	m.committed(tx, key)
	m.put(key, old, before)
	m.put(key, old, during)
	missing("after the commit")
	m.put(key, young, m.now())
	if got, _ := m.get(key); got.Version != 2 {
		t.Errorf("what was put after the commit is %+v, want version 2", got)
	}
	m.forget(&bbolt.Tx{}, key) // and rolled back
	m.put(key, young, m.now())
	missing("after a rollback")
	m.forget(&bbolt.Tx{}, []byte("another"))
	m.put(key, young, m.now())
	if got, ok := m.get(key); !ok || got.Version != 2 {
		t.Errorf("after the transaction behind a rollback there is %+v (%v), want version 2", got, ok)
	}
	m.forgetAll()
	missing("after the end")
	for _, set := range []store.Set{{Version: 3}, {Version: 3, Signatures: young.Signatures, Withdrawn: []store.Withdrawal{{ID: "w"}}}} {
		m.put(key, set, m.now())
		missing("of what is for the file to say")
	}
}

// A copy is its reader's: what one writes to it nobody else sees.
func TestRememberedCopy(t *testing.T) {
	t.Parallel()
	m, key := newMemory(1<<20), []byte("image")
	m.put(key, store.Set{Version: 1, Signatures: []store.Signature{{Name: "a", Content: []byte("abc")}}}, m.now())
	one, _ := m.get(key)
	one.Signatures[0].Content[0] = 'x'
	_ = append(one.Signatures[0].Content, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"...)
	if two, ok := m.get(key); !ok || string(two.Signatures[0].Content) != "abc" || !two.Signatures[0].Signed.IsZero() {
		t.Errorf("after another reader wrote: %+v (%v)", two, ok)
	}
}
