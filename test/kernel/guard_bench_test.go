package kernel

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// BenchmarkGuard compares what a steered pod can send to the rest of the world
// with each guard and without any program of ours. The sides take turns, and
// the figure is the median of each round's ratio: 1 is no cost.
func BenchmarkGuard(b *testing.B) {
	sink := startSink(b)
	none := newSide(b, "", sink)
	for _, guard := range []guardMode{guardSocket, guardFull} {
		side := newSide(b, guard.String(), sink)
		for _, kind := range []blastKind{smallPackets, bulk} {
			b.Run(guard.String()+"/"+kind.String(), func(b *testing.B) {
				b.ReportMetric(compare(b, side, none, kind), "of-none")
				b.ReportMetric(0, "ns/op") // absolute times mean little here
			})
		}
	}
}

// BenchmarkGate runs the gate's programs, and an empty one, on a packet that is
// none of their business, many times in the kernel: what each packet of a pod
// costs beyond the call of a program.
func BenchmarkGate(b *testing.B) {
	l, err := lab.NewNode(b.TempDir())
	check(b, err)
	b.Cleanup(func() { l.Close() })
	hooks, err := intercept.Load(l.BPFFS, quiet())
	check(b, err)
	b.Cleanup(func() { hooks.Close() })
	kubepods, err := lab.CgroupID(l.Kubepods)
	check(b, err)
	check(b, hooks.Configure(intercept.Settings{
		KubepodsID: kubepods, NodeNetns: 1, NodeListener: nodeListener, Quota: quota,
	}))
	check(b, hooks.Attach(l.Kubepods, false))
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	check(b, err)
	b.Cleanup(func() { empty.Close() })
	frame := append(make([]byte, 12), 0x08, 0x00) // Ethernet, IPv4
	frame = append(frame, udpPacket(netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:9"), false)...)
	for name, program := range map[string]*ebpf.Program{
		"empty": empty, "egress": pinnedProgram(b, l, "link_gate_egress"), "ingress": pinnedProgram(b, l, "link_gate_ingress"),
	} {
		b.Run(name, func(b *testing.B) {
			_, took, err := program.Benchmark(frame, 1_000_000, nil)
			check(b, err)
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// pinnedProgram returns the program behind a link that the agent has pinned.
func pinnedProgram(b *testing.B, l *lab.Node, pin string) *ebpf.Program {
	b.Helper()
	pinned, err := link.LoadPinnedLink(filepath.Join(l.BPFFS, intercept.PinDirectory, pin), nil)
	check(b, err)
	defer pinned.Close()
	info, err := pinned.Info()
	check(b, err)
	program, err := ebpf.NewProgramFromID(info.Program)
	check(b, err)
	b.Cleanup(func() { program.Close() })
	return program
}

// side is a pod under one guard.
type side struct {
	pod  *lab.Pod
	sink netip.AddrPort
}

func newSide(b *testing.B, guard string, sink netip.AddrPort) side {
	b.Helper()
	l, err := lab.NewNode(b.TempDir())
	check(b, err)
	b.Cleanup(func() { l.Close() })
	p, err := l.StartPod(lab.PodOptions{})
	check(b, err)
	if guard == "" {
		return side{p, sink}
	}
	hooks, err := intercept.Load(l.BPFFS, quiet())
	check(b, err)
	b.Cleanup(func() { hooks.Close() })
	kubepods, err := lab.CgroupID(l.Kubepods)
	check(b, err)
	pod, err := lab.CgroupID(p.Cgroup)
	check(b, err)
	check(b, hooks.Configure(intercept.Settings{
		KubepodsID: kubepods, NodeNetns: 1, NodeListener: nodeListener, Quota: quota,
		FirstPort: ports.First, LastPort: ports.Last,
	}))
	check(b, hooks.SetVerdict(pod, workload.Entry{Verdict: workload.Steer}))
	check(b, hooks.Attach(l.Kubepods, true))
	if guard == guardFull.String() {
		check(b, hooks.GuardLink(p.NodeLink.Index, pod))
	}
	return side{p, sink}
}

func compare(b *testing.B, guarded, none side, kind blastKind) float64 {
	b.Helper()
	const rounds = 15
	var ratios []float64
	for range rounds {
		base, with := none.blast(b, kind), guarded.blast(b, kind)
		ratios = append(ratios, with/base)
	}
	slices.Sort(ratios)
	return ratios[rounds/2]
}

type blastKind int

const (
	smallPackets blastKind = iota // datagrams of one byte, a system call each
	bulk                          // one TCP connection
)

func (k blastKind) String() string { return [...]string{"packets", "throughput"}[k] }

// blasting is what a process in the pod sends for a while.
type blasting struct {
	Kind blastKind
	To   netip.AddrPort
	For  time.Duration
}

func init() { lab.Register("blast", blast) }

func (s side) blast(b *testing.B, kind blastKind) float64 {
	b.Helper()
	sent, err := lab.Run[blasting, float64](b.Context(), s.pod, "blast",
		blasting{kind, s.sink, 150 * time.Millisecond})
	check(b, err)
	return sent
}

// blast returns how much went out in a second: datagrams, or bytes.
func blast(o blasting) (float64, error) {
	kind, payload := unix.SOCK_DGRAM, make([]byte, 1)
	if o.Kind == bulk {
		kind, payload = unix.SOCK_STREAM, make([]byte, 64<<10)
	}
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(o.To.Port()), Addr: o.To.Addr().As4()}); err != nil {
		return 0, err
	}
	start, sent := time.Now(), 0
	for time.Since(start) < o.For {
		for range 32 {
			n, err := unix.Write(fd, payload)
			if err != nil {
				return 0, err
			}
			sent += n
		}
	}
	return float64(sent) / time.Since(start).Seconds(), nil
}

// startSink takes in all that is sent to it, on an address of the node's.
func startSink(b *testing.B) netip.AddrPort {
	b.Helper()
	at := netip.MustParseAddrPort("10.63.255.1:9")
	ownAddress(b, at.Addr())
	packets, err := net.ListenPacket("udp4", at.String())
	check(b, err)
	stream, err := net.Listen("tcp4", at.String())
	check(b, err)
	b.Cleanup(func() { packets.Close(); stream.Close() })
	go func() {
		for buffer := make([]byte, 2048); ; {
			if _, _, err := packets.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			go drain(c)
		}
	}()
	return at
}

func drain(c net.Conn) {
	defer c.Close()
	for buffer := make([]byte, 256<<10); ; {
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}
