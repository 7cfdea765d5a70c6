package delivery

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// errNoLink means that no veth pair leads from the pod to the node, so that
// its packets cannot be seen there.
var errNoLink = errors.New("no veth link leads from the pod to the node: its packets cannot be guarded")

// errNoLinkYet means that there is no link at all but the loopback one: the
// runtime has not connected the pod yet.
var errNoLinkYet = fmt.Errorf("the pod's network namespace is not connected: %w", errNoLink)

// linksOf returns the node's ends of veth pairs whose other ends are in the
// namespace. It asks there, where there are few links: the node has one for
// each pod. A pair is made before its pod's first process, but a runtime may do
// it in another order: no link yet is an error too.
func linksOf(ns, node *namespace) ([]int, error) {
	var h *netlink.Handle
	err := ns.do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	// Listing the links has given each namespace that they lead to an id.
	id, err := h.GetNetNsIdByFd(int(node.file.Fd()))
	if err != nil {
		return nil, err
	}
	var ifindexes []int
	for _, l := range links {
		if id >= 0 && l.Attrs().NetNsID == id && l.Type() == "veth" {
			ifindexes = append(ifindexes, l.Attrs().ParentIndex) // the other end's
		}
	}
	switch {
	case len(ifindexes) > 0:
		return ifindexes, nil
	case len(links) < 2:
		return nil, errNoLinkYet
	}
	return nil, errNoLink
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
