package lab

import (
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// connect joins the pod's namespace and the node's by a veth pair.
func (p *Pod) connect(number, slot uint32) error {
	ns, err := openHandle(p.netns)
	if err != nil {
		return err
	}
	defer ns.close()
	lo, err := ns.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := ns.LinkSetUp(lo); err != nil {
		return err
	}
	// Each pod has a /30 of 10.64.0.0/10 between itself and the node.
	base := uint32(10)<<24 | 64<<16 | number<<2
	if slot != 0 {
		base = uint32(10)<<24 | 128<<16 | slot<<2 // 10.128.0.0/10 is for slots
	}
	gateway, address := ipv4(base+1), ipv4(base+2)
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: fmt.Sprintf("pod%d", number)},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(ns.ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	if err := addAndUp(netlink.LinkByName, netlink.AddrAdd, netlink.LinkSetUp, veth.Name, gateway); err != nil {
		return err
	}
	if err := addAndUp(ns.LinkByName, ns.AddrAdd, ns.LinkSetUp, "eth0", address); err != nil {
		return err
	}
	end, err := netlink.LinkByIndex(veth.Index)
	if err != nil {
		return err
	}
	p.NodeLink, p.Address = *end.Attrs(), address
	return ns.RouteAdd(&netlink.Route{Gw: gateway})
}

// addAndUp gives a link its address and brings it up, in whichever namespace
// the functions are of.
func addAndUp(find func(string) (netlink.Link, error), add func(netlink.Link, *netlink.Addr) error,
	up func(netlink.Link) error, name string, ip net.IP,
) error {
	link, err := find(name)
	if err != nil {
		return err
	}
	if err := add(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(30, 32)}}); err != nil {
		return err
	}
	return up(link)
}

func ipv4(n uint32) net.IP {
	return net.IPv4(byte(n>>24), byte(n>>16), byte(n>>8), byte(n)).To4()
}

// AddAddress gives the pod's namespace a further address, whoever else has it.
func (p *Pod) AddAddress(ip net.IP) error {
	return p.withLink("lo", func(ns *handle, lo netlink.Link) error {
		return ns.AddrAdd(lo, &netlink.Addr{IPNet: host(ip)})
	})
}

// LendAddress has the node send packets for a further address to the pod, whose
// own kernel does not know it.
func (p *Pod) LendAddress(ip net.IP) error {
	return p.withLink("eth0", func(_ *handle, eth0 netlink.Link) error {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: p.NodeLink.Index, Dst: host(ip)}); err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: p.NodeLink.Index, IP: ip, HardwareAddr: eth0.Attrs().HardwareAddr,
			State: netlink.NUD_PERMANENT,
		})
	})
}

// withLink hands do a link of the pod's namespace.
func (p *Pod) withLink(name string, do func(*handle, netlink.Link) error) error {
	ns, err := openHandle(p.netns)
	if err != nil {
		return err
	}
	defer ns.close()
	link, err := ns.LinkByName(name)
	if err != nil {
		return err
	}
	return do(ns, link)
}

// host returns the network of one address.
func host(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)} }

// Netns returns the path of the pod's network namespace.
func (p *Pod) Netns() string { return p.netns }

// inNetns runs fn on a thread in the namespace; what fn forks starts there.
func inNetns(path string, fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := netns.GetFromPath(path)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		// Left locked, so that no other goroutine runs in the wrong namespace.
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}
