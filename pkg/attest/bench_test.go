package attest

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// BenchmarkAttest is a new connection of a known pod; BenchmarkCurrent is what
// each request asks. The kernel's part is faked.
func BenchmarkAttest(b *testing.B) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Steer)
	a := newAttestor(k, p, nil)
	b.ReportAllocs()
	for b.Loop() {
		k.flows[conn] = 42
		if _, _, err := a.Attest(conn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCurrent(b *testing.B) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Steer)
	a := newAttestor(k, p, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := a.Current(callerA); err != nil {
			b.Fatal(err)
		}
	}
}
