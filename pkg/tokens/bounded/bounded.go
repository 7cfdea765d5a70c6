// Package bounded has maps that cannot grow without end.
package bounded

import (
	"container/list"
	"time"
)

// Map is a map of at most limit values that forgets dead values first and then
// the one written longest ago. It has no lock of its own.
type Map[K comparable, V any] struct {
	limit   int
	dead    func(v V, now time.Time) bool
	entries map[K]*list.Element
	order   *list.List // of pair[K, V], the oldest write first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

// New returns an empty map of at most limit values. dead reports whether a value
// is of no more use at that time.
func New[K comparable, V any](limit int, dead func(V, time.Time) bool) *Map[K, V] {
	return &Map[K, V]{
		limit:   limit,
		dead:    dead,
		entries: make(map[K]*list.Element),
		order:   list.New(),
	}
}

// Get returns the value at k, and whether there is one that is not dead.
func (b *Map[K, V]) Get(k K, now time.Time) (V, bool) {
	el, ok := b.entries[k]
	if !ok {
		var none V
		return none, false
	}
	v := el.Value.(pair[K, V]).value
	return v, !b.dead(v, now)
}

// Put writes v as the youngest value. Each write also sweeps out the dead:
// writes are as rare as exchanges, and a secret shall not outlive its use.
func (b *Map[K, V]) Put(k K, v V, now time.Time) {
	b.Remove(k)
	b.RemoveIf(func(_ K, v V) bool { return b.dead(v, now) })
	for b.order.Len() >= b.limit {
		b.Remove(b.order.Front().Value.(pair[K, V]).key)
	}
	b.entries[k] = b.order.PushBack(pair[K, V]{k, v})
}

// Remove forgets the value at k, if there is one.
func (b *Map[K, V]) Remove(k K) {
	if el, ok := b.entries[k]; ok {
		b.order.Remove(el)
		delete(b.entries, k)
	}
}

// RemoveIf forgets the values that match.
func (b *Map[K, V]) RemoveIf(match func(K, V) bool) {
	for el := b.order.Front(); el != nil; {
		next := el.Next()
		if p := el.Value.(pair[K, V]); match(p.key, p.value) {
			b.Remove(p.key)
		}
		el = next
	}
}

// Trim removes the oldest of the values that match until no more than most are
// left.
func (b *Map[K, V]) Trim(most int, match func(K) bool) {
	n := 0
	b.Each(func(k K, _ V) bool {
		if match(k) {
			n++
		}
		return true
	})
	b.RemoveIf(func(k K, _ V) bool {
		if n <= most || !match(k) {
			return false
		}
		n--
		return true
	})
}

// Each calls f with what is kept, the oldest write first, until f returns
// false. f must not change b.
func (b *Map[K, V]) Each(f func(K, V) bool) {
	for el := b.order.Front(); el != nil; el = el.Next() {
		if p := el.Value.(pair[K, V]); !f(p.key, p.value) {
			return
		}
	}
}

// Len returns how many values are kept, dead ones among them.
func (b *Map[K, V]) Len() int { return b.order.Len() }
