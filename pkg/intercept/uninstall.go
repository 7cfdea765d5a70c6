package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Leftovers returns what agents of any version have left attached or pinned on
// this node, in the order in which it is to be removed: guards, other
// programs, maps, directories. It neither loads a program nor opens a map, so
// that it needs no capability but NET_ADMIN to remove what it finds, and is
// not in the way of a layout that this version cannot read. Filters are looked
// for in the calling thread's network namespace, the node's. Where bpffs is no
// BPF filesystem the error is ErrNoBPFFS.
func Leftovers(bpffs string) ([]workload.Leftover, error) {
	if err := checkBPFFS(bpffs); err != nil {
		return nil, err
	}
	filters, err := filterLeftovers()
	if err != nil {
		return nil, err
	}
	pins, err := pinLeftovers(filepath.Join(bpffs, PinDirectory))
	if err != nil {
		return nil, err
	}
	return append(filters, pins...), nil
}

// pinLeftovers returns all pins below the directory, the directories last.
func pinLeftovers(root string) ([]workload.Leftover, error) {
	var pins, directories []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			directories = append(directories, path)
		default:
			pins = append(pins, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the pins: %w", err)
	}
	slices.SortStableFunc(pins, func(a, b string) int { return removal(a) - removal(b) })
	slices.Reverse(directories) // what is inside first
	all := make([]workload.Leftover, 0, len(pins)+len(directories))
	for _, path := range pins {
		all = append(all, pinned("pin", path))
	}
	for _, path := range directories {
		all = append(all, pinned("directory", path))
	}
	return all, nil
}

func pinned(kind, path string) workload.Leftover {
	return workload.Leftover{What: kind + " " + path, Remove: func() error { return unpin(path) }}
}

// removal orders pins. The guard of sockets goes before the connect hooks:
// without their marks it would drop what is no longer steered. The gate goes
// after them: what they steer must not be without it.
func removal(pin string) int {
	switch name := filepath.Base(pin); {
	case strings.HasPrefix(name, "tcx_"):
		return 0
	case name == "link_egress":
		return 1
	case strings.HasPrefix(name, "link_connect"):
		return 2
	case strings.HasPrefix(name, "link_"):
		return 3
	default:
		return 4
	}
}

// filterLeftovers returns our tc filters. The queueing discipline that holds
// them stays: it does nothing by itself, and it is not known who added it.
func filterLeftovers() ([]workload.Leftover, error) {
	links, err := filteredLinks()
	var all []workload.Leftover
	for _, link := range links {
		all = append(all, workload.Leftover{
			What:   "tc filter " + filterName + " of link " + link.Attrs().Name,
			Remove: func() error { return detachFilter(link.Attrs().Index) },
		})
	}
	return all, err
}

// filteredLinks returns the links that have our filter.
func filteredLinks() (all []netlink.Link, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	for _, link := range links {
		filters, err := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS)
		if errors.Is(err, unix.ENODEV) {
			continue // the link went away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list the filters of %s: %w", link.Attrs().Name, err)
		}
		if slices.ContainsFunc(filters, isOurs) {
			all = append(all, link)
		}
	}
	return all, nil
}

// isOurs goes by the name too: a handle may be another's by chance.
func isOurs(f netlink.Filter) bool {
	bpf, ok := f.(*netlink.BpfFilter)
	return ok && bpf.Handle == filterHandle && bpf.Priority == filterPriority && bpf.Name == filterName
}
