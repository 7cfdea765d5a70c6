package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Steered returns how many sockets in the network namespace at the path are
// connected, or connecting, to where a listener of the agent may be: no more of
// the steered connections begin there. The kernel lists the sockets. Entering
// the namespace needs CAP_SYS_ADMIN.
func (h *Hooks) Steered(namespace string) (int, error) {
	var s kernelSettings
	if err := h.objects.SidestepSettings.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read the settings: %w", err)
	}
	ns, err := netns.GetFromPath(namespace)
	if err != nil {
		return 0, fmt.Errorf("open the network namespace: %w", err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("enter the network namespace: %w", err)
	}
	defer handle.Close()
	count := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // IPv4-mapped sockets are the latter's
		sockets, err := handle.SocketDiagTCP(family)
		if err != nil {
			return 0, fmt.Errorf("list the sockets of %s: %w", namespace, err)
		}
		for _, socket := range sockets {
			if isOpen(socket.State) && s.isListener(socket.ID.Destination, socket.ID.DestinationPort) {
				count++
			}
		}
	}
	return count, nil
}

// isOpen leaves out sockets that hold no flow any more.
func isOpen(state uint8) bool {
	return state != netlink.TCP_TIME_WAIT && state != netlink.TCP_CLOSE && state != netlink.TCP_NEW_SYN_REC
}

func (s kernelSettings) isListener(ip net.IP, port uint16) bool {
	four := ip.To4()
	if four == nil {
		return false
	}
	if binary.NativeEndian.Uint32(four) == s.NodeAddr {
		return uint32(port) == s.NodePort
	}
	return four.IsLoopback() && uint32(port) >= s.PortFirst && uint32(port) <= s.PortLast
}

// CorrectUsage sets counts of open connections right that cannot be: those of
// cgroups that exists reports gone, those below zero, and those near the quota
// that are more than the kernel has sockets in the namespaces of the pod, whose
// paths namespaces returns. Others' programs may have kept the ends of sockets
// from ours.
func (h *Hooks) CorrectUsage(exists func(cgroupID uint64) bool, namespaces func(cgroupID uint64) ([]string, error)) error {
	var s kernelSettings
	if err := h.objects.SidestepSettings.Lookup(uint32(0), &s); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	return usage{
		counts: h.usage(), quota: int64(s.Quota), exists: exists, namespaces: namespaces, steered: h.Steered, log: h.log,
	}.correct()
}

// usage is the pods' counts of open connections, by the ids of their cgroups,
// and what they can be compared with.
type usage struct {
	counts     usageTable
	quota      int64
	exists     func(cgroupID uint64) bool
	namespaces func(cgroupID uint64) ([]string, error)
	steered    func(namespace string) (int, error)
	log        *slog.Logger
}

func (u usage) correct() error {
	var gone, doubtful []uint64
	err := u.counts.each(func(id uint64, open int64) {
		switch {
		case !u.exists(id):
			gone = append(gone, id)
		case open < 0, open > u.quota/2:
			doubtful = append(doubtful, id)
		}
	})
	errs := []error{err, removeAll(u.counts, gone)}
	for _, id := range doubtful {
		errs = append(errs, u.recount(id))
	}
	return errors.Join(errs...)
}

func (u usage) recount(id uint64) error {
	paths, err := u.namespaces(id)
	if err != nil {
		return fmt.Errorf("find the namespaces of cgroup %d: %w", id, err)
	}
	most := int64(0)
	for _, path := range paths {
		n, err := u.steered(path)
		if err != nil {
			return err
		}
		most += int64(n)
	}
	open, err := u.counts.lookup(id)
	if err == nil && (open < 0 || open > most) {
		u.log.Warn("a pod's count of open connections was wrong; corrected", "cgroup_id", id, "count", most)
		err = u.counts.update(id, most, ebpf.UpdateExist)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
