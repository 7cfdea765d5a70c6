package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// ErrNoFlow means that the kernel steered no such connection.
var ErrNoFlow = errors.New("no flow record for this connection")

// AmbiguousError means that two live sockets claimed the same connection, so
// that neither can be believed.
type AmbiguousError struct{}

func (AmbiguousError) Error() string { return "two sockets claim this connection" }

// Ambiguous marks the error for consumers that do not import this package.
func (AmbiguousError) Ambiguous() bool { return true }

// connections is what the programs record of steered connections: a flow of each
// until it is accepted, and how many each pod has open.
type connections struct {
	objects *kernelObjects
	layouts *layouts
	log     *slog.Logger
}

// Claim takes the record of an accepted connection and returns the id of the
// cgroup that made it. It can be taken once: whoever asks again gets
// ErrNoFlow. An ambiguous record is removed with an AmbiguousError. So are
// records of several layouts that do not say the same: which of them is the
// later cannot be seen.
func (c *connections) Claim(of workload.Connection) (uint64, error) {
	if !of.Client.Addr().Is4() || !of.Server.Addr().Is4() {
		return 0, ErrNoFlow // only IPv4 is ever steered
	}
	others, err := c.layouts.claim(of)
	if err != nil {
		return 0, err
	}
	return claim(c.flows(), others, of)
}

// claim takes the record from flows; others are those of other layouts.
func claim(flows flowTable, others []commonFlow, c workload.Connection) (uint64, error) {
	found := others
	f, err := flows.take(flowKey(c))
	if err == nil {
		found = append(found, commonFlow{CgroupID: f.CgroupId, SocketCookie: f.SocketCookie, Ambiguous: f.Ambiguous})
	} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("take the flow record: %w", err)
	}
	if len(found) == 0 {
		return 0, ErrNoFlow
	}
	for _, f := range found {
		if f.Ambiguous != 0 || f.SocketCookie != found[0].SocketCookie || f.CgroupID != found[0].CgroupID {
			return 0, AmbiguousError{}
		}
	}
	return found[0].CgroupID, nil
}

func flowKey(c workload.Connection) kernelFlowKey {
	return kernelFlowKey{
		NetnsCookie: c.NetnsCookie,
		ClientAddr:  addressWord(c.Client.Addr()),
		ServerAddr:  addressWord(c.Server.Addr()),
		ClientPort:  c.Client.Port(),
		ServerPort:  c.Server.Port(),
	}
}

// table is one of the kernel's hash maps. Its errors are those of *ebpf.Map.
type table[K, V any] interface {
	lookup(K) (V, error)
	// take returns the value and removes it.
	take(K) (V, error)
	update(K, V, ebpf.MapUpdateFlags) error
	remove(K) error
	// each calls the function with each entry. The function must not change
	// the table.
	each(func(K, V)) error
}

// mapTable is a table in the kernel.
type mapTable[K, V any] struct{ m *ebpf.Map }

func (t mapTable[K, V]) lookup(key K) (value V, err error) {
	return value, t.m.Lookup(key, &value)
}

func (t mapTable[K, V]) take(key K) (value V, err error) {
	return value, t.m.LookupAndDelete(key, &value)
}

func (t mapTable[K, V]) update(key K, value V, flags ebpf.MapUpdateFlags) error {
	return t.m.Update(key, value, flags)
}

func (t mapTable[K, V]) remove(key K) error { return t.m.Delete(key) }

func (t mapTable[K, V]) each(do func(K, V)) error {
	var key K
	var value V
	entries := t.m.Iterate()
	for entries.Next(&key, &value) {
		do(key, value)
	}
	return entries.Err()
}

// removeAll removes the keys. That one is not there is no error.
func removeAll[K, V any](t table[K, V], keys []K) error {
	for _, key := range keys {
		if err := t.remove(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

type (
	flowTable  = table[kernelFlowKey, kernelFlow]
	usageTable = table[uint64, int64]
)

func (c *connections) flows() flowTable {
	return mapTable[kernelFlowKey, kernelFlow]{c.objects.SidestepFlows}
}

func (c *connections) usage() usageTable { return mapTable[uint64, int64]{c.objects.SidestepUsage} }

// Steered returns how many sockets in the network namespace at the path are
// connected, or connecting, to where a listener of the agent may be: no more of
// the steered connections begin there. The kernel lists the sockets. Entering
// the namespace needs CAP_SYS_ADMIN.
func (c *connections) Steered(namespace string) (int, error) {
	var s kernelSettings
	if err := c.objects.SidestepSettings.Lookup(uint32(0), &s); err != nil {
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
func (c *connections) CorrectUsage(exists func(cgroupID uint64) bool, namespaces func(cgroupID uint64) ([]string, error)) error {
	var s kernelSettings
	if err := c.objects.SidestepSettings.Lookup(uint32(0), &s); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	return usage{
		counts: c.usage(), quota: int64(s.Quota), exists: exists, namespaces: namespaces, steered: c.Steered, log: c.log,
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

const (
	sweepInterval = time.Minute
	// A connection is accepted within moments or never: its listener's queue
	// ends with the listener. More than bpf/flow.h's TAKEN_WITHIN_NS, after which
	// a record that is missing proves nothing.
	flowAge = 5 * time.Minute
)

// Sweep removes, once a minute until ctx ends, what the kernel side may leave
// behind: flows that were not accepted and whose end another program's sockops
// hid from ours, counts that are wrong (CorrectUsage), and what is left of
// other layouts (RemoveDrained).
func (c *connections) Sweep(ctx context.Context, exists func(cgroupID uint64) bool,
	namespaces func(cgroupID uint64) ([]string, error),
) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := errors.Join(c.sweepFlows(flowAge), c.CorrectUsage(exists, namespaces), c.layouts.RemoveDrained(exists)); err != nil {
			c.log.Warn("sweep of the maps is incomplete", "err", err)
		}
	}
}

func (c *connections) sweepFlows(age time.Duration) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	return sweepFlows(c.flows(), now, age)
}

// monotonic returns the time of the clock by which flows are dated.
func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// sweepFlows removes the records that are older; now is of the clock that they
// bear.
func sweepFlows(flows flowTable, now, age time.Duration) error {
	var stale []kernelFlowKey
	err := flows.each(func(key kernelFlowKey, f kernelFlow) {
		if now-time.Duration(f.CreatedNs) > age {
			stale = append(stale, key)
		}
	})
	return errors.Join(err, removeAll(flows, stale))
}
