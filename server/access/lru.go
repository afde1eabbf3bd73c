package access

import (
	"container/list"
	"sync"
)

// An lru is a map of at most max entries, which forgets what was asked for longest ago. It is
// safe for concurrent use.
type lru[K comparable, V any] struct {
	max   int
	mu    sync.Mutex
	order *list.List // of entry[K, V], the latest first
	at    map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), at: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.at[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(entry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putLocked(key, value)
}

// getOr returns what is there, or puts what is made.
func (l *lru[K, V]) getOr(key K, made func() V) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.at[key]; ok {
		l.order.MoveToFront(e)
		return e.Value.(entry[K, V]).value
	}
	value := made()
	l.putLocked(key, value)
	return value
}

func (l *lru[K, V]) putLocked(key K, value V) {
	if e, ok := l.at[key]; ok {
		e.Value = entry[K, V]{key, value}
		l.order.MoveToFront(e)
		return
	}
	l.at[key] = l.order.PushFront(entry[K, V]{key, value})
	if l.order.Len() > l.max {
		oldest := l.order.Back()
		delete(l.at, oldest.Value.(entry[K, V]).key)
		l.order.Remove(oldest)
	}
}
