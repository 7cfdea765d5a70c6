package intercept

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The programs of the guard, run on single frames (BPF_PROG_TEST_RUN). What
// the kernel around them does to a frame is the attack suite's.

var (
	metadataService = netip.MustParseAddr("169.254.169.254")
	wireServer      = netip.MustParseAddr("168.63.129.16")
	somebody        = netip.MustParseAddr("10.1.2.3")
)

const (
	protocolTCP, protocolUDP = unix.IPPROTO_TCP, unix.IPPROTO_UDP

	tag8021Q, tag8021AD = unix.ETH_P_8021Q, unix.ETH_P_8021AD
)

func be16(values ...int) (b []byte) {
	for _, v := range values {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}

// ethernet returns a frame without addresses.
func ethernet(protocol int, payload ...[]byte) []byte {
	return slices.Concat(append([][]byte{make([]byte, 12), be16(protocol)}, payload...)...)
}

// tags returns so many VLAN tags; each names what follows it.
func tags(n, id, kind, protocol int) (b []byte) {
	for i := range n {
		next := kind
		if i == n-1 {
			next = protocol
		}
		b = append(b, be16(id, next)...)
	}
	return b
}

// ipv4 returns a packet with options of a multiple of four bytes, and eight
// bytes after them of which the first four are the ports.
func ipv4(to netip.Addr, protocol byte, port int, options ...byte) []byte {
	b := []byte{byte(0x40 | (20+len(options))/4), 0}
	b = append(b, be16(28+len(options))...)
	b = append(b, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 9, 9, 9)
	b = append(append(b, to.AsSlice()...), options...)
	return append(append(b, be16(40000, port)...), 0, 0, 0, 0)
}

// short returns a frame that ends before its packet's header does, in a tag:
// Linux 6.18 runs no program on a frame that is so without one.
func short(protocol int, packet []byte) []byte {
	return ethernet(tag8021Q, be16(0, protocol), packet)
}

// laterFragment makes the packet one that others came before.
func laterFragment(packet []byte) []byte {
	packet[7] = 1
	return packet
}

func ipv6(to string, next byte, payload ...byte) []byte {
	b := append([]byte{0x60, 0, 0, 0}, be16(len(payload))...)
	b = append(b, next, 64)
	b = append(b, netip.MustParseAddr("fd00::9").AsSlice()...)
	return slices.Concat(b, netip.MustParseAddr(to).AsSlice(), payload)
}

// header6 is an IPv6 extension header of eight bytes.
func header6(next byte) []byte { return []byte{next, 0, 0, 0, 0, 0, 0, 0} }

func ports(port int) []byte { return append(be16(40000, port), 0, 0, 0, 0) }

// sourceRoute returns the option with one hop, and padding.
func sourceRoute(kind byte, hop netip.Addr) []byte {
	return slices.Concat([]byte{kind, 7, 4}, hop.AsSlice(), []byte{0})
}

// For which of the services a frame is, so that it is dropped where its pod may
// not reach that.
const (
	forNobody     = "nobody"
	forIMDS       = "the metadata service"
	forWireServer = "the wire server"
	notUnderstood = "may be either"
)

type vector struct {
	name  string
	frame []byte
	want  string
}

func vectors() []vector {
	v4 := func(p []byte) []byte { return ethernet(unix.ETH_P_IP, p) }
	v6 := func(p []byte) []byte { return ethernet(unix.ETH_P_IPV6, p) }
	imds := ipv4(metadataService, protocolTCP, 80)
	away := ipv4(somebody, protocolTCP, 80)
	all := []vector{
		{"IPv4 to IMDS", v4(imds), forIMDS},
		{"IPv4 to IMDS, UDP 53", v4(ipv4(metadataService, protocolUDP, 53)), forIMDS},
		{"IPv4 to IMDS, later fragment", v4(laterFragment(ipv4(metadataService, protocolTCP, 1))), forIMDS},
		{"IPv4 to IMDS, protocol 4", v4(ipv4(metadataService, 4, 0)), forIMDS},
		{"IPv4 to IMDS, header length 0", v4(with(imds, 0, 0x40)), forIMDS},
		{"IPv4 to IMDS, header length 60 in a packet of 28", v4(with(imds, 0, 0x4f)), forIMDS},
		{"IPv4 to IMDS, router alert", v4(ipv4(metadataService, 2, 0, 148, 4, 0, 0)), forIMDS},
		{"IPv4 elsewhere", v4(away), forNobody},
		{"IPv4 elsewhere, version 6", v4(with(away, 0, 0x65)), notUnderstood},
		{"IPv4 elsewhere, header length 4", v4(with(away, 0, 0x44)), notUnderstood},
		{"IPv4 elsewhere, later fragment", v4(laterFragment(ipv4(somebody, protocolTCP, 1))), forNobody},
		{"IPv4 elsewhere, router alert (IGMP)", v4(ipv4(somebody, 2, 0, 148, 4, 0, 0)), forNobody},
		{"IPv4 elsewhere, record route", v4(ipv4(somebody, 1, 0, 7, 7, 4, 0, 0, 0, 0, 0)), forNobody},
		{"IPv4 elsewhere, no-ops and end", v4(ipv4(somebody, 1, 0, 1, 1, 1, 0)), forNobody},
		{"IPv4 elsewhere, eight options", v4(ipv4(somebody, 1, 0, slices.Repeat([]byte{1}, 8)...)), forNobody},
		{"IPv4 elsewhere, forty options", v4(ipv4(somebody, 1, 0, slices.Repeat([]byte{1}, 40)...)), notUnderstood},
		{"IPv4 elsewhere, loose source route by IMDS", v4(ipv4(somebody, protocolTCP, 80, sourceRoute(131, metadataService)...)), notUnderstood},
		{"IPv4 elsewhere, strict source route by IMDS", v4(ipv4(somebody, protocolTCP, 80, sourceRoute(137, metadataService)...)), notUnderstood},
		{"IPv4 elsewhere, source route after no-ops", v4(ipv4(somebody, protocolTCP, 80, append([]byte{1, 1, 1, 1}, sourceRoute(137, metadataService)...)...)), notUnderstood},
		{"IPv4 elsewhere, option of length 0", v4(ipv4(somebody, 1, 0, 7, 0, 131, 7)), notUnderstood},
		{"IPv4 elsewhere, option past the header", v4(ipv4(somebody, 1, 0, 7, 40, 4, 0)), notUnderstood},
		{"wire server, TCP 80", v4(ipv4(wireServer, protocolTCP, 80)), forWireServer},
		{"wire server, TCP 32526", v4(ipv4(wireServer, protocolTCP, 32526)), forWireServer},
		{"wire server, TCP 80 after options", v4(ipv4(wireServer, protocolTCP, 80, 148, 4, 0, 0)), forWireServer},
		{"wire server, no ports", v4(ipv4(wireServer, protocolTCP, 80)[:20]), forWireServer},
		{"wire server, TCP 443", v4(ipv4(wireServer, protocolTCP, 443)), forNobody},
		{"wire server, DNS", v4(ipv4(wireServer, protocolUDP, 53)), forNobody},
		{"wire server, later fragment", v4(laterFragment(ipv4(wireServer, protocolTCP, 80))), forNobody},
	}
	all = append(all, ipv6Vectors(v6)...)
	for n := 1; n <= 12; n++ {
		for _, kind := range []int{tag8021Q, tag8021AD} {
			readTo := func(end string) string {
				if n > 3 {
					return notUnderstood
				}
				return end
			}
			all = append(all,
				vector{"tags, IMDS", ethernet(kind, tags(n, 0, kind, unix.ETH_P_IP), imds), readTo(forIMDS)},
				vector{"tags of id 5, IMDS", ethernet(kind, tags(n, 5, kind, unix.ETH_P_IP), imds), readTo(forIMDS)},
				vector{"tags, elsewhere", ethernet(kind, tags(n, 5, kind, unix.ETH_P_IP), away), readTo(forNobody)},
				vector{"tags, ARP", ethernet(kind, tags(n, 5, kind, unix.ETH_P_ARP), make([]byte, 28)), readTo(forNobody)},
				vector{"tags, cut off", ethernet(kind, tags(n, 0, kind, kind)), notUnderstood})
		}
	}
	return append(all, linkVectors(imds)...)
}

func ipv6Vectors(v6 func([]byte) []byte) []vector {
	return []vector{
		{"IPv6 elsewhere", v6(ipv6("fd00::1", protocolTCP, ports(80)...)), forNobody},
		{"IPv6 elsewhere, neighbour solicitation", v6(ipv6("ff02::1:ff00:1", 58, 135, 0, 0, 0)), forNobody},
		{"IPv6 elsewhere, hop-by-hop (MLD)", v6(ipv6("ff02::16", 0, append(header6(58), 143, 0, 0, 0)...)), forNobody},
		{"IPv6 elsewhere, routing header", v6(ipv6("fd00::1", 43, header6(protocolTCP)...)), notUnderstood},
		{"IPv6 elsewhere, routing header behind another", v6(ipv6("fd00::1", 0, append(header6(43), header6(protocolTCP)...)...)), notUnderstood},
		{"IPv6 elsewhere, five headers", v6(ipv6("fd00::1", 0, slices.Repeat(header6(60), 5)...)), notUnderstood},
		{"IPv6 elsewhere, header cut off", v6(ipv6("fd00::1", 0)), notUnderstood},
		{"IPv6, short", short(unix.ETH_P_IPV6, ipv6("fd00::1", 0)[:39]), notUnderstood},
		{"IPv6, version 4", v6(with(ipv6("fd00::1", protocolTCP), 0, 0x45)), notUnderstood},
		{"IPv6, IMDS mapped", v6(ipv6("::ffff:169.254.169.254", protocolTCP, ports(80)...)), forIMDS},
		{"IPv6, IMDS by NAT64", v6(ipv6("64:ff9b::169.254.169.254", protocolTCP, ports(80)...)), forIMDS},
		{"IPv6, IMDS by 6to4", v6(ipv6("2002:a9fe:a9fe::1", protocolTCP, ports(80)...)), forIMDS},
		{"IPv6, wire server by NAT64", v6(ipv6("64:ff9b::168.63.129.16", protocolTCP, ports(80)...)), forWireServer},
		{"IPv6, wire server by NAT64, other header", v6(ipv6("64:ff9b::168.63.129.16", 60, header6(protocolTCP)...)), forWireServer},
		{"IPv6, wire server by NAT64, DNS", v6(ipv6("64:ff9b::168.63.129.16", protocolUDP, ports(53)...)), forNobody},
		{"IPv6, wire server by 6to4, TCP 443", v6(ipv6("2002:a83f:8110::1", protocolTCP, ports(443)...)), forNobody},
	}
}

// linkVectors are of other protocols than IP.
func linkVectors(imds []byte) []vector {
	snap := []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}
	all := []vector{
		{"802.3, spanning tree", ethernet(38, []byte{0x42, 0x42, 3}, make([]byte, 35)), forNobody},
		{"802.3, nothing", ethernet(0), forNobody},
		{"802.3, SNAP of a vendor", ethernet(40, []byte{0xaa, 0xaa, 3, 0, 0, 12, 0x20, 0}, make([]byte, 32)), forNobody},
		{"802.3, SNAP with IP", ethernet(36, snap, imds), notUnderstood},
		{"802.3, SNAP cut off", ethernet(3, snap[:3]), notUnderstood},
		{"802.3 with SNAP in a tag", ethernet(tag8021Q, be16(0, 36), snap, imds), notUnderstood},
		{"IPv4, nothing of it", short(unix.ETH_P_IP, nil), notUnderstood},
		{"IPv4, 19 bytes of it", short(unix.ETH_P_IP, imds[:19]), notUnderstood},
	}
	for _, p := range []int{
		unix.ETH_P_ARP, unix.ETH_P_RARP, unix.ETH_P_LLDP, 0x0842, unix.ETH_P_PAE, unix.ETH_P_1588, unix.ETH_P_SLOW,
	} {
		all = append(all, vector{"harmless protocol", ethernet(p, imds), forNobody})
	}
	for _, p := range []int{
		0x9100, 0x9200, 0x9300, unix.ETH_P_MPLS_UC, unix.ETH_P_MPLS_MC, unix.ETH_P_PPP_SES, unix.ETH_P_PPP_DISC,
		unix.ETH_P_TEB, unix.ETH_P_8021AH, unix.ETH_P_NSH, unix.ETH_P_MACSEC, unix.ETH_P_HSR, unix.ETH_P_PRP,
		unix.ETH_P_BATMAN, unix.ETH_P_ERSPAN, 0x88b5, 0xffff,
	} {
		all = append(all, vector{"other protocol", ethernet(p, imds), notUnderstood})
	}
	return all
}

// with returns a copy of the packet with one byte changed.
func with(packet []byte, at int, b byte) []byte {
	packet = slices.Clone(packet)
	packet[at] = b
	return packet
}

// rig is the programs, with the test's own link noted as a pod's.
type rig struct {
	objects kernelObjects
	ifindex int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs BPF programs")
	}
	r := &rig{ifindex: ownLink(t)}
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.objects.Close() })
	return r
}

const podCgroup = uint64(4711)

// set makes the link one of a pod with the entry, nil: without one.
func (r *rig) set(t *testing.T, flags kernelSettingFlags, e *kernelVerdictEntry) {
	t.Helper()
	err := r.objects.SidestepSettings.Update(uint32(0), kernelSettings{KubepodsId: 1, Flags: flags}, ebpf.UpdateAny)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.objects.SidestepLinks.Update(uint32(r.ifindex), podCgroup, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	if e == nil {
		_ = r.objects.SidestepVerdicts.Delete(podCgroup)
		return
	}
	if err := r.objects.SidestepVerdicts.Update(podCgroup, *e, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
}

// skb is the part of struct __sk_buff up to the interface's index that
// BPF_PROG_TEST_RUN reads.
type skb struct {
	_       [10]uint32
	Ifindex uint32
	_       [37]uint32
}

func (r *rig) run(t *testing.T, p *ebpf.Program, frame []byte) int32 {
	t.Helper()
	got, err := p.Run(&ebpf.RunOptions{Data: frame, Context: skb{Ifindex: uint32(r.ifindex)}})
	if err != nil {
		t.Fatalf("%x: %v", frame, err)
	}
	return int32(got)
}

const (
	tcUnspecified = -1
	tcShot        = 2
)

// Each frame, from pods of all kinds. Those that pass are not touched.
func TestLinkVectors(t *testing.T) {
	r := newRig(t)
	entry := func(v kernelVerdict, f kernelEntryFlags) *kernelVerdictEntry {
		return &kernelVerdictEntry{Verdict: v, Flags: f}
	}
	unread, everything := []string{forIMDS, notUnderstood}, []string{forIMDS, forWireServer, notUnderstood}
	const deniesServer = kernelEntryFlagsENTRY_WIRESERVER_DENY
	for name, pod := range map[string]struct {
		settings kernelSettingFlags
		entry    *kernelVerdictEntry
		drops    []string
	}{
		"steered":                   {0, entry(kernelVerdictVERDICT_STEER, 0), unread},
		"denied, wire server too":   {0, entry(kernelVerdictVERDICT_DENY, deniesServer), everything},
		"passes":                    {0, entry(kernelVerdictVERDICT_PASS, 0), nil},
		"passes, no wire server":    {0, entry(kernelVerdictVERDICT_PASS, deniesServer), []string{forWireServer, notUnderstood}},
		"a container passes":        {0, entry(kernelVerdictVERDICT_UNKNOWN, kernelEntryFlagsENTRY_SHARED), nil},
		"unknown":                   {0, nil, unread},
		"unknown, no wire server":   {kernelSettingFlagsSETTING_WIRESERVER_DENY, nil, everything},
		"unknown, unknown: pass":    {kernelSettingFlagsSETTING_UNKNOWN_PASS, nil, nil},
		"steered, unknown: pass":    {kernelSettingFlagsSETTING_UNKNOWN_PASS, entry(kernelVerdictVERDICT_STEER, 0), unread},
		"denied, but mode is audit": {kernelSettingFlagsSETTING_AUDIT, entry(kernelVerdictVERDICT_DENY, deniesServer), nil},
	} {
		r.set(t, pod.settings, pod.entry)
		for _, v := range vectors() {
			want := int32(tcUnspecified)
			if slices.Contains(pod.drops, v.want) {
				want = tcShot
			}
			if got := r.run(t, r.objects.SidestepLink, v.frame); got != want {
				t.Errorf("%s, %s (%x): %d, want %d", name, v.name, v.frame, got, want)
			}
		}
	}
}

// The socket that BPF_PROG_TEST_RUN makes is in no pod: nothing is known of it.
func TestEgressVectors(t *testing.T) {
	r := newRig(t)
	r.set(t, 0, nil)
	const drop, send = 0, 1
	for name, v := range map[string]struct {
		packet []byte
		want   int32
	}{
		"to IMDS":                     {ipv4(metadataService, protocolTCP, 80), drop},
		"to IMDS, UDP":                {ipv4(metadataService, protocolUDP, 53), drop},
		"elsewhere":                   {ipv4(somebody, protocolTCP, 80), send},
		"elsewhere, options":          {ipv4(somebody, protocolTCP, 80, 1, 1, 1, 0), send},
		"elsewhere, source route":     {ipv4(somebody, protocolTCP, 80, sourceRoute(131, metadataService)...), drop},
		"to the wire server":          {ipv4(wireServer, protocolTCP, 80), send},
		"to the wire server, no port": {ipv4(wireServer, protocolTCP, 80)[:20], send},
	} {
		if got := r.run(t, r.objects.SidestepEgress, ethernet(unix.ETH_P_IP, v.packet)); got != v.want {
			t.Errorf("%s: %d, want %d", name, got, v.want)
		}
	}
}
