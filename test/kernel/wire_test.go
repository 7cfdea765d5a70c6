package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// wire is an AF_PACKET socket on a pod's link.
type wire struct {
	fd      int
	link    *net.Interface
	gateway net.HardwareAddr
}

func openWire(name string, gateway net.HardwareAddr, bypass bool) (*wire, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(bigEndian(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	if bypass {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	return &wire{fd, link, gateway}, err
}

func (w *wire) close() { unix.Close(w.fd) }

// send puts the packet on the link, behind so many VLAN tags with id 0.
func (w *wire) send(packet []byte, tags int) error {
	frame := append(append([]byte{}, w.gateway...), w.link.HardwareAddr...)
	for range tags {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = binary.BigEndian.AppendUint16(frame, 0)
	}
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
	return unix.Sendto(w.fd, append(frame, packet...), 0,
		&unix.SockaddrLinklayer{Ifindex: w.link.Index, Halen: 6})
}

// receive returns the next TCP segment to the port, without its addresses.
func (w *wire) receive(port uint16, within time.Duration) (segment, error) {
	deadline := time.Now().Add(within)
	frame := make([]byte, 4096)
	for time.Now().Before(deadline) {
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 50); err != nil || n == 0 {
			continue
		}
		n, _, err := unix.Recvfrom(w.fd, frame, unix.MSG_DONTWAIT)
		if err != nil || n < 14+20+20 || frame[14+9] != unix.IPPROTO_TCP {
			continue
		}
		s := parseTCP(frame[14+20 : n])
		if s.to.Port() == port {
			return s, nil
		}
	}
	return segment{}, fmt.Errorf("nothing came: %w", unix.ETIMEDOUT)
}

const (
	flagSYN = 0x02
	flagPSH = 0x08
	flagACK = 0x10
)

// segment is a TCP segment.
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    byte
	data     []byte
}

func tcpPacket(s segment) []byte {
	b := binary.BigEndian.AppendUint16(nil, s.from.Port())
	b = binary.BigEndian.AppendUint16(b, s.to.Port())
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, 5<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0) // 20 bytes, a large window
	b = append(b, s.data...)
	pseudo := append(s.from.Addr().AsSlice(), s.to.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return ipPacket(s.from.Addr(), s.to.Addr(), unix.IPPROTO_TCP, 0, b)
}

func parseTCP(b []byte) segment {
	header := min(int(b[12]>>4)*4, len(b))
	return segment{
		to:  netip.AddrPortFrom(netip.Addr{}, binary.BigEndian.Uint16(b[2:])),
		seq: binary.BigEndian.Uint32(b[4:]), ack: binary.BigEndian.Uint32(b[8:]),
		flags: b[13], data: b[header:],
	}
}

// udpPacket may be the first fragment of a larger one: with a TTL and a length
// of its own, and more to follow.
func udpPacket(from, to netip.AddrPort, fragment bool) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, 0, 16, 0, 0) // length; no checksum
	b = append(b, "datagram"...)
	flags := uint16(0)
	if fragment {
		flags = 0x2000
	}
	return ipPacket(from.Addr(), to.Addr(), unix.IPPROTO_UDP, flags, b)
}

func ipPacket(from, to netip.Addr, protocol byte, flags uint16, payload []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[6:], flags)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
