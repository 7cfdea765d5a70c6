package kernel

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const secondLine = "second line"

// lineAttacks have the node itself route to the metadata service, or the wire
// server, what the guards at sockets and links saw under another address, or
// did not see at all.
func lineAttacks() []attack {
	var all []attack
	for _, a := range []struct {
		name    string
		success string
		run     func(*testing.T) string
	}{
		{"Service in front of the metadata service", nodeIdentity, serviceOfIMDS},
		{"Service in front of it, source of a neighbour on the bridge", arrives, neighboursAddress},
		{"Service in front of the denied wire server", "reaches the wire server", serviceOfWireServer},
		{"tunnel that ends on the node (VXLAN)", arrives, tunnel},
		{"pod of another node, routed by this one", nodeIdentity, remotePod},
		{"AF_PACKET, pod started while no agent runs", arrives, strangerWithoutAgent(0)},
		{"AF_PACKET behind nine tags, no agent", arrives, strangerWithoutAgent(9)},
	} {
		all = append(all, attack{
			name: a.name, expected: always(dropped), defence: secondLine, success: a.success,
			run: func(t *testing.T, _ guardMode) string { return a.run(t) },
		})
	}
	return all
}

func serviceOfIMDS(t *testing.T) string {
	n := newLined(t, nil)
	exposes(t, imds)
	var all []string
	for _, d := range []decision{deny, steer} {
		p := n.guardedPod(t, d, guardFull)
		all = append(all, seenBy(p, dialFrom(t, p, dialing{To: vip, Impatient: true})))
	}
	p := n.stranger(t, lab.PodOptions{})
	return worst(dropped, append(all, seenBy(p, dialFrom(t, p, dialing{To: vip, Impatient: true})))...)
}

func serviceOfWireServer(t *testing.T) string {
	n := newLined(t, func(s *intercept.Settings) { s.DenyWireServer = true })
	server := netip.MustParseAddrPort("168.63.129.16:80")
	ownAddress(t, server.Addr())
	n.serve(t, server, answerAsIMDS)
	exposes(t, server)
	free := n.pod(t, pass, lab.PodOptions{})
	passes(t, "a pod that may reach the wire server", dialFrom(t, free, dialing{To: vip}))
	passes(t, "the same, straight", dialFrom(t, free, dialing{To: server}))
	p := n.guardedPod(t, decision{Verdict: workload.Pass, DenyWireServer: true}, guardFull)
	got := dialFrom(t, p, dialing{To: vip, Impatient: true})
	if got.Answer.UID == "imds" {
		return "reaches the wire server"
	}
	return seenBy(p, got)
}

// neighboursAddress is of a denied pod that writes the address of one that
// passes in its packets, on the bridge that both are on.
func neighboursAddress(t *testing.T) string {
	n := newLined(t, nil)
	service := netip.AddrPortFrom(imds.Addr(), 80)
	arrived := countUDP(t, service)
	exposes(t, service)
	victim, p := n.pod(t, pass, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	b := bridged(t, victim, p)
	n.guarded(t, p, guardFull)
	up, err := netlink.LinkByIndex(b.Index)
	check(t, err)
	s := sending{
		Kind: sendFrame, Link: "eth0", To: vip, From: addrPort(victim.Address, 0).Addr(), Gateway: up.Attrs().HardwareAddr,
	}
	_, err = lab.Run[sending, string](t.Context(), p, "send", s)
	check(t, err)
	return arrived.seen()
}

// seen is the outcome of an attack that sends one datagram.
func (d *datagrams) seen() string {
	if d.arrives(300 * time.Millisecond) {
		return arrives
	}
	return dropped
}

// tunnel is of a pod that sends to the node's end of a VXLAN tunnel, as each
// node of a cluster has one. It needs no capability.
func tunnel(t *testing.T) string {
	n := newLined(t, nil)
	arrived := countUDP(t, imds)
	p := n.guardedPod(t, deny, guardFull)
	end := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472, Learning: false}
	check(t, netlink.LinkAdd(end))
	t.Cleanup(func() { netlink.LinkDel(end) })
	check(t, netlink.LinkSetUp(end))
	check(t, netlink.AddrAdd(end, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 244, 0, 1), Mask: net.CIDRMask(16, 32)}}))
	up, err := netlink.LinkByIndex(end.Index)
	check(t, err)
	_, err = lab.Run[tunneling, struct{}](t.Context(), p, "tunnel", tunneling{
		Node: gatewayOf(p), MAC: up.Attrs().HardwareAddr, From: netip.MustParseAddr("10.244.7.7"),
	})
	check(t, err)
	return arrived.seen()
}

// gatewayOf returns the node's address on the pod's link.
func gatewayOf(p *lab.Pod) netip.AddrPort {
	ip := p.Address.To4()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{ip[0], ip[1], ip[2], ip[3] - 1}), 8472)
}

// tunneling is one datagram to the metadata service, inside of one to the
// node's end of a tunnel.
type tunneling struct {
	Node netip.AddrPort
	MAC  net.HardwareAddr // of that end
	From netip.Addr
}

func init() { lab.Register("tunnel", sendTunneled) }

func sendTunneled(o tunneling) (struct{}, error) {
	frame := []byte{0x08, 0, 0, 0, 0, 0, 1, 0} // VXLAN: the identifier is there, and is 1
	frame = append(append(frame, o.MAC...), 2, 0, 0, 0, 0, 1)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
	frame = append(frame, udpPacket(netip.AddrPortFrom(o.From, 40000), imds, false)...)
	c, err := net.Dial("udp4", o.Node.String())
	if err != nil {
		return struct{}{}, err
	}
	defer c.Close()
	_, err = c.Write(frame)
	return struct{}{}, err
}

// remotePod is of a pod that is below no kubepods of this node, and whose
// packets the node is asked to route.
func remotePod(t *testing.T) string {
	newLined(t, nil)
	remote, err := lab.NewNode(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, remote.Close()) })
	p, err := remote.StartPod(lab.PodOptions{})
	check(t, err)
	return seenBy(p, dialFrom(t, p, dialing{To: imds, Impatient: true}))
}

// strangerWithoutAgent is of a pod whose link is not guarded yet, behind so
// many VLAN tags with id 0.
func strangerWithoutAgent(tags int) func(*testing.T) string {
	return func(t *testing.T) string {
		n := newLined(t, nil)
		arrived := countUDP(t, imds)
		n.stop()
		p := n.stranger(t, lab.PodOptions{})
		_, err := lab.Run[sending, string](t.Context(), p, "send", sending{
			Kind: sendFrame, Link: "eth0", To: imds, From: addrPort(p.Address, 0).Addr(),
			Gateway: p.NodeLink.HardwareAddr, Tags: tags,
		})
		check(t, err)
		return arrived.seen()
	}
}
