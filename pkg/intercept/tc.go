package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrBehindAnother means that another tc program of the link runs before the
// guard and may keep packets from it.
var ErrBehindAnother = errors.New("another tc program of the link runs first")

// GuardLink drops what the pod with this cgroup sends over a link to the
// metadata service or the wire server, unless its verdict lets it. ifindex is
// the link's end in the calling thread's network namespace, the node's. The
// program outlives this process and ends with the link. Others' programs stay
// and run after ours; where they cannot, that is ErrBehindAnother. To call it
// again is cheap, and repairs what others have removed since. A link that
// is gone is unix.ENODEV. One that a program of another layout guards is left to
// that until Active reports true.
func (h *Hooks) GuardLink(ifindex int, podCgroupID uint64) error {
	// First the owner: a program that knows none drops.
	if err := h.objects.SidestepLinks.Update(uint32(ifindex), podCgroupID, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("note the owner of link %d: %w", ifindex, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if theirs, err := h.guardedByOthers(ifindex); theirs || err != nil {
		return err
	}
	err := h.keepTCX(ifindex)
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = h.keepFilter(ifindex) // before Linux 6.6
	}
	if err != nil {
		return fmt.Errorf("guard link %d: %w", ifindex, err)
	}
	return nil
}

// UnguardLink removes the guard. To do so where none is, or where the link
// is gone, is no error.
func (h *Hooks) UnguardLink(ifindex int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.filters, ifindex)
	delete(h.attachTypes, ifindex)
	err := errors.Join(h.letGo(h.tcxPin(ifindex)), detachFilter(ifindex))
	if err != nil {
		return fmt.Errorf("remove the guard of link %d: %w", ifindex, err)
	}
	// Last the owner, for the same reason.
	err = h.objects.SidestepLinks.Delete(uint32(ifindex))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget the owner of link %d: %w", ifindex, err)
	}
	return nil
}

// GuardedLinks returns the links that have a guard, an earlier agent's too.
func (h *Hooks) GuardedLinks() ([]int, error) {
	var all []int
	var ifindex uint32
	var pod uint64
	entries := h.objects.SidestepLinks.Iterate()
	for entries.Next(&ifindex, &pod) {
		all = append(all, int(ifindex))
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the guarded links: %w", err)
	}
	others, err := h.linksOfOthers()
	return append(all, others...), err
}

// guardedByOthers reports whether a program that goes by another layout's maps
// guards the link, and is to be left. The caller holds mu.
func (h *Hooks) guardedByOthers(ifindex int) (bool, error) {
	if h.Active() || h.links[h.tcxPin(ifindex)] != nil || h.filters[ifindex] {
		return false, nil
	}
	for _, pin := range h.othersPins(filepath.Base(h.tcxPin(ifindex))) {
		if _, err := os.Stat(pin); err == nil {
			return true, nil
		}
	}
	there, err := hasFilter(ifindex)
	if errors.Is(err, unix.ENODEV) {
		return false, unix.ENODEV
	}
	return there, err
}

// linksOfOthers returns the links that agents of other layouts have guarded.
func (h *Hooks) linksOfOthers() (all []int, err error) {
	directories := h.othersPins("")
	if len(directories) == 0 {
		return nil, nil
	}
	for _, directory := range directories {
		pins, err := ownPins(directory)
		if err != nil {
			return nil, err
		}
		for _, pin := range pins {
			if number, ok := strings.CutPrefix(filepath.Base(pin), "tcx_"); ok {
				if ifindex, err := strconv.Atoi(number); err == nil {
					all = append(all, ifindex)
				}
			}
		}
	}
	filtered, err := filteredLinks()
	for _, l := range filtered {
		all = append(all, l.Attrs().Index)
	}
	return all, err
}

func (h *Hooks) tcxPin(ifindex int) string {
	return filepath.Join(h.pins, "tcx_"+strconv.Itoa(ifindex))
}

func (h *Hooks) keepTCX(ifindex int) error {
	id, err := h.idOf(h.objects.SidestepLink)
	if err != nil {
		return err
	}
	at, err := h.attachType(ifindex)
	if err != nil {
		return err
	}
	err = h.keep(place{
		object: linkObject, decides: true, pin: h.tcxPin(ifindex), program: h.objects.SidestepLink, id: uint64(ifindex),
		where: linkedInterface,
		attach: func() (link.Link, error) {
			if at == ebpf.AttachNetkitPeer {
				return link.AttachNetkit(link.NetkitOptions{
					Interface: ifindex, Program: h.objects.SidestepLink, Attach: at, Anchor: link.Head(),
				})
			}
			return link.AttachTCX(link.TCXOptions{
				Interface: ifindex, Program: h.objects.SidestepLink, Attach: at, Anchor: link.Head(),
			})
		},
	})
	if err != nil {
		return err
	}
	if err := h.restore(&h.links[h.tcxPin(ifindex)].pin); err != nil {
		return err
	}
	return checkFirstTCX(ifindex, id, at)
}

// attachType returns where the guard of a link is attached, which stays so for
// as long as there is the link. One that is gone is unix.ENODEV.
func (h *Hooks) attachType(ifindex int) (ebpf.AttachType, error) {
	if at, ok := h.attachTypes[ifindex]; ok {
		return at, nil
	}
	l, err := netlink.LinkByIndex(ifindex)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, unix.ENODEV
	}
	if err != nil {
		return 0, fmt.Errorf("look up the link: %w", err)
	}
	h.attachTypes[ifindex] = attachTypeOf(l)
	return h.attachTypes[ifindex], nil
}

// attachTypeOf is tcx ingress, but for netkit: there programs that are attached
// to the pod's end, from this one, see each packet first, and may send it past
// tcx.
func attachTypeOf(l netlink.Link) ebpf.AttachType {
	if k, ok := l.(*netlink.Netkit); ok && k.IsPrimary() {
		return ebpf.AttachNetkitPeer
	}
	return ebpf.AttachTCXIngress
}

// checkFirstTCX fails unless the program is the first of the link's: one that
// came later may have asked to run before.
func checkFirstTCX(ifindex int, id ebpf.ProgramID, at ebpf.AttachType) error {
	all, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
	if err != nil {
		return fmt.Errorf("list the link's programs: %w", err)
	}
	if len(all.Programs) == 0 || all.Programs[0].ID != id {
		return ErrBehindAnother
	}
	return nil
}

// linkedInterface returns the interface that the link is attached to, 0 once
// that is gone.
func linkedInterface(info *link.Info) (uint64, error) {
	if t := info.TCX(); t != nil {
		return uint64(t.Ifindex), nil
	}
	if n := info.Netkit(); n != nil {
		return uint64(n.Ifindex), nil
	}
	return 0, errors.New("the pinned link is not an interface's")
}

// The guard as a classic tc filter, for kernels without tcx. The handle tells
// it from others' filters of the same priority; the lowest priority is run
// first.
const (
	filterHandle   = 0x51de
	filterPriority = 1
	filterName     = "sidestep_link"
)

func filterAttrs(ifindex int) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle,
		Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}
}

// keepFilter makes sure that our filter is there, and puts it back, counted, if
// others have removed it. The caller holds mu.
func (h *Hooks) keepFilter(ifindex int) error {
	if h.filters[ifindex] {
		there, err := hasFilter(ifindex)
		if err != nil {
			return err
		}
		if there {
			return checkFirst(ifindex)
		}
	}
	if err := attachFilter(ifindex, h.objects.SidestepLink); err != nil {
		return err
	}
	if h.filters[ifindex] {
		h.repairs.add(linkObject, detached)
	}
	h.filters[ifindex] = true
	return checkFirst(ifindex)
}

func hasFilter(ifindex int) (bool, error) {
	filters, err := listFilters(ifindex)
	return slices.ContainsFunc(filters, isOurs), err
}

func listFilters(ifindex int) ([]netlink.Filter, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, fmt.Errorf("list the filters: %w", err)
	}
	return filters, nil
}

// attachFilter adds or replaces our filter. The queueing discipline that holds
// filters is shared with others, and never replaced.
func attachFilter(ifindex int, program *ebpf.Program) error {
	err := netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: filterAttrs(ifindex), Fd: program.FD(), Name: filterName, DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add the filter: %w", err)
	}
	return nil
}

// checkFirst fails unless ours is the first filter: of those of one priority the
// latest runs first.
func checkFirst(ifindex int) error {
	filters, err := listFilters(ifindex)
	if err != nil {
		return err
	}
	for _, f := range filters {
		bpf, ok := f.(*netlink.BpfFilter)
		if ok && bpf.Handle == 0 {
			continue // the head of a priority, not a filter
		}
		if ok && bpf.Handle == filterHandle {
			return nil
		}
		break
	}
	return ErrBehindAnother
}

func detachFilter(ifindex int) error {
	err := netlink.FilterDel(&netlink.BpfFilter{FilterAttrs: filterAttrs(ifindex)})
	for _, gone := range []error{unix.ENOENT, unix.ENODEV, unix.EINVAL} {
		if errors.Is(err, gone) {
			return nil // no such filter, link or queueing discipline
		}
	}
	return err
}
