package tokens

import (
	"container/list"
	"time"
)

// bounded is a map of at most limit values that forgets dead values first and
// then the one written longest ago. It has no lock of its own.
type bounded[K comparable, V any] struct {
	limit   int
	dead    func(v V, now time.Time) bool
	entries map[K]*list.Element
	order   *list.List // of pair[K, V], the oldest write first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newBounded[K comparable, V any](limit int, dead func(V, time.Time) bool) *bounded[K, V] {
	return &bounded[K, V]{
		limit:   limit,
		dead:    dead,
		entries: make(map[K]*list.Element),
		order:   list.New(),
	}
}

// get returns the value at k unless it is dead.
func (b *bounded[K, V]) get(k K, now time.Time) (V, bool) {
	el, ok := b.entries[k]
	if !ok {
		var none V
		return none, false
	}
	v := el.Value.(pair[K, V]).value
	return v, !b.dead(v, now)
}

// put writes v as the youngest value. Each write also sweeps out the dead:
// writes are as rare as exchanges, and a secret shall not outlive its use.
func (b *bounded[K, V]) put(k K, v V, now time.Time) {
	b.remove(k)
	b.removeIf(func(_ K, v V) bool { return b.dead(v, now) })
	for b.order.Len() >= b.limit {
		b.remove(b.order.Front().Value.(pair[K, V]).key)
	}
	b.entries[k] = b.order.PushBack(pair[K, V]{k, v})
}

func (b *bounded[K, V]) remove(k K) {
	if el, ok := b.entries[k]; ok {
		b.order.Remove(el)
		delete(b.entries, k)
	}
}

func (b *bounded[K, V]) removeIf(match func(K, V) bool) {
	for el := b.order.Front(); el != nil; {
		next := el.Next()
		if p := el.Value.(pair[K, V]); match(p.key, p.value) {
			b.remove(p.key)
		}
		el = next
	}
}

// trim removes the oldest of the values that match until no more than most are
// left.
func (b *bounded[K, V]) trim(most int, match func(K) bool) {
	n := 0
	b.each(func(k K, _ V) bool {
		if match(k) {
			n++
		}
		return true
	})
	b.removeIf(func(k K, _ V) bool {
		if n <= most || !match(k) {
			return false
		}
		n--
		return true
	})
}

// each calls f with what is kept, the oldest write first, until f returns
// false. f must not change b.
func (b *bounded[K, V]) each(f func(K, V) bool) {
	for el := b.order.Front(); el != nil; el = el.Next() {
		if p := el.Value.(pair[K, V]); !f(p.key, p.value) {
			return
		}
	}
}
