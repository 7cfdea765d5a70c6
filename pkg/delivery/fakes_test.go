package delivery

import (
	"errors"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// kernel keeps verdicts as the maps would.
type kernel struct {
	verdicts map[uint64]workload.Entry
	guarded  map[int]uint64
	tagged   int
	full     bool // no verdict can be written
	behind   bool // no link can be guarded
	gone     int  // this link is not there
}

func newKernel() *kernel {
	return &kernel{verdicts: map[uint64]workload.Entry{}, guarded: map[int]uint64{}}
}

func (k *kernel) SetVerdict(id uint64, e workload.Entry) error {
	if k.full {
		return errors.New("map is full")
	}
	k.verdicts[id] = e
	return nil
}

func (k *kernel) GuardLink(ifindex int, podCgroupID uint64) error {
	if ifindex == k.gone {
		return unix.ENODEV
	}
	if k.behind {
		return errors.New("another program runs first")
	}
	k.guarded[ifindex] = podCgroupID
	return nil
}

func (k *kernel) UnguardLink(ifindex int) error {
	delete(k.guarded, ifindex)
	return nil
}

func (k *kernel) GuardedLinks() ([]int, error) {
	return slices.Collect(maps.Keys(k.guarded)), nil
}

func (k *kernel) DeleteVerdict(id uint64) error {
	delete(k.verdicts, id)
	return nil
}

func (k *kernel) Decided() (ids []uint64, err error) {
	for id := range k.verdicts {
		ids = append(ids, id)
	}
	return ids, nil
}

func (k *kernel) Tag(syscall.RawConn) error {
	k.tagged++
	return nil
}

// node is the pods that the cluster knows and the cgroups that run.
type node struct {
	pods    []workload.Pod
	cgroups []workload.PodCgroup
	pids    map[string][]int // by cgroup path
	looked  map[string]int   // how often for pids
}

func (n *node) Pods() []workload.Pod { return n.pods }

func (n *node) Pod(uid string) (workload.Pod, bool) {
	for _, p := range n.pods {
		if p.UID == uid {
			return p, true
		}
	}
	return workload.Pod{}, false
}

func (n *node) Snapshot() []workload.PodCgroup       { return n.cgroups }
func (n *node) Subscribe() (<-chan struct{}, func()) { return make(chan struct{}), func() {} }

func (n *node) Processes(path string) ([]int, error) {
	if n.looked != nil {
		n.looked[path]++
	}
	return n.pids[path], nil
}

func (n *node) Resolve(id uint64) (workload.CgroupRef, error) {
	for _, cg := range n.cgroups {
		if cg.CgroupID == id {
			return workload.CgroupRef{PodUID: cg.UID}, nil
		}
		for _, c := range cg.Containers {
			if c.CgroupID == id {
				return workload.CgroupRef{PodUID: cg.UID, ContainerID: c.ContainerID}, nil
			}
		}
	}
	return workload.CgroupRef{}, errors.New("no pod's cgroup")
}

// run adds a pod that runs, with the cgroup id.
func (n *node) run(id uint64, p workload.Pod) {
	n.pods = append(n.pods, p)
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: p.UID, CgroupID: id, Path: p.UID})
}
