package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

type decision = workload.Decision

// packetAttacks send to the metadata service without a connect() of TCP. Where
// one is expected to be dropped, nothing of it may arrive at the node.
func packetAttacks() []attack {
	sockets := map[guardMode]string{guardFull: dropped, guardSocket: dropped, guardOff: arrives}
	packets := map[guardMode]string{guardFull: dropped, guardSocket: arrives, guardOff: arrives}
	all := []attack{
		{name: "denied pod, UDP", expected: sockets, run: sending{}.from(deny)},
		{name: "denied pod, AF_PACKET", expected: packets, run: sending{Kind: sendFrame}.from(deny)},
		{name: "unknown pod, UDP", expected: sockets, run: sending{}.fromStranger},
		{name: "unknown pod, AF_PACKET", expected: packets, run: sending{Kind: sendFrame}.fromStranger},
		{
			name: "AF_PACKET, hand-made handshake", run: handshakeByHand(0),
			expected: map[guardMode]string{guardFull: dropped, guardSocket: nodeIdentity, guardOff: nodeIdentity},
		},
		{
			name: "AF_PACKET, handshake behind five tags", run: handshakeByHand(5),
			expected: map[guardMode]string{guardFull: dropped, guardSocket: nodeIdentity, guardOff: nodeIdentity},
			defence:  notUnderstood, success: nodeIdentity,
		},
		{
			name: "connection opened while the pod passed", run: oldConnection,
			expected: map[guardMode]string{guardFull: dropped, guardSocket: dropped, guardOff: nodeIdentity},
		},
		{
			name: "wire server", run: wireServer,
			expected: map[guardMode]string{
				guardFull: "none", guardSocket: "frame", guardOff: "raw socket, frame",
			},
		},
	}
	for _, way := range []struct {
		name string
		sending
	}{
		{"UDP, connect", sending{Kind: sendUDPConnected}},
		{"UDP, sendto", sending{Kind: sendUDP}},
		{"UDP, IPv4-mapped", sending{Kind: sendUDPMapped}},
		{"raw socket, IP_HDRINCL", sending{Kind: sendRaw}},
		{"raw socket, TCP SYN", sending{Kind: sendRaw, SYN: true}},
		{"raw socket, first fragment", sending{Kind: sendRaw, Fragment: true}},
	} {
		all = append(all, attack{name: way.name, expected: sockets, run: way.from(steer)})
	}
	for _, way := range []struct {
		name string
		sending
	}{
		{"AF_PACKET", sending{Kind: sendFrame}},
		{"AF_PACKET, priority tag", sending{Kind: sendFrame, Tags: 1}},
		{"AF_PACKET, two priority tags", sending{Kind: sendFrame, Tags: 2}},
		{"AF_PACKET, three priority tags", sending{Kind: sendFrame, Tags: 3}},
		{"AF_PACKET, past the queue", sending{Kind: sendFrame, Bypass: true}},
		{"AF_PACKET, first fragment", sending{Kind: sendFrame, Fragment: true}},
		{"AF_PACKET, source of another pod", sending{Kind: sendFrame, Spoof: true}},
	} {
		all = append(all, attack{name: way.name, expected: packets, run: way.from(steer)})
	}
	for _, tags := range []int{5, 9} { // more than are read
		all = append(all, attack{
			name: fmt.Sprintf("AF_PACKET, %d priority tags", tags), expected: packets,
			run: sending{Kind: sendFrame, Tags: tags}.from(steer), defence: notUnderstood, success: arrives,
		})
	}
	return all
}

// guardedPod starts a pod and waits until it is guarded as far as it will be.
func (n *node) guardedPod(t *testing.T, d decision, guard guardMode) *lab.Pod {
	t.Helper()
	p := n.pod(t, d, lab.PodOptions{})
	n.guarded(t, p, guard)
	return p
}

func (n *node) guarded(t *testing.T, p *lab.Pod, guard guardMode) {
	t.Helper()
	if guard != guardFull {
		return
	}
	eventually(t, "the pod's link is guarded", func() bool {
		n.delivery.Trigger()
		links, err := n.hooks.GuardedLinks()
		check(t, err)
		for _, ifindex := range links {
			if ifindex == p.NodeLink.Index {
				return true
			}
		}
		return false
	})
}

// handshake is a TCP connection made without the kernel, from an address that
// the pod's kernel does not know and therefore does not reset.
type handshake struct {
	From    netip.AddrPort
	Gateway net.HardwareAddr
	Tags    int // VLAN tags with id 0 before each of its packets
}

func init() {
	lab.Register("handshake", shakeHands)
	lab.Register("converse", converse)
}

func handshakeByHand(tags int) func(*testing.T, guardMode) string {
	return func(t *testing.T, guard guardMode) string {
		n := newNode(t, options{guard: guard})
		p := n.guardedPod(t, steer, guard)
		spare := net.IPv4(10, 200, byte(p.NodeLink.Index>>8), byte(p.NodeLink.Index)).To4()
		check(t, p.LendAddress(spare))
		got, err := lab.Run[handshake, string](t.Context(), p, "handshake",
			handshake{addrPort(spare, 40001), p.NodeLink.HardwareAddr, tags})
		check(t, err)
		if strings.Contains(got, `"imds"`) {
			return nodeIdentity
		}
		return got
	}
}

// shakeHands returns what the server said, or that nothing came.
func shakeHands(h handshake) (string, error) {
	w, err := openWire("eth0", h.Gateway, false)
	if err != nil {
		return "", err
	}
	defer w.close()
	s := segment{from: h.From, to: imds, seq: 1000, flags: flagSYN}
	if err := w.send(tcpPacket(s), h.Tags); err != nil {
		return "", err
	}
	answer, err := w.receive(h.From.Port(), time.Second)
	if err != nil {
		return dropped, nil
	}
	if answer.flags&(flagSYN|flagACK) != flagSYN|flagACK {
		return fmt.Sprintf("flags %#x", answer.flags), nil
	}
	s.seq, s.ack, s.flags = 1001, answer.seq+1, flagACK|flagPSH
	s.data = []byte("GET\n")
	if err := w.send(tcpPacket(s), h.Tags); err != nil {
		return "", err
	}
	for range 10 {
		answer, err := w.receive(h.From.Port(), time.Second)
		if err != nil {
			return "no data", nil
		}
		if len(answer.data) > 0 {
			return string(answer.data), nil
		}
	}
	return "no data", nil
}

// conversation is a connection on which a second question is asked once the
// file Go is there; Begun is made when the first was answered.
type conversation struct{ Begun, Go string }

func oldConnection(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, pass, lab.PodOptions{})
	c := conversation{filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "go")}
	said := make(chan string, 1)
	go func() {
		got, err := lab.Run[conversation, string](t.Context(), p, "converse", c)
		if err != nil {
			got = err.Error()
		}
		said <- got
	}()
	eventually(t, "the first answer", func() bool { return exists(c.Begun) })
	n.pods.set(workload.Pod{UID: p.UID, Name: p.UID, Decision: steer})
	n.settled(t, p.Cgroup, workload.Steer)
	check(t, os.WriteFile(c.Go, nil, 0o600))
	return <-said
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func converse(c conversation) (string, error) {
	conn, err := net.DialTimeout("tcp4", imds.String(), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buffer := make([]byte, 256)
	if _, err := conn.Read(buffer); err != nil {
		return "", err
	}
	if err := os.WriteFile(c.Begun, nil, 0o600); err != nil {
		return "", err
	}
	for range 1000 {
		if exists(c.Go) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := conn.Write([]byte("again\n")); err != nil {
		return dropped, nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if n, err := conn.Read(buffer); err != nil || n == 0 {
		return dropped, nil
	}
	return nodeIdentity, nil
}

// wireServer tries what leads to the wire server from a pod that may reach the
// metadata service but not that, and says which ways work. Its DNS is open.
func wireServer(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	server := netip.MustParseAddrPort("168.63.129.16:80")
	ownAddress(t, server.Addr())
	l, err := net.Listen("tcp4", server.String())
	check(t, err)
	t.Cleanup(func() { l.Close() })
	p := n.guardedPod(t, decision{Verdict: workload.Pass, DenyWireServer: true}, guard)
	free := n.pod(t, pass, lab.PodOptions{})
	if got := dialFrom(t, free, dialing{To: server, Silent: true}); got.Errno != 0 {
		return "a pod that may is refused: " + unix.ErrnoName(got.Errno)
	}
	if n.sends(t, p, sending{To: netip.AddrPortFrom(server.Addr(), 53)}) != arrives {
		return "DNS is dropped"
	}
	var open []string
	for _, d := range []dialing{{To: server}, {To: server, Mapped: true}, {To: netip.AddrPortFrom(server.Addr(), 32526)}} {
		d.Silent = true
		if got := dialFrom(t, p, d); got.Errno != unix.EPERM {
			open = append(open, "connect")
		}
	}
	if n.sends(t, p, sending{Kind: sendRaw, SYN: true, To: server}) == arrives {
		open = append(open, "raw socket")
	}
	if n.sends(t, p, sending{Kind: sendFrame, SYN: true, To: server}) == arrives {
		open = append(open, "frame")
	}
	if len(open) == 0 {
		return "none"
	}
	return strings.Join(open, ", ")
}

// ownAddress makes the address the lab node's, so that nothing sent to it can
// leave the lab.
func ownAddress(t testing.TB, a netip.Addr) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{
		IP: a.AsSlice(), Mask: net.CIDRMask(32, 32),
	}}))
}
