package intercept

import (
	"errors"

	"github.com/cilium/ebpf"
)

// table is one of the kernel's hash maps. Its errors are those of *ebpf.Map.
type table[K, V any] interface {
	lookup(K) (V, error)
	// take returns the value and removes it.
	take(K) (V, error)
	update(K, V, ebpf.MapUpdateFlags) error
	remove(K) error
	// each calls the function with each entry. The function must not change
	// the table.
	each(func(K, V)) error
}

// mapTable is a table in the kernel.
type mapTable[K, V any] struct{ m *ebpf.Map }

func (t mapTable[K, V]) lookup(key K) (value V, err error) {
	return value, t.m.Lookup(key, &value)
}

func (t mapTable[K, V]) take(key K) (value V, err error) {
	return value, t.m.LookupAndDelete(key, &value)
}

func (t mapTable[K, V]) update(key K, value V, flags ebpf.MapUpdateFlags) error {
	return t.m.Update(key, value, flags)
}

func (t mapTable[K, V]) remove(key K) error { return t.m.Delete(key) }

func (t mapTable[K, V]) each(do func(K, V)) error {
	var key K
	var value V
	entries := t.m.Iterate()
	for entries.Next(&key, &value) {
		do(key, value)
	}
	return entries.Err()
}

// removeAll removes the keys. That one is not there is no error.
func removeAll[K, V any](t table[K, V], keys []K) error {
	for _, key := range keys {
		if err := t.remove(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

type (
	flowTable  = table[kernelFlowKey, kernelFlow]
	usageTable = table[uint64, int64]
)

func (h *Hooks) flows() flowTable {
	return mapTable[kernelFlowKey, kernelFlow]{h.objects.SidestepFlows}
}

func (h *Hooks) usage() usageTable { return mapTable[uint64, int64]{h.objects.SidestepUsage} }
