package intercept

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
