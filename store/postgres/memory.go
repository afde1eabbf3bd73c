package postgres

import (
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/countersign-dev/countersign/api"
)

// A memory knows what images have, bounded in bytes: those that are asked for seldom go first.
type memory struct {
	rows *otter.Cache[api.Image, *imageRow]
	keep *keep // nil: nothing is carried over a restart
}

func newMemory(o Options) (*memory, error) {
	m := &memory{}
	options := &otter.Options[api.Image, *imageRow]{
		MaximumWeight: uint64(o.Cache),
		Weigher:       func(_ api.Image, r *imageRow) uint32 { return uint32(min(r.size(), 1<<31)) },
	}
	if o.Keep != "" && o.Stale > 0 {
		k, err := openKeep(o.Keep, o.Log, m.peek)
		if err != nil {
			return nil, err
		}
		m.keep = k
		options.OnDeletion = func(e otter.DeletionEvent[api.Image, *imageRow]) {
			if e.WasEvicted() {
				k.later(e.Key)
			}
		}
	}
	rows, err := otter.New(options)
	if err != nil {
		return nil, err
	}
	m.rows = rows
	if m.keep != nil {
		m.keep.load(o.Clock(), o.Stale, func(r *imageRow) { rows.Set(r.image, r) })
	}
	return m, nil
}

func (m *memory) get(i api.Image) (*imageRow, bool) { return m.rows.GetIfPresent(i) }

// peek is get that does not count as asking.
func (m *memory) peek(i api.Image) (*imageRow, bool) {
	e, ok := m.rows.GetEntryQuietly(i)
	return e.Value, ok
}

// put remembers a row, or that one that is remembered is current still.
func (m *memory) put(r *imageRow, is bool) {
	if is {
		m.rows.Set(r.image, r)
	}
	if m.keep != nil {
		m.keep.later(r.image)
	}
}

func (m *memory) close() error {
	if m.keep != nil {
		m.keep.close()
	}
	m.rows.StopAllGoroutines()
	return nil
}

// currentSince notes that the database said so to a question that began then. Another may have begun later; what is
// ahead of now is of a clock that was set back.
func (r *imageRow) currentSince(t, now time.Time) {
	for n := t.UnixNano(); ; {
		old := r.current.Load()
		if n <= old && old <= now.UnixNano() || r.current.CompareAndSwap(old, n) {
			return
		}
	}
}

func (r *imageRow) currentAt() time.Time { return time.Unix(0, r.current.Load()).UTC() }
