package delivery

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Leftovers returns the node listener's address if it is on the loopback link,
// where ListenNode leaves it.
func Leftovers(addr netip.Addr) ([]workload.Leftover, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	addresses, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the loopback link's addresses: %w", err)
	}
	for _, a := range addresses {
		if !a.IP.Equal(net.IP(addr.AsSlice())) {
			continue
		}
		return []workload.Leftover{{
			What:   "address " + a.IPNet.String() + " of link lo",
			Remove: func() error { return removeAddress(lo, &a) },
		}}, nil
	}
	return nil, nil
}

func removeAddress(lo netlink.Link, a *netlink.Addr) error {
	if err := netlink.AddrDel(lo, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return nil
}

// listening is the state of a listening socket in /proc/net/tcp.
// https://docs.kernel.org/networking/proc_net_tcp.html
const listening = "0A"

// NodeListening reports whether somebody listens where the node listener
// would, in the calling thread's network namespace. It neither connects nor
// binds: to pods that do so, the kernel side says no.
func NodeListening(at netip.AddrPort) (bool, error) {
	table, err := os.Open("/proc/thread-self/net/tcp")
	if err != nil {
		return false, err
	}
	defer table.Close()
	// The address is four bytes in network order, printed as a number of the
	// machine's order.
	b := at.Addr().As4()
	want := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(b[:]), at.Port())
	for lines := bufio.NewScanner(table); ; {
		if !lines.Scan() {
			return false, lines.Err()
		}
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[1] == want && fields[3] == listening {
			return true, nil
		}
	}
}
