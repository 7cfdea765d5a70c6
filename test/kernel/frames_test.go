package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// world is what the writer of frames knows of where it is: all that a pod can
// find out.
type world struct {
	Pod, Gateway, Tunnel   net.HardwareAddr // Tunnel: of the node's tunnel device, if it has one
	PodAddr, GatewayAddr   netip.Addr
	OtherAddr              netip.Addr // another address of the node
	VNI                    uint32     // of the tunnel device
	WireServer, IMDSMapped netip.Addr
}

// frames writes random frames: stacks of headers as networks have them, with
// what goes wrong in them, some of it on purpose. It knows nothing of what any
// guard reads, and much of what kernels do.
type frames struct {
	*rand.Rand
	world world
}

// one returns true so many times of a hundred.
func (f frames) one(percent int) bool { return f.IntN(100) < percent }

func pick[T any](f frames, of ...T) T { return of[f.IntN(len(of))] }

func (f frames) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return b
}

func (f frames) mac() net.HardwareAddr {
	switch n := f.IntN(100); {
	case n < 85:
		return f.world.Gateway
	case n < 90:
		return net.HardwareAddr{255, 255, 255, 255, 255, 255}
	case n < 95 && f.world.Tunnel != nil:
		return f.world.Tunnel
	}
	return f.bytes(6)
}

// next returns what is sent next: mostly one frame, or the fragments of one
// packet, in some order.
func (f frames) next() [][]byte {
	if f.one(5) {
		return f.fragments()
	}
	if f.world.Tunnel != nil && f.one(10) {
		return [][]byte{f.tunnelled()}
	}
	frame := f.frame(0)
	if f.one(8) {
		frame = f.damage(frame)
	}
	return [][]byte{frame}
}

func (f frames) frame(depth int) []byte {
	b := slices.Concat(f.mac(), f.world.Pod)
	if f.one(5) {
		b = slices.Concat(f.mac(), f.bytes(6))
	}
	return append(b, f.behindAddresses(depth)...)
}

// behindAddresses returns an EtherType, or a length, and what it says.
func (f frames) behindAddresses(depth int) []byte {
	if depth > 12 {
		return f.typed(unix.ETH_P_IP, f.ipv4(depth))
	}
	switch n := f.IntN(100); {
	case n < 34:
		return f.typed(unix.ETH_P_IP, f.ipv4(depth))
	case n < 72:
		return f.tagged(depth)
	case n < 80:
		return f.typed(unix.ETH_P_IPV6, f.ipv6(depth))
	case n < 84:
		return f.llc(depth)
	case n < 88: // MPLS, one to three labels
		var labels []byte
		for i, n := 0, 1+f.IntN(3); i < n; i++ {
			label := f.Uint32()&^0x100 | uint32(map[bool]int{true: 0x100}[i == n-1])
			labels = binary.BigEndian.AppendUint32(labels, pick(f, label, label&0xfff))
		}
		return f.typed(pick(f, unix.ETH_P_MPLS_UC, unix.ETH_P_MPLS_MC), append(labels, f.ipv4(depth+1)...))
	case n < 91: // PPPoE
		ip := f.ipv4(depth + 1)
		header := append([]byte{0x11, 0, 0, byte(f.IntN(3))}, be(len(ip)+2, 0x21)...)
		return f.typed(pick(f, unix.ETH_P_PPP_SES, unix.ETH_P_PPP_DISC), append(header, ip...))
	case n < 94:
		return f.typed(unix.ETH_P_ARP, append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, f.bytes(20)...))
	}
	return f.typed(pick(f, unix.ETH_P_LLDP, unix.ETH_P_TEB, unix.ETH_P_8021AH, unix.ETH_P_NSH, unix.ETH_P_HSR,
		unix.ETH_P_BATMAN, unix.ETH_P_MACSEC, 0x88b5, 0x0842, f.IntN(1<<16)), f.ipv4(depth+1))
}

func (f frames) typed(protocol int, payload []byte) []byte { return append(be(protocol), payload...) }

// tagged puts VLAN tags before something; most have no id, which kernels
// ignore.
func (f frames) tagged(depth int) []byte {
	kind := pick(f, unix.ETH_P_8021Q, unix.ETH_P_8021Q, unix.ETH_P_8021Q, unix.ETH_P_8021AD, unix.ETH_P_8021AD, 0x9100, 0x9200)
	id := 0
	if f.one(15) {
		id = f.IntN(1 << 16)
	}
	return append(be(kind, id|f.IntN(8)<<13), f.behindAddresses(depth+1)...)
}

func (f frames) llc(depth int) []byte {
	inner := f.behindAddresses(depth + 1)
	header := []byte{0xaa, 0xaa, 3, 0, 0, 0}
	if f.one(30) {
		header = f.bytes(3)
	}
	inner = append(header, inner...)
	length := len(inner)
	if f.one(20) {
		length = f.IntN(1600)
	}
	return append(be(length), inner...)
}

func (f frames) target() netip.Addr {
	switch n := f.IntN(100); {
	case n < 62:
		return imds.Addr()
	case n < 76:
		return f.world.GatewayAddr
	case n < 84:
		return f.world.OtherAddr
	case n < 88:
		return f.world.WireServer
	case n < 92:
		return f.world.PodAddr
	}
	return netip.AddrFrom4([4]byte(f.bytes(4)))
}

func (f frames) source() netip.Addr {
	if f.one(92) {
		return f.world.PodAddr
	}
	return pick(f, f.world.GatewayAddr, netip.AddrFrom4([4]byte(f.bytes(4))))
}

// ipv4 returns a packet; what it has in it may be another.
func (f frames) ipv4(depth int) []byte {
	protocol, payload := f.transport(depth)
	return f.packet(f.source(), f.target(), protocol, f.fragmentField(), f.options(), payload)
}

func (f frames) fragmentField() int {
	if f.one(92) {
		return pick(f, 0, 0x4000)
	}
	return f.IntN(1 << 16)
}

func (f frames) packet(from, to netip.Addr, protocol byte, fragment int, options, payload []byte) []byte {
	length := 20 + len(options) + len(payload)
	b := []byte{0x40 | byte(20+len(options))/4, byte(f.IntN(4)) * 8}
	b = append(b, be(length, f.IntN(1<<16), fragment)...)
	b = append(b, byte(1+f.IntN(64)), protocol, 0, 0)
	b = slices.Concat(b, from.AsSlice(), to.AsSlice(), options)
	if f.one(3) {
		b[0] = byte(f.Uint32())
	}
	if f.one(3) {
		copy(b[2:4], f.bytes(2))
	}
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	if f.one(3) {
		b[10]++
	}
	return append(b, payload...)
}

// options returns IPv4 options, a multiple of four bytes.
func (f frames) options() []byte {
	if f.one(80) {
		return nil
	}
	var b []byte
	for range 1 + f.IntN(3) {
		switch f.IntN(6) {
		case 0:
			b = append(b, 1)
		case 1:
			b = append(b, 148, 4, 0, 0)
		case 2:
			b = append(b, 7, 7, 4, 0, 0, 0, 0)
		case 3:
			b = append(b, f.bytes(1+f.IntN(6))...)
		default: // source routes
			b = append(b, pick(f, byte(131), byte(137)), 7, 4)
			b = append(b, f.target().AsSlice()...)
		}
	}
	for len(b)%4 != 0 {
		b = append(b, pick(f, byte(0), byte(1)))
	}
	return b[:min(len(b), 40)]
}

func (f frames) transport(depth int) (protocol byte, payload []byte) {
	n := f.IntN(100)
	if depth > 12 {
		n %= 55
	}
	switch {
	case n < 25:
		return unix.IPPROTO_TCP, f.tcp()
	case n < 50:
		return unix.IPPROTO_UDP, f.udp(pick(f, 80, 53, 443, f.IntN(1<<16)), f.bytes(f.IntN(64)))
	case n < 55:
		return unix.IPPROTO_ICMP, append([]byte{8, 0, 0, 0}, f.bytes(8)...)
	case n < 65: // VXLAN
		header := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, pick(f, f.world.VNI, f.Uint32())<<8)
		return unix.IPPROTO_UDP, f.udp(4789, append(header, f.frame(depth+1)...))
	case n < 68: // Geneve
		header := append(be(0, unix.ETH_P_TEB), byte(f.world.VNI>>16), byte(f.world.VNI>>8), byte(f.world.VNI), 0)
		return unix.IPPROTO_UDP, f.udp(6081, append(header, f.frame(depth+1)...))
	case n < 71: // ESP in UDP
		return unix.IPPROTO_UDP, f.udp(4500, append(f.bytes(8), f.ipv4(depth+1)...))
	case n < 79:
		return unix.IPPROTO_IPIP, f.ipv4(depth + 1)
	case n < 83:
		return unix.IPPROTO_IPV6, f.ipv6(depth + 1)
	case n < 90:
		return unix.IPPROTO_GRE, f.gre(depth)
	case n < 93:
		return pick(f, byte(unix.IPPROTO_ESP), unix.IPPROTO_AH), append(f.bytes(12), f.ipv4(depth+1)...)
	}
	return byte(f.Uint32()), f.bytes(f.IntN(64))
}

// tunnelled returns a frame that the node's own tunnel device unpacks, and which
// it may take for its own then.
func (f frames) tunnelled() []byte {
	inner := append(slices.Concat(f.world.Tunnel, f.world.Pod), f.behindAddresses(0)...)
	payload := f.udp(4789, append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, f.world.VNI<<8), inner...))
	outer := f.packet(f.world.PodAddr, f.world.GatewayAddr, unix.IPPROTO_UDP, 0, nil, payload)
	return append(slices.Concat(f.world.Gateway, f.world.Pod), f.typed(unix.ETH_P_IP, outer)...)
}

func (f frames) gre(depth int) []byte {
	if f.one(30) {
		return append(be(0, unix.ETH_P_TEB), f.frame(depth+1)...)
	}
	header := be(0, unix.ETH_P_IP)
	if f.one(30) { // with a key
		header = append(be(0x2000, unix.ETH_P_IP), f.bytes(4)...)
	}
	return append(header, f.ipv4(depth+1)...)
}

func (f frames) tcp() []byte {
	b := be(1024+f.IntN(60000), pick(f, 80, 80, 80, 32526, f.IntN(1<<16)))
	b = append(b, f.bytes(8)...)
	b = append(b, 5<<4, pick(f, byte(flagSYN), flagACK, flagACK|flagPSH, byte(f.Uint32())), 16, 0, 0, 0, 0, 0)
	return append(b, f.bytes(f.IntN(32))...)
}

func (f frames) udp(port int, payload []byte) []byte {
	return append(be(1024+f.IntN(60000), port, 8+len(payload), 0), payload...)
}

func (f frames) ipv6(depth int) []byte {
	protocol, payload := f.transport(depth + 1)
	for f.one(25) { // extension headers, a routing header among them
		header := append([]byte{protocol, 0}, f.bytes(6)...)
		payload, protocol = append(header, payload...), pick(f, byte(0), 43, 60, 44)
	}
	to := pick(f, f.world.IMDSMapped, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("64:ff9b::a9fe:a9fe"),
		netip.MustParseAddr("2002:a9fe:a9fe::1"), netip.AddrFrom16([16]byte(f.bytes(16))))
	b := append([]byte{0x60, 0, 0, 0}, be(len(payload))...)
	b = append(b, protocol, 64)
	return slices.Concat(b, f.bytes(16), to.AsSlice(), payload)
}

// fragments cuts one packet into pieces, mixes their order, and may have some
// twice.
func (f frames) fragments() [][]byte {
	protocol, payload := f.transport(13)
	payload = append(payload, f.bytes(64)...)
	to, id := f.target(), f.IntN(1<<16)
	var all [][]byte
	for at := 0; at < len(payload); {
		size := min(8*(1+f.IntN(4)), len(payload)-at)
		field := at / 8
		if at+size < len(payload) {
			field |= 0x2000
		}
		p := f.packet(f.world.PodAddr, to, protocol, field, nil, payload[at:at+size])
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
		frame := slices.Concat(f.world.Gateway, f.world.Pod)
		if f.one(40) {
			frame = append(frame, be(unix.ETH_P_8021Q, 0)...)
		}
		all = append(all, append(append(frame, be(unix.ETH_P_IP)...), p...))
		at += size
		if f.one(10) {
			all = append(all, all[len(all)-1])
		}
	}
	if f.one(60) {
		f.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

// damage changes some bytes, cuts the frame off, or makes it longer.
func (f frames) damage(frame []byte) []byte {
	switch f.IntN(3) {
	case 0:
		for range 1 + f.IntN(4) {
			frame[f.IntN(len(frame))] = byte(f.Uint32())
		}
	case 1:
		frame = frame[:max(14, f.IntN(len(frame)))]
	default:
		frame = append(frame, f.bytes(f.IntN(200))...)
	}
	return frame
}

// be returns the values as 16 bits each, in network order.
func be(values ...int) (b []byte) {
	for _, v := range values {
		b = binary.BigEndian.AppendUint16(b, uint16(v))
	}
	return b
}
