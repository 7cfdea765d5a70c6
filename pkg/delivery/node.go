package delivery

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// nodeInterval is how often the node listener's port is tried while others
	// have it.
	nodeInterval = 2 * time.Second
	// addressInterval is how often its address is looked at, in case an event was
	// missed, or it could not be put back.
	addressInterval = 30 * time.Second
)

// Node is the node listener: it serves callers that have no listener of their
// own, held ones among them.
type Node struct {
	kernel Kernel
	at     netip.AddrPort
	cookie uint64 // of the node's network namespace
	log    *slog.Logger

	mu       sync.Mutex
	listener *listener // nil while others have the port
}

// ListenNode puts the address on the loopback link if no link has it, and
// listens there. The address stays when the Node is closed, so that pods are
// refused by the node itself and not routed elsewhere while no agent runs.
// Where others listen there the Node has no listener until they have gone and
// Run has seen it: see Listening.
func ListenNode(kernel Kernel, at netip.AddrPort, log *slog.Logger) (*Node, error) {
	cookie, err := ReserveNode(at.Addr())
	if err != nil {
		return nil, err
	}
	n := &Node{kernel: kernel, at: at, cookie: cookie, log: log}
	switch err := n.open(); {
	case errors.Is(err, unix.EADDRINUSE):
		log.Error("another has the node listener's port; pods that are not known yet are refused until it is free",
			"listener", at, "fix", "end who listens there (ss -ltnp), or set --listen")
	case err != nil:
		return nil, err
	}
	return n, nil
}

// ReserveNode puts the address on the loopback link as ListenNode does, and
// does not listen: whoever is steered there is refused by the node itself. It
// returns the cookie of the network namespace that this is.
func ReserveNode(addr netip.Addr) (netnsCookie uint64, err error) {
	if err := ensureAddress(addr); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	netnsCookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return netnsCookie, nil
}

func ensureAddress(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{
		IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen()),
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("put %s on the loopback link: %w", addr, err)
	}
	return nil
}

// NetnsCookie returns the cookie of the node's network namespace.
func (n *Node) NetnsCookie() uint64 { return n.cookie }

// Listening reports whether the Node has its listener. While it has none,
// no pod may be steered there: another process listens.
func (n *Node) Listening() bool { return n.Listener() != nil }

// Listener returns the node's listener, which stays the Node's; nil while it
// has none.
func (n *Node) Listener() net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener == nil {
		return nil
	}
	return n.listener.Listener
}

// open listens, unless the Node does.
func (n *Node) open() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener != nil {
		return nil
	}
	l, err := listen(n.kernel, n.at)
	if err != nil {
		return fmt.Errorf("node listener: %w", err)
	}
	n.listener = l
	return nil
}

// Run serves until ctx ends, then closes the listener and returns nil. Every
// connection is handed over with the cookie 0: its caller may be anywhere.
func (n *Node) Run(ctx context.Context, serve func(c net.Conn, netnsCookie uint64)) error {
	if !n.awaitPort(ctx) {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { n.listener.Close() })
	defer stop()
	var keeping sync.WaitGroup
	keeping.Go(func() { n.keepAddress(ctx) })
	defer keeping.Wait()
	// Not paced: it is of all pods, and one would slow the others.
	n.listener.accept(serve, 0, nil, n.log)
	return nil
}

// awaitPort listens as soon as others let it; false if ctx ends before.
func (n *Node) awaitPort(ctx context.Context) bool {
	tick := time.NewTicker(nodeInterval)
	defer tick.Stop()
	for !n.Listening() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if err := n.open(); err == nil {
			n.log.Info("the node listener's port is free; listening", "listener", n.at)
		}
	}
	return true
}

// keepAddress puts the address back if others remove it.
func (n *Node) keepAddress(ctx context.Context) {
	events := followAddresses(ctx, n.log)
	tick := time.NewTicker(addressInterval)
	defer tick.Stop()
	logged := false
	for {
		select {
		case <-ctx.Done():
			return
		case gone := <-events:
			if gone.IsValid() && gone != n.at.Addr() {
				continue
			}
		case <-tick.C:
		}
		there, err := Leftovers(n.at.Addr())
		if err == nil && len(there) == 0 {
			n.log.Warn("the node listener's address was taken from the loopback link; putting it back", "address", n.at.Addr())
			err = ensureAddress(n.at.Addr())
		}
		if err != nil && !logged {
			n.log.Error("cannot see to the node listener's address", "address", n.at.Addr(), "err", err)
		}
		logged = err != nil
	}
}

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
