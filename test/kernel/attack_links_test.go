package kernel

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	laterLinks  = "links that come later"
	pastTheNode = "links past the node"

	notGuarded    = "reaches it, and is reported"
	notSaid       = "REACHES IT, NOT REPORTED"
	laterLinkWait = 4 * time.Second // less than until the next thorough look without a trigger
)

// linkAttacks send over links that their pod did not have when it started.
func linkAttacks() []attack {
	reported := map[guardMode]string{guardFull: notGuarded}
	return []attack{
		{
			name: "AF_PACKET, a link that was added later", run: addedLink,
			expected: map[guardMode]string{guardFull: dropped, guardSocket: arrives, guardOff: arrives},
			defence:  laterLinks, success: arrives,
		},
		{
			name: "veth into the node's namespace", with: defaultAnd("NET_ADMIN"), run: ownLink(false),
			expected: map[guardMode]string{guardFull: dropped, guardSocket: arrives, guardOff: arrives},
			defence:  laterLinks, success: arrives,
		},
		{
			name: "veth into the node's namespace, hostUsers: false", with: defaultAnd("NET_ADMIN"), run: ownLink(true),
			expected: always(eperm),
		},
		{
			// Who may do this has the node's network, and so its identity.
			name: "macvlan on the node's uplink", with: defaultAnd("NET_ADMIN"), run: ownMacvlan,
			expected: reported, defence: pastTheNode, success: notSaid,
		},
	}
}

func addedLink(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.guardedPod(t, steer, guard)
	end, err := p.AddLink("eth1")
	check(t, err)
	n.awaitGuard(t, end.Index, guard)
	return n.sendsOver(t, p, sending{Kind: sendFrame}, "eth1", end)
}

// awaitGuard gives the agent the time that it needs to guard a link.
func (n *node) awaitGuard(t *testing.T, ifindex int, guard guardMode) (guarded bool) {
	t.Helper()
	for deadline := time.Now().Add(laterLinkWait); guard == guardFull && time.Now().Before(deadline); {
		links, err := n.hooks.GuardedLinks()
		check(t, err)
		if slices.Contains(links, ifindex) {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

// intrusion is what a process makes that may make links in a namespace that
// another of its links leads to.
type intrusion struct {
	Lower int // the index of a link there to make a macvlan on; 0: a pair
}

type intruded struct {
	Errno unix.Errno
	Name  string // of the end in the pod
	Index int    // of the other end
}

func init() { lab.Register("intrude", intrude) }

func ownLink(userNamespace bool) func(*testing.T, guardMode) string {
	return func(t *testing.T, guard guardMode) string {
		n := newNode(t, options{guard: guard})
		p := n.pod(t, steer, lab.PodOptions{UserNamespace: userNamespace})
		n.guarded(t, p, guard)
		got, err := lab.Run[intrusion, intruded](t.Context(), p, "intrude", intrusion{})
		check(t, err)
		switch got.Errno {
		case 0:
		case unix.EPERM:
			return eperm
		default:
			return "refused (" + unix.ErrnoName(got.Errno) + ")"
		}
		end, err := netlink.LinkByIndex(got.Index)
		check(t, err)
		t.Cleanup(func() { _ = netlink.LinkDel(end) }) // it may have gone with the pod
		n.awaitGuard(t, got.Index, guard)
		return n.sendsOver(t, p, sending{Kind: sendFrame}, got.Name, *end.Attrs())
	}
}

// ownMacvlan makes a link on the node's uplink, here one of a pair of which the
// other end stands for what is behind the uplink.
func ownMacvlan(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.guardedPod(t, steer, guard)
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "behind"}
	check(t, netlink.LinkAdd(uplink))
	t.Cleanup(func() { check(t, netlink.LinkDel(uplink)) })
	check(t, netlink.LinkSetUp(uplink))
	behind, err := netlink.LinkByName(uplink.PeerName)
	check(t, err)
	check(t, netlink.LinkSetUp(behind))
	got, err := lab.Run[intrusion, intruded](t.Context(), p, "intrude", intrusion{Lower: uplink.Index})
	check(t, err)
	if got.Errno != 0 {
		return "refused (" + unix.ErrnoName(got.Errno) + ")"
	}
	reported := false
	for deadline := time.Now().Add(laterLinkWait); !reported && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		reported = n.delivery.Unguarded()[p.UID] != nil
	}
	switch arrived := n.sendsOver(t, p, sending{Kind: sendFrame}, got.Name, *behind.Attrs()) == arrives; {
	case !arrived:
		return dropped
	case reported:
		return notGuarded
	}
	return notSaid
}

// intrude makes the link, and brings both ends up.
func intrude(in intrusion) (out intruded, err error) {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return out, err
	}
	out.Name = "own0"
	if in.Lower != 0 {
		err = addMacvlan(out.Name, eth0.Attrs().NetNsID, in.Lower)
	} else {
		out.Index, err = addPair(out.Name, eth0.Attrs().NetNsID)
	}
	if errors.As(err, &out.Errno) {
		return out, nil
	}
	return out, err
}

// addPair makes a pair of links here, and has one end moved to the namespace
// with the id and brought up there. It returns that end's index.
func addPair(name string, nsid int) (int, error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return 0, err
	}
	peer, err := netlink.LinkByName(pair.PeerName)
	if err != nil {
		return 0, err
	}
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	up := nl.NewIfInfomsg(unix.AF_UNSPEC)
	up.Index, up.Flags, up.Change = int32(peer.Attrs().Index), unix.IFF_UP, unix.IFF_UP
	request.AddData(up)
	request.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(nsid))))
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return 0, err
	}
	own, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return own.Attrs().ParentIndex, nil
}

// addMacvlan makes a link on one of the namespace with the id.
func addMacvlan(name string, nsid, ifindex int) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	request.AddData(nl.NewRtAttr(unix.IFLA_LINK_NETNSID, nl.Uint32Attr(uint32(nsid))))
	request.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(ifindex))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("macvlan"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(nl.MACVLAN_MODE_BRIDGE))
	request.AddData(info)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	own, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(own)
}

// A netkit pair is guarded at the pod's end, from the node's. Kernels have it
// from Linux 6.7 on, where they are built so.
func TestNetkitIsGuarded(t *testing.T) {
	for guard, want := range map[guardMode]string{guardFull: dropped, guardOff: arrives} {
		t.Run(guard.String(), func(t *testing.T) {
			n := newNode(t, options{guard: guard})
			p := n.guardedPod(t, steer, guard)
			end, err := p.AddNetkit("eth1")
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("this kernel has no netkit")
			}
			check(t, err)
			n.awaitGuard(t, end.Index, guard)
			if got := n.sendsOver(t, p, sending{Kind: sendFrame}, "eth1", end); got != want {
				t.Errorf("a frame to the metadata service %s, want that it is %s", got, want)
			}
		})
	}
}

// The time from when a link is there until it is guarded.
func TestLaterLinksAreGuardedSoon(t *testing.T) {
	n := newNode(t, options{})
	p := n.guardedPod(t, steer, guardFull)
	const tries = 20
	var took []time.Duration
	for i := range tries {
		begin := time.Now()
		end, err := p.AddLink("later" + string(rune('a'+i)))
		check(t, err)
		if !n.awaitGuard(t, end.Index, guardFull) {
			t.Fatalf("link %d is not guarded after %s", i, laterLinkWait)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("guarded after %s at the median, %s at most, counted from before they were made", took[tries/2], took[tries-1])
}

// Events that were lost, here as nothing read them, are made up for.
func TestLinksWhileNobodyFollowed(t *testing.T) {
	n := newNode(t, options{})
	p := n.guardedPod(t, steer, guardFull)
	n.stop()
	end, err := p.AddLink("eth1")
	check(t, err)
	n.startAgain(t)
	eventually(t, "the link is guarded", func() bool { return n.awaitGuard(t, end.Index, guardFull) })
}

// A link that the node keeps for itself is no pod's.
func TestOtherLinksAreLeftAlone(t *testing.T) {
	n := newNode(t, options{})
	passing := n.pod(t, pass, lab.PodOptions{})
	end, err := passing.AddLink("eth1")
	check(t, err)
	own := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "own"}, PeerName: "own-peer"}
	check(t, netlink.LinkAdd(own))
	t.Cleanup(func() { check(t, netlink.LinkDel(own)) })
	p := n.guardedPod(t, steer, guardFull)
	links, err := n.hooks.GuardedLinks()
	check(t, err)
	if !slices.Equal(links, []int{p.NodeLink.Index}) {
		t.Errorf("guarded: %v, want %d alone, not %d, %d or %d", links, p.NodeLink.Index, own.Index,
			end.Index, passing.NodeLink.Index)
	}
}
