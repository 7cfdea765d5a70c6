package delivery

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// newGuarding returns a reconciler of three pods, whose links are known: only
// the one that passes may send everything.
func newGuarding(t *testing.T) (*Reconciler, *kernel, *node) {
	t.Helper()
	k, n := newKernel(), &node{}
	for id, p := range map[uint64]workload.Pod{
		1: {UID: "passes", Decision: pass}, 2: {UID: "denied", Decision: deny}, 3: {UID: "host", HostNetwork: true, Decision: deny},
	} {
		n.run(id, p)
	}
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "stranger", CgroupID: 4, Path: "stranger"})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	for uid, ifindex := range map[string]int{"passes": 11, "denied": 12, "host": 13, "stranger": 14} {
		r.guard.links[uid] = podLinks{ifindexes: []int{ifindex}}
	}
	r.reconcile(false)
	r.guard.look()
	return r, k, n
}

func wantGuarded(t *testing.T, k *kernel, want map[int]uint64) {
	t.Helper()
	if diff := cmp.Diff(want, k.guarded); diff != "" {
		t.Errorf("guarded links (-want +got):\n%s", diff)
	}
}

func TestGuardFollowsTheVerdicts(t *testing.T) {
	r, k, n := newGuarding(t)
	wantGuarded(t, k, map[int]uint64{12: 2, 14: 4})
	for i := range n.pods {
		if n.pods[i].UID == "denied" {
			n.pods[i].Decision = pass
		}
	}
	n.cgroups = n.cgroups[:3]
	r.reconcile(false)
	r.guard.look()
	wantGuarded(t, k, map[int]uint64{})
}

func TestGuardThatFailsIsReportedAndTriedAgain(t *testing.T) {
	r, k, _ := newGuarding(t)
	k.behind = true
	clear(r.guard.guarded)
	r.guard.look()
	if got := r.Unguarded(); got["denied"] == nil || got["stranger"] == nil || len(got) != 2 {
		t.Errorf("unguarded: %v, want denied and stranger", got)
	}
	k.behind = false
	r.guard.look()
	if got := r.Unguarded(); len(got) != 0 {
		t.Errorf("unguarded: %v, want none", got)
	}
}

// A verdict does not wait for a link: nothing looks for one in a pass.
func TestPassLooksForNoLinks(t *testing.T) {
	r, k, _ := newGuarding(t)
	clear(r.guard.links)
	r.reconcile(true)
	wantGuarded(t, k, map[int]uint64{12: 2, 14: 4})
	r.guard.look()
	wantGuarded(t, k, map[int]uint64{}) // the pods have no namespaces here
}

func TestLinkThatWentIsLookedForAnew(t *testing.T) {
	r, k, _ := newGuarding(t)
	k.gone = 12
	clear(r.guard.guarded)
	if soon := r.guard.look(); soon == 0 {
		t.Error("it is not looked for again")
	}
	if diff := cmp.Diff([]int{}, r.guard.links["denied"].ifindexes); diff != "" {
		t.Errorf("the link that went is kept (-want +got):\n%s", diff)
	}
	if _, kept := k.guarded[12]; kept {
		t.Error("its guard is kept in the books")
	}
}

// What others did to a guard shows with the next thorough look.
func TestThoroughLookGuardsOnceMore(t *testing.T) {
	pod := startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {pod}}}
	n.run(1, workload.Pod{UID: "one", Decision: steer})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	const link = 7
	r.guard.linksOf = func(ns, _ *namespace) (podLinks, error) {
		return podLinks{inode: ns.inode, ifindexes: []int{link}}, nil
	}
	r.reconcile(true)
	for _, thorough := range []bool{false, true} {
		r.guard.look()
		delete(k.guarded, link)
		r.reconcile(thorough)
		r.guard.look()
		if _, ok := k.guarded[link]; ok != thorough {
			t.Errorf("thorough %t: guarded %t", thorough, ok)
		}
	}
}

// pairs is a pod in a namespace of its own, whose links the test says.
type pairs struct {
	*Reconciler
	kernel *kernel
	links  podLinks
	err    error
	looks  int
}

func newPairs(t *testing.T) *pairs {
	t.Helper()
	pod := startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {pod}}}
	n.run(1, workload.Pod{UID: "one", Decision: deny})
	p := &pairs{kernel: k, links: podLinks{nsid: 3, ifindexes: []int{7}}}
	p.Reconciler = newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	p.guard.linksOf = func(ns, _ *namespace) (podLinks, error) {
		p.looks++
		found := p.links
		found.inode = ns.inode
		return found, p.err
	}
	p.reconcile(false)
	p.guard.look()
	return p
}

func TestLinkThatComesLaterIsGuarded(t *testing.T) {
	p := newPairs(t)
	wantGuarded(t, p.kernel, map[int]uint64{7: 1})
	p.guard.want(p.guard.wanted, true) // so that the next look at all pods is some time off
	p.guard.look()
	p.links.ifindexes = []int{7, 8}
	p.guard.notice(linkEvent{pair: true, nsid: 4}) // another pod's
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1})
	p.guard.notice(linkEvent{pair: true, nsid: 3})
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1, 8: 1})
	if p.looks != 3 {
		t.Errorf("its links were looked at %d times, want 3", p.looks)
	}
}

// A namespace has an id once a link leads to it: any event may be of one that
// had none.
func TestPodsWhoseNamespaceHasNoIDAreLookedAt(t *testing.T) {
	p := newPairs(t)
	p.links = podLinks{nsid: unknownNamespace}
	p.guard.want(p.guard.wanted, true)
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{})
	p.links.ifindexes = []int{9}
	p.guard.notice(linkEvent{pair: true, nsid: 12})
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{9: 1})
}

// Where events were lost, and where a link changed that another may be made
// on, all pods are looked at, but not for each event.
func TestOtherEventsHaveAllPodsLookedAt(t *testing.T) {
	p := newPairs(t)
	p.links.ifindexes = []int{7, 8}
	for range 10 {
		p.guard.notice(linkEvent{})
		p.guard.look()
	}
	wantGuarded(t, p.kernel, map[int]uint64{7: 1, 8: 1})
	if p.looks != 2 {
		t.Errorf("its links were looked at %d times, want 2", p.looks)
	}
	if soon := p.guard.soon(); soon <= 0 || soon > allPause {
		t.Errorf("the next look is in %s, want within %s", soon, allPause)
	}
}

// A failed look removes no guard, and is reported.
func TestFailedLookKeepsTheGuards(t *testing.T) {
	p := newPairs(t)
	p.err = errors.New("interrupted")
	p.guard.want(p.guard.wanted, true)
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1})
	if p.Unguarded()["one"] == nil {
		t.Error("it is not reported")
	}
	p.err = errNoLink
	p.guard.want(p.guard.wanted, true)
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{})
}

// The links beside the one that cannot be guarded are guarded.
func TestLinksPastTheNodeAreReported(t *testing.T) {
	p := newPairs(t)
	p.links.past = errors.New("net1 (macvlan)")
	for range 2 {
		p.guard.want(p.guard.wanted, true)
		p.guard.look()
		wantGuarded(t, p.kernel, map[int]uint64{7: 1})
		if got := p.Unguarded()["one"]; got == nil || !strings.Contains(got.Error(), "net1 (macvlan)") {
			t.Errorf("reported: %v", got)
		}
	}
	p.links.past = nil
	p.guard.want(p.guard.wanted, true)
	p.guard.look()
	if got := p.Unguarded(); len(got) != 0 {
		t.Errorf("still reported: %v", got)
	}
}

func TestSortLinks(t *testing.T) {
	const node = 5
	attrs := func(name string, nsid, parent int, flags net.Flags) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, NetNsID: nsid, ParentIndex: parent, Flags: flags}
	}
	harmless := []netlink.Link{
		&netlink.Device{LinkAttrs: attrs("lo", -1, 0, net.FlagLoopback)},
		&netlink.Veth{LinkAttrs: attrs("eth0", node, 11, 0)},
		&netlink.Netkit{LinkAttrs: attrs("eth1", node, 12, 0)},
		&netlink.Veth{LinkAttrs: attrs("nested", 6, 13, 0)},
		&netlink.Veth{LinkAttrs: attrs("both-here", -1, 14, 0)},
		&netlink.Vlan{LinkAttrs: attrs("eth0.5", -1, 2, 0)},
		&netlink.Dummy{LinkAttrs: attrs("dummy0", -1, 0, 0)},
		&netlink.Tuntap{LinkAttrs: attrs("tun0", -1, 0, 0)},
		&netlink.Iptun{LinkAttrs: attrs("tunl0", -1, 0, 0)},
	}
	ifindexes, past := sortLinks(harmless, node)
	if diff := cmp.Diff([]int{11, 12}, ifindexes); diff != "" || past != nil {
		t.Errorf("past: %v; the node's ends (-want +got):\n%s", past, diff)
	}
	if ifindexes, _ := sortLinks(harmless, unknownNamespace); len(ifindexes) != 0 {
		t.Errorf("links to a node that none leads to: %v", ifindexes)
	}
	for _, l := range []netlink.Link{
		&netlink.Macvlan{LinkAttrs: attrs("net1", node, 3, 0)},
		&netlink.IPVlan{LinkAttrs: attrs("net1", node, 3, 0)},
		&netlink.Vlan{LinkAttrs: attrs("net1", node, 3, 0)},
		&netlink.Vxlan{LinkAttrs: attrs("net1", node, 0, 0)},
		&netlink.Device{LinkAttrs: attrs("net1", -1, 0, 0)}, // SR-IOV, host-device
	} {
		ifindexes, past := sortLinks(append(harmless, l), node)
		if len(ifindexes) != 2 || past == nil || !strings.Contains(past.Error(), "net1") {
			t.Errorf("%s: %v, %v", l.Type(), ifindexes, past)
		}
	}
}

func TestEventOf(t *testing.T) {
	update := func(kind uint16, family uint8, l netlink.Link) netlink.LinkUpdate {
		u := netlink.LinkUpdate{Link: l}
		u.Header.Type, u.Family = kind, family
		return u
	}
	there := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{NetNsID: 3}}
	here := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{NetNsID: -1}}
	for name, tc := range map[string]struct {
		update netlink.LinkUpdate
		want   linkEvent
		of     bool
	}{
		"a pair came":         {update(unix.RTM_NEWLINK, 0, there), linkEvent{pair: true, nsid: 3}, true},
		"a pair went":         {update(unix.RTM_DELLINK, 0, there), linkEvent{pair: true, nsid: 3}, false},
		"a pair of the node":  {update(unix.RTM_NEWLINK, 0, here), linkEvent{}, true},
		"a bridge's port":     {update(unix.RTM_NEWLINK, unix.AF_BRIDGE, there), linkEvent{}, false},
		"the uplink changed":  {update(unix.RTM_NEWLINK, 0, &netlink.Device{}), linkEvent{}, true},
		"a device was moved":  {update(unix.RTM_DELLINK, 0, &netlink.Device{}), linkEvent{}, true},
		"a tunnel's end came": {update(unix.RTM_NEWLINK, 0, &netlink.Vxlan{}), linkEvent{}, true},
	} {
		if got, of := eventOf(tc.update); got != tc.want || of != tc.of {
			t.Errorf("%s: %+v, %t; want %+v, %t", name, got, of, tc.want, tc.of)
		}
	}
}
