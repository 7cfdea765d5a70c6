package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// makeLine returns the node's second line, nil if it is to have none. It keeps
// itself until the agent is stopped, as the agent's does.
func (n *node) makeLine(t *testing.T, o options) delivery.Line {
	if !o.line {
		return nil
	}
	t.Cleanup(func() { removeLine(t) }) // the tests share a network namespace
	n.line = routeguard.New(routeguard.Options{Log: quiet(), Repaired: func() { n.repairs.Add(1) }, Failed: func(err error) { t.Error(err) }})
	if err := n.line.SetPolicy(linePolicy(n.settings)); err != nil {
		panic(err)
	}
	return n.line
}

func linePolicy(s intercept.Settings) routeguard.Policy {
	return routeguard.Policy{Open: s.Audit, UnknownPass: s.UnknownPass, DenyWireServer: s.DenyWireServer}
}

// newLined returns a node with the full guard and the second line.
func newLined(t *testing.T, settings func(*intercept.Settings)) *node {
	t.Helper()
	n := newNode(t, options{line: true, settings: settings})
	n.keepLine(t)
	eventually(t, "the second line is there", func() bool { return lineThere(t) })
	return n
}

// keepLine has the line put back where others change it, until the test ends or
// leave is called.
func (n *node) keepLine(t *testing.T) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	line := n.line
	go func() { done <- line.Run(ctx) }()
	leave = sync.OnceFunc(func() { cancel(); check(t, <-done) })
	t.Cleanup(leave)
	return leave
}

func lineThere(t *testing.T) bool {
	t.Helper()
	all, err := routeguard.Leftovers()
	check(t, err)
	return len(all) > 0
}

func removeLine(t *testing.T) {
	t.Helper()
	all, err := routeguard.Leftovers()
	check(t, err)
	for _, l := range all {
		check(t, l.Remove())
	}
}

// vip is the address of a Service, which only DNAT knows.
var vip = netip.MustParseAddrPort("10.96.0.10:80")

// kubeProxyNFT are a Service's rules as kube-proxy writes them in its nftables
// mode; to is the EndpointSlice's address.
func kubeProxyNFT(to netip.AddrPort) string {
	return strings.NewReplacer("VIP", vip.Addr().String(), "TO", to.String()).Replace(`
add table ip kube-proxy
flush table ip kube-proxy
table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
	}
	chain endpoint {
		meta l4proto tcp dnat to TO
		meta l4proto udp dnat to TO
	}
	chain service {
		numgen random mod 1 vmap { 0 : goto endpoint }
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
}
add element ip kube-proxy service-ips { VIP . tcp . 80 : goto service, VIP . udp . 80 : goto service }
`)
}

// exposes has a Service lead to the address, until the test ends.
func exposes(t *testing.T, to netip.AddrPort) {
	t.Helper()
	nft(t, nodeNetns, kubeProxyNFT(to))
	t.Cleanup(func() { nft(t, nodeNetns, "delete table ip kube-proxy") })
	// The node's own packets need a way before they are translated.
	check(t, netlink.RouteReplace(&netlink.Route{LinkIndex: 1, Dst: &net.IPNet{IP: vip.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}}))
}

// datagrams counts the datagrams that come to an address of the node's.
type datagrams struct{ n atomic.Int64 }

// countUDP listens at the address, which is made the node's.
func countUDP(t *testing.T, at netip.AddrPort) *datagrams {
	t.Helper()
	ownAddress(t, at.Addr())
	c, err := net.ListenPacket("udp4", at.String())
	check(t, err)
	t.Cleanup(func() { c.Close() })
	var n datagrams
	go func() {
		for buffer := make([]byte, 2048); ; {
			if _, _, err := c.ReadFrom(buffer); err != nil {
				return
			}
			n.n.Add(1)
		}
	}()
	return &n
}

// arrives reports whether a datagram comes within the time.
func (c *datagrams) arrives(within time.Duration) bool {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if c.n.Load() > 0 {
			return true
		}
	}
	return false
}

// bridged puts pods' links on a bridge of the node's, as the CNI plugin bridge
// does; the pods' gateways become the bridge's addresses.
func bridged(t *testing.T, pods ...*lab.Pod) *netlink.Bridge {
	t.Helper()
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	check(t, netlink.LinkAdd(b))
	t.Cleanup(func() { netlink.LinkDel(b) })
	check(t, netlink.LinkSetUp(b))
	for _, p := range pods {
		port, err := netlink.LinkByIndex(p.NodeLink.Index)
		check(t, err)
		addresses, err := netlink.AddrList(port, netlink.FAMILY_V4)
		check(t, err)
		for _, a := range addresses {
			check(t, netlink.AddrDel(port, &a))
			check(t, netlink.AddrAdd(b, &netlink.Addr{IPNet: a.IPNet}))
		}
		check(t, netlink.LinkSetMaster(port, b))
	}
	return b
}

// passes fails the test unless the pod reaches the metadata service.
func passes(t *testing.T, what string, got dialed) {
	t.Helper()
	if got.Answer.UID != "imds" {
		t.Errorf("%s: %+v, want the node's metadata service", what, got)
	}
}

func TestSecondLineLetsPassWhoPasses(t *testing.T) {
	n := newLined(t, nil)
	exposes(t, imds)
	p, host := n.pod(t, pass, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	passes(t, "a pod that passes", dialFrom(t, p, dialing{To: imds}))
	passes(t, "by a Service", dialFrom(t, p, dialing{To: vip}))
	passes(t, "a pod on the node's network", dialFrom(t, host, dialing{To: imds}))
	own, err := dial(dialing{To: imds})
	check(t, err)
	passes(t, "a process of the node", own)
	own, err = dial(dialing{To: vip})
	check(t, err)
	passes(t, "a process of the node, by a Service", own)
	steered := n.pod(t, steer, lab.PodOptions{})
	if got := dialFrom(t, steered, dialing{To: imds}); got.Answer.UID != steered.UID {
		t.Errorf("a steered pod got %+v", got)
	}
	n.stop() // and while no agent runs
	passes(t, "a pod that passes, no agent", dialFrom(t, p, dialing{To: imds}))
}

func TestSecondLineOnABridge(t *testing.T) {
	n := newLined(t, nil)
	exposes(t, imds)
	p, denied := n.pod(t, pass, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	bridged(t, p, denied)
	n.delivery.Trigger() // events will tell that a link has become a port
	n.guarded(t, p, guardFull)
	passes(t, "on a bridge", dialFrom(t, p, dialing{To: imds}))
	passes(t, "on a bridge, by a Service", dialFrom(t, p, dialing{To: vip}))
	if got := dialFrom(t, denied, dialing{To: vip, Impatient: true}); seenBy(denied, got) != dropped {
		t.Errorf("a denied pod on a bridge, by a Service: %s", seenBy(denied, got))
	}
}

// A pod that passes is held until the second line lets it through: its first
// packet is not dropped.
func TestFirstPacketOfAPodThatPasses(t *testing.T) {
	n := newLined(t, nil)
	for range 30 {
		p := n.stranger(t, lab.PodOptions{})
		n.pods.set(workload.Pod{UID: p.UID, Name: p.UID, Decision: pass})
		n.settled(t, p.Cgroup, workload.Pass)
		if got := dialFrom(t, p, dialing{To: imds, Impatient: true}); got.Answer.UID != "imds" {
			t.Fatalf("the first connect of a pod that passes: %+v", got)
		}
		check(t, p.Stop())
	}
	if drops, ok := routeguard.Drops(); !ok || drops != 0 {
		t.Errorf("%d packets were dropped (%v), want 0", drops, ok)
	}
}

func TestConfigurationOpensTheSecondLine(t *testing.T) {
	for name, tc := range map[string]struct {
		settings         func(*intercept.Settings)
		denied, stranger string
	}{
		"mode audit":   {func(s *intercept.Settings) { s.Audit = true }, nodeIdentity, nodeIdentity},
		"unknown pass": {func(s *intercept.Settings) { s.UnknownPass = true }, dropped, nodeIdentity},
		"unknown hold": {nil, dropped, dropped},
	} {
		t.Run(name, func(t *testing.T) {
			n := newLined(t, tc.settings)
			exposes(t, imds)
			denied, stranger := n.pod(t, deny, lab.PodOptions{}), n.stranger(t, lab.PodOptions{})
			n.guarded(t, denied, guardFull)
			passes(t, "a pod that passes", dialFrom(t, n.pod(t, pass, lab.PodOptions{}), dialing{To: vip}))
			for p, want := range map[*lab.Pod]string{denied: tc.denied, stranger: tc.stranger} {
				if got := seenBy(p, dialFrom(t, p, dialing{To: vip, Impatient: true})); got != want {
					t.Errorf("denied %t: %s, want %s", p == denied, got, want)
				}
			}
		})
	}
}

func TestSecondLineIsPutBack(t *testing.T) {
	n := newLined(t, nil)
	exposes(t, imds)
	p, denied := n.pod(t, pass, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	for what, script := range map[string]string{
		"flush ruleset": "flush ruleset\n" + kubeProxyNFT(imds),
		"table gone":    "delete table ip sidestep",
		"rules flushed": "flush table ip sidestep",
		"chain flushed": "flush chain ip sidestep imds",
		"another rule":  "insert rule ip sidestep imds accept",
		"set flushed":   "flush set ip sidestep imds_links",
	} {
		before := n.repairs.Load()
		nft(t, nodeNetns, script)
		eventually(t, what+": it is repaired", func() bool { return n.repairs.Load() > before })
		passes(t, what, dialFrom(t, p, dialing{To: imds}))
		if got := seenBy(denied, dialFrom(t, denied, dialing{To: vip, Impatient: true})); got != dropped {
			t.Errorf("%s: a denied pod: %s", what, got)
		}
	}
}

// What an earlier agent left stays until this one knows as much.
func TestNextAgentAdoptsTheSecondLine(t *testing.T) {
	n := newNode(t, options{line: true})
	leave := n.keepLine(t)
	eventually(t, "the second line is there", func() bool { return lineThere(t) })
	exposes(t, imds)
	p, denied := n.pod(t, pass, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	n.stop()
	leave() // two agents are two processes: nftables counts sets in a variable of its own
	next := routeguard.New(routeguard.Options{Log: quiet(), Repaired: func() {}, Failed: func(err error) { t.Error(err) }})
	check(t, next.Hold())
	if state, err := next.State(); state != routeguard.Waiting || err != nil {
		t.Errorf("state %s, %v; want it to wait", state, err)
	}
	passes(t, "held by another's table", dialFrom(t, p, dialing{To: imds}))
	n.startAgain(t)
	eventually(t, "the next agent has written it", func() bool {
		state, _ := n.line.State()
		return state == routeguard.Active
	})
	passes(t, "the next agent's", dialFrom(t, p, dialing{To: imds}))
	if got := seenBy(denied, dialFrom(t, denied, dialing{To: vip, Impatient: true})); got != dropped {
		t.Errorf("a denied pod: %s", got)
	}
}

// What the node forwards over its uplink is treated as what it has itself: the
// wire server is in another namespace here, and refuses who gets through.
func TestSecondLineBeyondTheUplink(t *testing.T) {
	n := newLined(t, func(s *intercept.Settings) { s.DenyWireServer = true })
	server := netip.MustParseAddrPort("168.63.129.16:80")
	address := &net.IPNet{IP: server.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	_ = netlink.AddrDel(lo, &netlink.Addr{IPNet: address}) // another test's
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	beyond, err := lab.NewNode(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, beyond.Close()) })
	up, err := beyond.StartPod(lab.PodOptions{})
	check(t, err)
	check(t, up.AddAddress(address.IP))
	check(t, netlink.RouteReplace(&netlink.Route{LinkIndex: up.NodeLink.Index, Dst: address, Gw: up.Address}))
	exposes(t, server)
	free := n.pod(t, pass, lab.PodOptions{})
	denied := n.guardedPod(t, decision{Verdict: workload.Pass, DenyWireServer: true}, guardFull)
	for _, tc := range []struct {
		who  string
		p    *lab.Pod
		to   netip.AddrPort
		want unix.Errno
	}{
		{"a pod that may", free, server, unix.ECONNREFUSED},
		{"a pod that may, by a Service", free, vip, unix.ECONNREFUSED},
		{"a denied pod, by a Service", denied, vip, unix.ETIMEDOUT},
	} {
		if got := dialFrom(t, tc.p, dialing{To: tc.to, Impatient: true}); got.Errno != tc.want {
			t.Errorf("%s: %+v, want %v", tc.who, got, tc.want)
		}
	}
	if got, err := dial(dialing{To: server, Impatient: true}); err != nil || got.Errno != unix.ECONNREFUSED {
		t.Errorf("a process of the node: %+v, %v", got, err)
	}
}

// Where nothing is known everything is held, but for the node itself.
func TestSecondLineHolds(t *testing.T) {
	n := newNode(t, options{guard: guardOff})
	exposes(t, imds)
	p := n.pod(t, pass, lab.PodOptions{})
	t.Cleanup(func() { removeLine(t) })
	line := routeguard.New(routeguard.Options{Log: quiet(), Repaired: func() {}, Failed: func(err error) { t.Error(err) }})
	check(t, line.Hold())
	for _, to := range []netip.AddrPort{imds, vip} {
		if got := seenBy(p, dialFrom(t, p, dialing{To: to, Impatient: true})); got != dropped {
			t.Errorf("to %s: %s", to, got)
		}
	}
	own, err := dial(dialing{To: imds})
	check(t, err)
	passes(t, "a process of the node", own)
	if drops, ok := routeguard.Drops(); !ok || drops == 0 {
		t.Errorf("counted %d (%v), want the drops", drops, ok)
	}
	removeLine(t)
	if lineThere(t) {
		t.Error("the table is there after it was removed")
	}
	passes(t, "after its removal", dialFrom(t, p, dialing{To: imds}))
	check(t, routeguard.Try())
	if lineThere(t) {
		t.Error("to try it has left a table")
	}
}

// On a node whose packets bypass netfilter there is no table, and one that was
// there is removed by the agent that writes; no pod that passes waits for it.
func TestWithdrawnSecondLine(t *testing.T) {
	n := newLined(t, nil)
	p := n.pod(t, pass, lab.PodOptions{})
	why := errors.New("the node's label")
	n.line.Withdraw(why)
	eventually(t, "the table is removed", func() bool { return !lineThere(t) })
	if state, err := n.line.State(); state != routeguard.None || !errors.Is(err, why) {
		t.Errorf("state %s, %v", state, err)
	}
	passes(t, "without a second line", dialFrom(t, p, dialing{To: imds}))
	passes(t, "a pod that came later", dialFrom(t, n.pod(t, pass, lab.PodOptions{}), dialing{To: imds}))
	check(t, n.line.Hold())
	check(t, n.line.SetPolicy(routeguard.Policy{DenyWireServer: true}))
	if lineThere(t) {
		t.Error("a line that was withdrawn was written")
	}
}
