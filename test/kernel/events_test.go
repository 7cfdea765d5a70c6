package kernel

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
)

// The node listener's address is put back when others remove it, by the kernel's
// event: the next look at it comes later than a test waits.
func TestNodeAddressIsPutBack(t *testing.T) {
	newNode(t, options{})
	there := func() bool {
		left, err := delivery.Leftovers(nodeListener.Addr())
		check(t, err)
		return len(left) == 1
	}
	eventually(t, "the address is there", there)
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	addresses, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	check(t, err)
	for _, a := range addresses {
		if a.IP.Equal(nodeListener.Addr().AsSlice()) {
			check(t, netlink.AddrDel(lo, &a))
		}
	}
	eventually(t, "the address is there again", there)
}
