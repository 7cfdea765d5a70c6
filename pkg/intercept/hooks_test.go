package intercept

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// Every map that is pinned is among those whose pins are kept.
func TestAllPinnedMapsAreKept(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{layoutPin}
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys((&Hooks{}).pinnedMaps()))); diff != "" {
		t.Errorf("pinned (-want +kept):\n%s", diff)
	}
}
