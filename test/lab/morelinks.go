package lab

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// AddLink joins the pod's namespace and the node's by a further veth pair, as a
// CNI plugin that adds interfaces to running pods does, and returns the node's
// end. name is that of the pod's. Neither has an address.
func (p *Pod) AddLink(name string) (netlink.LinkAttrs, error) {
	ns, err := openHandle(p.netns)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	defer ns.close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("more%d", podNumber.Add(1))},
		PeerName:  name, PeerNamespace: netlink.NsFd(ns.ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return netlink.LinkAttrs{}, err
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return netlink.LinkAttrs{}, err
	}
	inside, err := ns.LinkByName(name)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	if err := ns.LinkSetUp(inside); err != nil {
		return netlink.LinkAttrs{}, err
	}
	end, err := netlink.LinkByIndex(veth.Index)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	return *end.Attrs(), nil
}
