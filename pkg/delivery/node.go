package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is the node listener: it serves callers that have no listener of their
// own, held ones among them.
type Node struct {
	listener *listener
	log      *slog.Logger
}

// ListenNode puts the address on the loopback link if no link has it, and
// listens there. The address stays when the Node is closed, so that pods are
// refused by the node itself and not routed elsewhere while no agent runs.
func ListenNode(kernel Kernel, at netip.AddrPort, log *slog.Logger) (*Node, error) {
	if err := ensureAddress(at.Addr()); err != nil {
		return nil, err
	}
	l, err := listen(kernel, at)
	if err != nil {
		return nil, fmt.Errorf("node listener: %w", err)
	}
	return &Node{listener: l, log: log}, nil
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
func (n *Node) NetnsCookie() uint64 { return n.listener.netnsCookie }

// Run serves until ctx ends, then closes the listener and returns nil. Every
// connection is handed over with the cookie 0: its caller may be anywhere.
func (n *Node) Run(ctx context.Context, serve func(c net.Conn, netnsCookie uint64)) error {
	stop := context.AfterFunc(ctx, func() { n.listener.Close() })
	defer stop()
	n.listener.accept(serve, 0, n.log)
	return nil
}
