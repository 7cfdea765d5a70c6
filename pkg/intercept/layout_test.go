package intercept

import (
	"path/filepath"
	"slices"
	"testing"
	"unsafe"
)

// What agents of all layouts read of each other's pins is as they expect it: to
// change that needs more than another number.
func TestWhatAllLayoutsHaveAlike(t *testing.T) {
	var f kernelFlow
	var c commonFlow
	for what, offsets := range map[string][2]uintptr{
		"cgroup_id":     {unsafe.Offsetof(f.CgroupId), unsafe.Offsetof(c.CgroupID)},
		"socket_cookie": {unsafe.Offsetof(f.SocketCookie), unsafe.Offsetof(c.SocketCookie)},
		"created_ns":    {unsafe.Offsetof(f.CreatedNs), unsafe.Offsetof(c.CreatedNs)},
		"ambiguous":     {unsafe.Offsetof(f.Ambiguous), unsafe.Offsetof(c.Ambiguous)},
		"accepted":      {unsafe.Offsetof(f.Accepted), unsafe.Offsetof(c.Accepted)},
	} {
		if offsets[0] != offsets[1] {
			t.Errorf("flow.%s is at %d, and all layouts have it at %d", what, offsets[0], offsets[1])
		}
	}
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	for name, sizes := range map[string][2]uint32{
		"sidestep_flows": {24, commonFlowSize}, "sidestep_verdicts": {8, 0}, "sidestep_usage": {8, 8},
	} {
		m := spec.Maps[name]
		if m == nil || m.KeySize != sizes[0] || m.ValueSize < sizes[1] {
			t.Errorf("%s: %+v, want keys of %d bytes and values of %d at least", name, m, sizes[0], sizes[1])
		}
	}
	var pins []string
	h := &Hooks{}
	for _, hook := range h.hooks() {
		pins = append(pins, filepath.Base(h.pin(hook)))
	}
	for _, pin := range append([]string{recordingPin}, decidingPins...) {
		if !slices.Contains(pins, pin) {
			t.Errorf("%s is not pinned", pin)
		}
	}
}

func TestLayoutDirectories(t *testing.T) {
	for layout, want := range map[uint32]string{1: "root", 2: "root", 3: "root/layout-3", 12: "root/layout-12"} {
		if got := layoutDirectory("root", layout); got != want {
			t.Errorf("layout %d: %s, want %s", layout, got, want)
		}
		if got := layoutOf(want); got != max(layout, flatLayout) {
			t.Errorf("%s is taken for that of layout %d", want, got)
		}
	}
}
