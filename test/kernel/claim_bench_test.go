package kernel

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// BenchmarkClaim takes the record of a connection, as attesting does once for
// each. To write the record is part of it; the kernel does that as well.
func BenchmarkClaim(b *testing.B) {
	l, err := lab.NewNode(b.TempDir())
	check(b, err)
	b.Cleanup(func() { l.Close() })
	hooks, err := intercept.Load(l.BPFFS, quiet())
	check(b, err)
	b.Cleanup(func() { hooks.Close() })
	flows, err := ebpf.LoadPinnedMap(filepath.Join(l.BPFFS, intercept.PinDirectory, "sidestep_flows"), nil)
	check(b, err)
	b.Cleanup(func() { flows.Close() })
	c := workload.Connection{
		NetnsCookie: 7, Client: netip.MustParseAddrPort("127.0.0.1:40000"), Server: netip.MustParseAddrPort("127.0.0.1:28000"),
	}
	key, flow := flowOf(c, 42)
	b.ReportAllocs()
	for b.Loop() {
		check(b, flows.Update(key, flow, ebpf.UpdateAny))
		if id, err := hooks.Claim(c); err != nil || id != 42 {
			b.Fatalf("Claim = %d, %v", id, err)
		}
	}
}

// flowOf returns a record as bpf/types.h lays it out.
func flowOf(c workload.Connection, cgroupID uint64) (key, flow []byte) {
	key = binary.NativeEndian.AppendUint64(nil, c.NetnsCookie)
	client, server := c.Client.Addr().As4(), c.Server.Addr().As4()
	key = append(append(key, client[:]...), server[:]...)
	key = binary.NativeEndian.AppendUint16(key, c.Client.Port())
	key = binary.NativeEndian.AppendUint16(key, c.Server.Port())
	flow = binary.NativeEndian.AppendUint64(nil, cgroupID)
	return append(key, 0, 0, 0, 0), append(flow, make([]byte, 24)...)
}
