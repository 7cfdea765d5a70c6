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
	return bringUp(veth, ns, name)
}

// AddNetkit is AddLink with a netkit pair, of which the node has the primary
// end. A kernel without netkit says unix.EOPNOTSUPP.
func (p *Pod) AddNetkit(name string) (netlink.LinkAttrs, error) {
	ns, err := openHandle(p.netns)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	defer ns.close()
	pair := &netlink.Netkit{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("more%d", podNumber.Add(1))},
		Mode:      netlink.NETKIT_MODE_L2, Policy: netlink.NETKIT_POLICY_FORWARD, PeerPolicy: netlink.NETKIT_POLICY_FORWARD,
	}
	pair.SetPeerAttrs(&netlink.LinkAttrs{Name: name, Namespace: netlink.NsFd(ns.ns)})
	if err := netlink.LinkAdd(pair); err != nil {
		return netlink.LinkAttrs{}, err
	}
	return bringUp(pair, ns, name)
}

// bringUp brings both ends of a pair up, of which the one with the name is in
// the namespace, and returns the other.
func bringUp(pair netlink.Link, ns *handle, name string) (netlink.LinkAttrs, error) {
	if err := netlink.LinkSetUp(pair); err != nil {
		return netlink.LinkAttrs{}, err
	}
	inside, err := ns.LinkByName(name)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	if err := ns.LinkSetUp(inside); err != nil {
		return netlink.LinkAttrs{}, err
	}
	end, err := netlink.LinkByName(pair.Attrs().Name)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	return *end.Attrs(), nil
}
