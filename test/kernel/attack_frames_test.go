package kernel

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

var (
	frameCount = flag.Int("frames.count", 40000, "random frames of one attack")
	frameSeed  = flag.Uint64("frames.seed", 0, "their seed; 0: a new one")
	frameTime  = flag.Duration("frames.time", 0, "for how long TestRandomFrames goes on")
)

// The outcomes of random frames: of so many something must arrive where
// nothing is in the way, or they would show nothing.
const (
	noneArrives = "none arrives"
	someArrive  = "more than 2 % arrive"
	leastShare  = 0.02

	notUnderstood = "frames that are not understood"
)

// frameAttacks compare what random frames reach with and without the guard, on
// nodes of several kinds.
func frameAttacks() []attack {
	sorts := map[guardMode]string{guardFull: noneArrives, guardOff: someArrive}
	return []attack{
		{name: "random frames", expected: sorts, run: randomFrames(nil, false), defence: notUnderstood, success: "some arrive"},
		{name: "random frames, bridge", expected: sorts, run: randomFrames(onBridge, false)},
		{
			// What the node unpacks is not seen at the pod's link.
			name: "random frames, tunnels on the node", run: randomFrames(withTunnels, true),
			expected: sorts, defence: secondLine, success: "some arrive",
		},
		{name: "raw socket, source route", expected: map[guardMode]string{guardFull: dropped, guardOff: arrives},
			run: sourceRouted, defence: "source routes", success: arrives},
	}
}

// layout changes the network of a node and what a pod knows of it.
type layout func(t *testing.T, p *lab.Pod, w *world)

// randomFrames is with the second line of the full guard if line is true.
func randomFrames(change layout, line bool) func(*testing.T, guardMode) string {
	return func(t *testing.T, guard guardMode) string {
		seed := *frameSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		count := *frameCount
		if testing.Short() {
			count /= 10
		}
		arrived, first := tryFrames(t, options{guard: guard, line: line && guard == guardFull}, change, seed, count)
		attackNote = fmt.Sprintf("seed %d: %d frames, %d packets at the metadata service", seed, count, arrived)
		t.Log(attackNote + first)
		switch {
		case arrived == 0:
			return noneArrives
		case float64(arrived) >= leastShare*float64(count) && guard == guardOff:
			return someArrive
		}
		return "some arrive"
	}
}

// tryFrames has a pod that may not reach the metadata service send random
// frames, and returns how many packets the service's host got, and what they
// were.
func tryFrames(t *testing.T, o options, change layout, seed uint64, count int) (arrived int, first string) {
	t.Helper()
	n := newNode(t, o)
	p := n.guardedPod(t, steer, o.guard)
	w := world{
		Gateway: p.NodeLink.HardwareAddr, PodAddr: addrPort(p.Address, 0).Addr(), GatewayAddr: gateway(p),
		OtherAddr: netip.MustParseAddr("192.0.2.77"), WireServer: netip.MustParseAddr("168.63.129.16"),
		IMDSMapped: netip.AddrFrom16(imds.Addr().As16()), VNI: 42,
	}
	ownAddress(t, w.OtherAddr)
	if !o.line { // routing goes by the options only after the second line
		followSourceRoutes(t, p)
	}
	if change != nil {
		change(t, p, &w)
	}
	host := newHost(t, imds.Addr())
	_, err := lab.Run[framing, struct{}](t.Context(), p, "frames", framing{World: w, Seed: seed, Count: count})
	check(t, err)
	return host.seen()
}

// gateway returns the node's address on the pod's link.
func gateway(p *lab.Pod) netip.Addr { return addrPort(p.Address, 0).Addr().Prev() }

// followSourceRoutes has the node do so, as some do, until the test ends.
func followSourceRoutes(t *testing.T, p *lab.Pod) {
	t.Helper()
	const all = "/proc/sys/net/ipv4/conf/all/accept_source_route"
	check(t, os.WriteFile(all, []byte("1"), 0))
	t.Cleanup(func() { check(t, os.WriteFile(all, []byte("0"), 0)) })
	check(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", p.NodeLink.Name, "accept_source_route"), []byte("1"), 0))
}

func onBridge(t *testing.T, p *lab.Pod, w *world) {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br" + p.NodeLink.Name}}
	check(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { check(t, netlink.LinkDel(bridge)) })
	end, err := netlink.LinkByIndex(p.NodeLink.Index)
	check(t, err)
	check(t, netlink.LinkSetMaster(end, bridge))
	check(t, netlink.LinkSetUp(bridge))
	there, err := netlink.LinkByIndex(bridge.Index)
	check(t, err)
	w.Gateway = there.Attrs().HardwareAddr
	check(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", bridge.Name, "accept_source_route"), []byte("1"), 0))
}

// withTunnels gives the node an end of each kind of tunnel that its kernel has.
func withTunnels(t *testing.T, p *lab.Pod, w *world) {
	t.Helper()
	local, remote := w.GatewayAddr.AsSlice(), p.Address
	var have, lacks []string
	for _, l := range []netlink.Link{
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "t-vxlan"}, VxlanId: int(w.VNI), Port: 4789},
		&netlink.Geneve{LinkAttrs: netlink.LinkAttrs{Name: "t-geneve"}, ID: w.VNI, Remote: remote, Dport: 6081},
		&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "t-ipip"}, Local: local, Remote: remote},
		&netlink.Gretun{LinkAttrs: netlink.LinkAttrs{Name: "t-gre"}, Local: local, Remote: remote},
		&netlink.Sittun{LinkAttrs: netlink.LinkAttrs{Name: "t-sit"}, Local: local, Remote: remote},
	} {
		err := netlink.LinkAdd(l)
		if errors.Is(err, unix.EOPNOTSUPP) {
			lacks = append(lacks, l.Type())
			continue
		}
		check(t, err)
		t.Cleanup(func() { check(t, netlink.LinkDel(l)) })
		check(t, netlink.LinkSetUp(l))
		have = append(have, l.Type())
		if there, err := netlink.LinkByName(l.Attrs().Name); err == nil && l.Type() == "vxlan" {
			w.Tunnel = there.Attrs().HardwareAddr
		}
	}
	t.Logf("the node has %s; its kernel knows no %s", strings.Join(have, ", "), strings.Join(lacks, ", "))
}

// host counts the packets that the host with an address gets: those that its
// IP stack takes for its own, by raw sockets of all protocols.
type host struct {
	epoll int
	fds   []int

	mu    sync.Mutex
	count int
	first []string
}

func newHost(t *testing.T, a netip.Addr) *host {
	t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	check(t, err)
	h := &host{epoll: epoll}
	done := make(chan struct{})
	for protocol := 1; protocol < 255; protocol++ {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		check(t, err)
		h.fds = append(h.fds, fd)
		check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()}))
		check(t, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	stop := make(chan struct{})
	go func() { defer close(done); h.read(stop) }()
	t.Cleanup(func() {
		close(stop)
		<-done
		for _, fd := range append(h.fds, epoll) {
			unix.Close(fd)
		}
	})
	return h
}

func (h *host) read(stop <-chan struct{}) {
	events, packet := make([]unix.EpollEvent, 64), make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _ := unix.EpollWait(h.epoll, events, 50)
		for i := range max(n, 0) {
			for {
				size, _, err := unix.Recvfrom(int(events[i].Fd), packet, unix.MSG_DONTWAIT)
				if err != nil {
					break
				}
				h.note(packet[:size])
			}
		}
	}
}

func (h *host) note(packet []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	if len(h.first) < 3 {
		h.first = append(h.first, hex.EncodeToString(packet[:min(len(packet), 96)]))
	}
}

// seen returns how many packets came until none came any more, and the first
// of them.
func (h *host) seen() (count int, first string) {
	for last := -1; last != count; {
		last = count
		time.Sleep(300 * time.Millisecond)
		h.mu.Lock()
		count = h.count
		h.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, packet := range h.first {
		first += "\n" + packet
	}
	return count, first
}

// framing is what a process in a pod is to send.
type framing struct {
	World world
	Seed  uint64
	Count int
}

func init() { lab.Register("frames", sendFrames) }

// sockets are those that the frames go out by.
type sockets struct {
	raw, virtio, datagram, ip int
	ifindex                   int
}

func sendFrames(in framing) (struct{}, error) {
	none := struct{}{}
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return none, err
	}
	in.World.Pod = link.HardwareAddr
	s := sockets{ifindex: link.Index}
	for _, open := range []struct {
		fd                   *int
		family, kind, number int
	}{
		{&s.raw, unix.AF_PACKET, unix.SOCK_RAW, 0},
		{&s.virtio, unix.AF_PACKET, unix.SOCK_RAW, 0},
		{&s.datagram, unix.AF_PACKET, unix.SOCK_DGRAM, 0},
		{&s.ip, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW},
	} {
		if *open.fd, err = unix.Socket(open.family, open.kind, open.number); err != nil {
			return none, err
		}
	}
	const packetVnetHdr = 15
	if err := unix.SetsockoptInt(s.virtio, unix.SOL_PACKET, packetVnetHdr, 1); err != nil {
		return none, err
	}
	f := frames{Rand: rand.New(rand.NewPCG(in.Seed, 0)), world: in.World}
	for sent := 0; sent < in.Count; {
		for _, frame := range f.next() {
			s.send(f, frame)
			sent++
		}
	}
	return none, nil
}

// send sends the frame by one of the sockets. That the kernel refuses some is
// as good.
func (s *sockets) send(f frames, frame []byte) {
	to := &unix.SockaddrLinklayer{Ifindex: s.ifindex, Halen: 6, Addr: [8]byte(append(frame[:6:6], 0, 0))}
	if f.one(25) {
		to.Protocol = bigEndian(pick(f, uint16(unix.ETH_P_IP), unix.ETH_P_ARP, unix.ETH_P_ALL, unix.ETH_P_IPV6,
			unix.ETH_P_8021Q, unix.ETH_P_802_2, uint16(f.Uint32())))
	}
	switch n := f.IntN(100); {
	case n < 72:
		_ = unix.Sendto(s.raw, frame, 0, to)
	case n < 82:
		header := make([]byte, 10) // struct virtio_net_hdr
		if f.one(60) {
			header[0], header[1] = byte(f.IntN(2)), pick(f, byte(0), 1, 3, 4, 5)
			copy(header[2:], f.bytes(8))
			header[3], header[5], header[7], header[9] = 0, byte(f.IntN(6)), 0, 0
		}
		_ = unix.Sendto(s.virtio, append(header, frame...), 0, to)
	case n < 90:
		to.Protocol = bigEndian(uint16(frame[12])<<8 | uint16(frame[13]))
		_ = unix.Sendto(s.datagram, frame[14:], 0, to)
	case len(frame) >= 34:
		_ = unix.Sendto(s.ip, frame[14:], 0, &unix.SockaddrInet4{Addr: [4]byte(frame[30:34])})
	}
}

// sourceRouted sends a packet to the node that asks it to forward it to
// the metadata service.
func sourceRouted(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.guardedPod(t, steer, guard)
	followSourceRoutes(t, p)
	host := newHost(t, imds.Addr())
	_, err := lab.Run[routing, struct{}](t.Context(), p, "route by source", routing{addrPort(p.Address, 0).Addr(), gateway(p)})
	check(t, err)
	if arrived, _ := host.seen(); arrived > 0 {
		return arrives
	}
	return dropped
}

type routing struct{ From, Gateway netip.Addr }

func init() { lab.Register("route by source", routeBySource) }

func routeBySource(r routing) (struct{}, error) {
	f := frames{Rand: rand.New(rand.NewPCG(1, 1))}
	option := append([]byte{137, 7, 4}, imds.Addr().AsSlice()...)
	for {
		packet := f.packet(r.From, r.Gateway, unix.IPPROTO_UDP, 0, append(option, 0), f.udp(80, nil))
		if packet[0] != 0x47 || checksum(packet[:28]) != 0 || len(packet) != int(packet[3]) {
			continue // one of those that are wrong on purpose
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return struct{}{}, err
		}
		defer unix.Close(fd)
		err = unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: r.Gateway.As4()})
		if err != nil && !errors.Is(err, unix.EPERM) {
			return struct{}{}, fmt.Errorf("send: %w", err)
		}
		return struct{}{}, nil
	}
}

// TestRandomFrames goes on for as long as is asked for, each time with other
// frames.
func TestRandomFrames(t *testing.T) {
	for begin := time.Now(); ; {
		seed := rand.Uint64()
		for name, change := range map[string]layout{"routed": nil, "bridge": onBridge} {
			t.Run(name, func(t *testing.T) {
				arrived, first := tryFrames(t, options{}, change, seed, 5000)
				if arrived > 0 {
					t.Fatalf("seed %d: %d packets at the metadata service:%s", seed, arrived, first)
				}
			})
		}
		if t.Failed() || time.Since(begin) >= *frameTime {
			return
		}
	}
}
