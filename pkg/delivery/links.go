package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoLink means that no pair of links leads from the pod to the node, so that
// its packets cannot be seen there.
var errNoLink = errors.New("no veth or netkit link leads from the pod to the node: its packets cannot be guarded")

// errNoLinkYet means that there is no link at all but the loopback one: the
// runtime has not connected the pod yet.
var errNoLinkYet = fmt.Errorf("the pod's network namespace is not connected: %w", errNoLink)

// unknownNamespace is the id of a namespace that has none yet.
const unknownNamespace = -1

// dumpTries is how often links are listed again that change meanwhile.
const dumpTries = 5

// podLinks are the links of one pod.
type podLinks struct {
	inode      uint64 // the pod's network namespace
	nsid       int    // its id in the node's, which link events bear; or unknownNamespace
	containers []workload.ContainerCgroup
	ifindexes  []int // the node's ends of the links that can be guarded
	hidden     []int // those of them that are ports of a bridge
	past       error // names the links that cannot; may be nil
}

// linksOf returns the links that are in the namespace. It asks there, where
// there are few: the node has one for each pod. A pair is made before its pod's
// first process, but a runtime may do it in another order: no link yet is
// errNoLink.
func linksOf(ns, node *namespace) (podLinks, error) {
	found := podLinks{inode: ns.inode}
	var h *netlink.Handle
	err := ns.do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return found, err
	}
	defer h.Close()
	links, err := listLinks(h)
	if err != nil {
		return found, err
	}
	// Listing the links has given each namespace that they lead to an id, and
	// so has the node's own list the pod's.
	nodeID, err := h.GetNetNsIdByFd(int(node.file.Fd()))
	if err != nil {
		return found, err
	}
	if found.nsid, err = netlink.GetNetNsIdByFd(int(ns.file.Fd())); err != nil {
		return found, err
	}
	found.ifindexes, found.past = sortLinks(links, nodeID)
	switch {
	case len(found.ifindexes) > 0 || found.past != nil:
		return found, nil
	case len(links) < 2:
		return found, errNoLinkYet
	}
	return found, errNoLink
}

// hidden reports whether a link of the node's is a port of a bridge or the
// like: then routing does not see that a packet came over it.
func hidden(ifindex int) (bool, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return false, err
	}
	return l.Attrs().MasterIndex != 0, nil
}

// listLinks returns the links of the handle's namespace. A pod that changes its
// links all the time cannot make a list of them that lacks some.
func listLinks(h *netlink.Handle) (links []netlink.Link, err error) {
	for range dumpTries {
		links, err = h.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return links, err
}

// sortLinks returns the node's ends of the pod's links that lead to the
// namespace with the id nodeID, and an error that names the links by which
// packets leave the pod without passing such an end.
func sortLinks(links []netlink.Link, nodeID int) (ifindexes []int, past error) {
	var names []string
	for _, l := range links {
		a := l.Attrs()
		switch {
		case isPair(l):
			// One that leads elsewhere ends where other pods' links are, or in
			// a namespace that the pod has made.
			if nodeID >= 0 && a.NetNsID == nodeID {
				ifindexes = append(ifindexes, a.ParentIndex) // the other end's
			}
		case a.Flags&net.FlagLoopback != 0:
		case l.Type() == "device", a.NetNsID >= 0:
			names = append(names, fmt.Sprintf("%s (%s)", a.Name, kind(l)))
		}
	}
	if len(names) > 0 {
		past = fmt.Errorf("frames on %s do not pass the node's end of a link and are not guarded: "+
			"use a veth link there, or drop NET_RAW and NET_ADMIN in the pod", strings.Join(names, ", "))
	}
	return ifindexes, past
}

// isPair reports whether the link is one end of a pair: what goes in at one end
// comes out at the other.
func isPair(l netlink.Link) bool { return l.Type() == "veth" || l.Type() == "netkit" }

func kind(l netlink.Link) string {
	if l.Type() == "device" {
		return "a device of its own, as SR-IOV and host-device give"
	}
	return l.Type()
}

// linkEvent says that a link of the node's namespace came or changed.
type linkEvent struct {
	// pair is whether the link is one end of a pair of which the other end is
	// in another namespace, with the id nsid. Else what changed may be a link
	// that a pod's link is made on, or one that was moved into a pod.
	pair bool
	nsid int
}

// followLinks follows what becomes of the links of the calling thread's network
// namespace, the node's; see follow.
func followLinks(ctx context.Context, log *slog.Logger) <-chan linkEvent {
	subscribe := func(updates chan<- netlink.LinkUpdate, done <-chan struct{}, failed func(error)) error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
			ReceiveBufferSize: eventsBuffer, ErrorCallback: failed,
		})
	}
	return follow(ctx, log, "link", subscribe, eventOf)
}

// eventOf returns what an update of a link means to the guard; false: nothing.
func eventOf(u netlink.LinkUpdate) (linkEvent, bool) {
	if u.Family == unix.AF_BRIDGE { // a bridge's port, not a link
		return linkEvent{}, false
	}
	nsid := u.Link.Attrs().NetNsID
	if !isPair(u.Link) || nsid < 0 {
		return linkEvent{}, true
	}
	return linkEvent{pair: true, nsid: nsid}, u.Header.Type == unix.RTM_NEWLINK
}

const (
	// eventsBuffer is the size of the kernel's queue of events, in bytes. One
	// event takes some 1,500.
	eventsBuffer = 1 << 20
	// subscribePause is how soon it is tried again to subscribe.
	subscribePause = 100 * time.Millisecond
)

// subscribeFunc has the kernel's updates sent until done is closed, and then
// closes the channel. It calls failed with why there are no more.
type subscribeFunc[U any] func(updates chan<- U, done <-chan struct{}, failed func(error)) error

// follow sends what eventOf makes of the kernel's updates until ctx ends. Where
// some were lost, since their queue was full, or may have been, it sends the zero
// event: what there is then must be looked at.
func follow[U, E any](
	ctx context.Context, log *slog.Logger, what string, subscribe subscribeFunc[U], eventOf func(U) (E, bool),
) <-chan E {
	events := make(chan E, 256)
	go func() {
		for ctx.Err() == nil {
			if err := followOnce(ctx, events, subscribe, eventOf); err != nil {
				log.Warn("events were lost, all is looked at", "err", fmt.Errorf("%s events: %w", what, err))
			}
			select {
			case <-ctx.Done():
			case <-time.After(subscribePause):
			}
		}
	}()
	return events
}

// followOnce follows one subscription until it fails, or ctx ends.
func followOnce[U, E any](
	ctx context.Context, events chan<- E, subscribe subscribeFunc[U], eventOf func(U) (E, bool),
) (lost error) {
	updates, done := make(chan U), make(chan struct{})
	defer func() {
		close(done)
		for range updates { // until it is closed: whoever sends is not left waiting
		}
	}()
	failed := make(chan error, 1)
	err := subscribe(updates, done, func(err error) {
		select {
		case failed <- err:
		default:
		}
	})
	if err != nil {
		close(updates)
		return err
	}
	var unknown E // whatever came before the subscription
	if !send(ctx, events, unknown) {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case u, ok := <-updates:
			if !ok {
				return <-failed
			}
			if e, ok := eventOf(u); ok && !send(ctx, events, e) {
				return nil
			}
		}
	}
}

func send[E any](ctx context.Context, events chan<- E, e E) bool {
	select {
	case events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// followAddresses sends the addresses that the links of the calling thread's
// network namespace lose; see follow.
func followAddresses(ctx context.Context, log *slog.Logger) <-chan netip.Addr {
	subscribe := func(updates chan<- netlink.AddrUpdate, done <-chan struct{}, failed func(error)) error {
		return netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
			ReceiveBufferSize: eventsBuffer, ErrorCallback: failed,
		})
	}
	return follow(ctx, log, "address", subscribe, lostAddress)
}

// lostAddress returns the address that a link has lost; false if it got it.
func lostAddress(u netlink.AddrUpdate) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	return addr.Unmap(), ok && !u.NewAddr
}
