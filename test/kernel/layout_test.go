package kernel

import "github.com/cilium/ebpf"

// pinOtherLayout pins a map whose keys have another size than ours.
func pinOtherLayout(path string) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(path)
}

// sayLayout has the pinned maps say that they have another layout.
func sayLayout(path string, layout uint32) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Update(uint32(0), layout, ebpf.UpdateAny)
}
