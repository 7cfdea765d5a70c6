package podcache

import (
	"fmt"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// BenchmarkLookup is what each request asks of a node with 250 pods.
func BenchmarkLookup(b *testing.B) {
	c := &Cache{entries: map[string]*entry{}}
	refs := make([]workload.CgroupRef, 250)
	for i := range refs {
		refs[i].PodUID = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		c.entries[refs[i].PodUID] = &entry{pod: workload.Pod{Decision: steer("label")}}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, ok := c.Lookup(refs[i%len(refs)]); !ok {
			b.Fatal("not found")
		}
	}
}
