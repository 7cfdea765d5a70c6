package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNotIsolated means that 169.254.169.254 might lead out of the lab. Nothing
// may be sent from such a namespace.
var ErrNotIsolated = errors.New("169.254.169.254 is not known to be the lab's")

// CheckIsolated returns nil if, in the network namespace at nsPath,
// 169.254.169.254 is an address of that namespace, is unreachable, or leads
// over a virtual link straight into the node's namespace, where the same holds
// for it. It sends nothing.
func CheckIsolated(nsPath, nodePath string) error {
	if err := notTheMachines(nsPath); err != nil {
		return err
	}
	pod, err := openHandle(nsPath)
	if err != nil {
		return err
	}
	defer pod.close()
	link, err := pod.imdsLink()
	if err != nil || link == nil {
		return err
	}
	node, err := openHandle(nodePath)
	if err != nil {
		return err
	}
	defer node.close()
	id, err := pod.GetNetNsIdByFd(int(node.ns))
	if err != nil {
		return err
	}
	if link.Type() != "veth" || link.Attrs().NetNsID != id {
		return fmt.Errorf("%w: it leads over %s, which does not end in the node's namespace", ErrNotIsolated, link.Attrs().Name)
	}
	if err := notTheMachines(nodePath); err != nil {
		return err
	}
	onward, err := node.imdsLink()
	if err != nil {
		return err
	}
	if onward != nil {
		return fmt.Errorf("%w: the node sends it on over %s", ErrNotIsolated, onward.Attrs().Name)
	}
	return nil
}

func notTheMachines(nsPath string) error {
	inode, err := netnsInode(nsPath)
	if err != nil {
		return err
	}
	if host := os.Getenv(envHostNetns); host == "" || host == strconv.FormatUint(inode, 10) {
		return fmt.Errorf("%w: this is the machine's own network namespace, or no lab at all", ErrNotIsolated)
	}
	return nil
}

type handle struct {
	*netlink.Handle
	ns netns.NsHandle
}

func openHandle(path string) (*handle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		ns.Close()
		return nil, err
	}
	return &handle{h, ns}, nil
}

func (h *handle) close() {
	h.Close()
	h.ns.Close()
}

// imdsLink returns the link over which 169.254.169.254 is reached, nil if it
// is local or unreachable.
func (h *handle) imdsLink() (netlink.Link, error) {
	routes, err := h.RouteGet(net.ParseIP(IMDS))
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the route: %w", err)
	}
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL {
			continue
		}
		return h.LinkByIndex(r.LinkIndex)
	}
	return nil, nil
}
