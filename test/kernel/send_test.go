package kernel

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// sendKind is how a process sends without connecting a TCP socket.
type sendKind int

const (
	sendUDP sendKind = iota
	sendUDPConnected
	sendUDPMapped
	sendRaw   // SOCK_RAW with IP_HDRINCL
	sendFrame // AF_PACKET
)

// sending is what a process in a pod sends, once.
type sending struct {
	Kind     sendKind
	To       netip.AddrPort // imds if zero
	SYN      bool           // a TCP SYN in place of a datagram
	Fragment bool           // the first fragment of a larger packet
	Tags     int            // VLAN tags with id 0, which the kernel ignores
	Bypass   bool           // PACKET_QDISC_BYPASS
	Spoof    bool           // the test fills From with another pod's address

	From    netip.Addr
	Link    string           // the pod's end of it
	Gateway net.HardwareAddr // the node's end
}

func init() { lab.Register("send", send) }

// send returns what the kernel said; not every drop is reported to the sender.
func send(s sending) (string, error) {
	err := s.send()
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e), nil
	}
	return "", err
}

func (s sending) send() error {
	switch s.Kind {
	case sendRaw:
		return s.sendRaw()
	case sendFrame:
		return s.sendFrame()
	}
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(s.To.Port()), Addr: s.To.Addr().As4()})
	if s.Kind == sendUDPMapped {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(s.To.Port()), Addr: s.To.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if s.Kind != sendUDPConnected {
		return unix.Sendto(fd, []byte("datagram"), 0, to)
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("datagram"))
	return err
}

func (s sending) sendRaw() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, s.packet(), 0, &unix.SockaddrInet4{Addr: s.To.Addr().As4()})
}

func (s sending) sendFrame() error {
	w, err := openWire(s.Link, s.Gateway, s.Bypass)
	if err != nil {
		return err
	}
	defer w.close()
	return w.send(s.packet(), s.Tags)
}

func (s sending) packet() []byte {
	if s.SYN {
		return tcpPacket(segment{from: netip.AddrPortFrom(s.From, 40000), to: s.To, flags: flagSYN})
	}
	return udpPacket(netip.AddrPortFrom(s.From, 40000), s.To, s.Fragment)
}

// The outcomes of sending.
const arrives = "REACHES THE METADATA SERVICE"

// from returns an attack by a pod about which the rules say d.
func (s sending) from(d decision) func(*testing.T, guardMode) string {
	return func(t *testing.T, guard guardMode) string {
		n := newNode(t, options{guard: guard})
		return n.sends(t, n.guardedPod(t, d, guard), s)
	}
}

// fromStranger is an attack by a pod that the cluster does not know.
func (s sending) fromStranger(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.stranger(t, lab.PodOptions{})
	n.guarded(t, p, guard)
	return n.sends(t, p, s)
}

// sends has the pod send and says whether it arrived at the node's end of its
// link, behind the guard.
func (n *node) sends(t *testing.T, p *lab.Pod, s sending) string {
	t.Helper()
	return n.sendsOver(t, p, s, "eth0", p.NodeLink)
}

// sendsOver is sends with a link of the pod's and its end on the node.
func (n *node) sendsOver(t *testing.T, p *lab.Pod, s sending, link string, end netlink.LinkAttrs) string {
	t.Helper()
	if !s.To.IsValid() {
		s.To = imds
	}
	s.From = addrPort(p.Address, 0).Addr()
	if s.Spoof {
		s.From = addrPort(n.pod(t, pass, lab.PodOptions{}).Address, 0).Addr()
	}
	s.Link, s.Gateway = link, end.HardwareAddr
	witness := newWitness(t, end.Index, s.To.Addr())
	if _, err := lab.Run[sending, string](t.Context(), p, "send", s); err != nil {
		t.Fatal(err)
	}
	if witness.sees(300 * time.Millisecond) {
		return arrives
	}
	return dropped
}

// witness looks at the IPv4 packets that come in over a pod's link and that
// no tc program has dropped.
type witness struct {
	fd int
	to netip.Addr
}

func newWitness(t *testing.T, ifindex int, to netip.Addr) witness {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	// Bound to one protocol, a socket gets packets after the tc programs.
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: ifindex}))
	return witness{fd, to}
}

// sees reports whether a packet for the address comes within the time.
func (w witness) sees(within time.Duration) bool {
	deadline := time.Now().Add(within)
	packet := make([]byte, 2048)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil || n == 0 {
			continue
		}
		n, _, err := unix.Recvfrom(w.fd, packet, unix.MSG_DONTWAIT)
		if err == nil && n >= 20 && netip.AddrFrom4([4]byte(packet[16:20])) == w.to {
			return true
		}
	}
}

func bigEndian(n uint16) uint16 { return n<<8 | n>>8 }
