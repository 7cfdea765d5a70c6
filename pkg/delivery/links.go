package delivery

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoLink means that no veth pair leads from the pod to the node, so that
// its packets cannot be seen there.
var errNoLink = errors.New("no veth link leads from the pod to the node: its packets cannot be guarded")

// podLinks are the node's ends of one guarded pod's links.
type podLinks struct {
	inode      uint64 // the pod's network namespace
	containers []workload.ContainerCgroup
	ifindexes  []int
}

// guard sees to it that the links of a pod that may not send everything are
// guarded. e is the pod's own entry.
func (r *round) guard(cg workload.PodCgroup, e workload.Entry, box *sandbox) error {
	if !r.GuardLinks || (e.Verdict == workload.Pass && !e.DenyWireServer) {
		r.forgetLinks(cg.UID)
		return nil
	}
	have, ok := r.links[cg.UID]
	if !ok || r.thorough || !slices.Equal(have.containers, cg.Containers) {
		ns, err := box.open()
		if workload.Exhausted(err) {
			r.unsure = true
			return err
		}
		if err != nil {
			r.forgetLinks(cg.UID)
			return err
		}
		if !ok || have.inode != ns.inode {
			have, err = r.findLinks(ns)
			r.unsure = r.unsure || workload.Exhausted(err)
			r.noteUnguarded(cg.UID, err)
			if err != nil {
				delete(r.links, cg.UID)
				return err
			}
		}
		have.containers = cg.Containers
		r.links[cg.UID] = have
	}
	for _, ifindex := range have.ifindexes {
		r.guards[ifindex] = cg.CgroupID
	}
	return nil
}

func (r *round) findLinks(ns *namespace) (podLinks, error) {
	ifindexes, err := r.table.leadingTo(ns)
	if err != nil {
		return podLinks{}, fmt.Errorf("find the pod's links: %w", err)
	}
	return podLinks{inode: ns.inode, ifindexes: ifindexes}, nil
}

// linkTable is the node's links, read once at most.
type linkTable struct {
	links []netlink.Link
}

// leadingTo returns the node's ends of veth pairs whose other ends are in the
// namespace. A pair is made before its pod's first process, but a runtime may
// do it in another order: no link yet is an error too.
func (t *linkTable) leadingTo(ns *namespace) ([]int, error) {
	if t.links == nil {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		t.links = links
	}
	// Listing the links has given each namespace that they lead to an id.
	id, err := netlink.GetNetNsIdByFd(int(ns.file.Fd()))
	if err != nil {
		return nil, err
	}
	var ifindexes []int
	for _, l := range t.links {
		if id >= 0 && l.Attrs().NetNsID == id && l.Type() == "veth" {
			ifindexes = append(ifindexes, l.Attrs().Index)
		}
	}
	if len(ifindexes) == 0 {
		return nil, errNoLink
	}
	return ifindexes, nil
}

// writeLinks brings the guarded links from those in force to those wanted. A
// thorough round has the guard looked at where it should be in force.
func (r *round) writeLinks() {
	for ifindex, id := range r.guards {
		if r.guarded[ifindex] == id && !r.thorough {
			continue
		}
		owner := r.ownerOf(ifindex)
		err := r.Kernel.GuardLink(ifindex, id)
		if errors.Is(err, unix.ENODEV) {
			delete(r.links, owner) // the next round finds those that there are
			continue
		}
		r.noteUnguarded(owner, err)
		r.guarded[ifindex] = id
		if err != nil {
			r.guarded[ifindex] = 0 // tried again with the next round
		}
	}
	for ifindex := range r.guarded {
		if _, ok := r.guards[ifindex]; ok || r.unsure {
			continue
		}
		if err := r.Kernel.UnguardLink(ifindex); err != nil {
			r.Log.Warn("cannot take away the guard of a link", "ifindex", ifindex, "err", err)
		}
		delete(r.guarded, ifindex)
	}
}

func (r *Reconciler) ownerOf(ifindex int) string {
	for uid, l := range r.links {
		if slices.Contains(l.ifindexes, ifindex) {
			return uid
		}
	}
	return ""
}

func (r *Reconciler) forgetLinks(uid string) {
	delete(r.links, uid)
	r.noteUnguarded(uid, nil)
}

func (r *Reconciler) noteUnguarded(uid string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.unguarded, uid)
		return
	}
	if r.unguarded[uid] == nil {
		r.Log.Warn("a pod's packets are not guarded", "pod_uid", uid, "err", err)
	}
	r.unguarded[uid] = err
}

// Unguarded returns the pods, by UID, whose packets should be guarded and are
// not, with the reason.
func (r *Reconciler) Unguarded() map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.unguarded)
}
