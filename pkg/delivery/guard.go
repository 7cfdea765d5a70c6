package delivery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// guard keeps the links of pods guarded. It works beside the Reconciler: what
// changes a link waits for whatever else on the node changes one (the kernel
// has one lock for all), and no pod shall wait for its listener meanwhile.
type guard struct {
	*Options
	sandboxes *sandboxFinder
	node      *namespace
	links     map[string]podLinks // by pod UID
	guarded   map[int]uint64      // cgroup ids by link; 0: by an earlier agent
	waiting   waits
	poke      chan struct{}
	looked    chan struct{} // closed after the first look

	mu        sync.Mutex
	wanted    []workload.PodCgroup
	thorough  bool             // look at every pod's links anew
	unguarded map[string]error // what Unguarded returns
}

// podLinks are the node's ends of one guarded pod's links.
type podLinks struct {
	inode      uint64 // the pod's network namespace
	containers []workload.ContainerCgroup
	ifindexes  []int
}

func newGuard(o *Options, sandboxes *sandboxFinder, node *namespace) *guard {
	return &guard{
		Options: o, sandboxes: sandboxes, node: node,
		links: make(map[string]podLinks), guarded: make(map[int]uint64), waiting: make(waits),
		poke: make(chan struct{}, 1), looked: make(chan struct{}), unguarded: make(map[string]error),
	}
}

// want has the links of these pods guarded, and no others.
func (g *guard) want(pods []workload.PodCgroup, thorough bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted, g.thorough = pods, g.thorough || thorough
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// run works from the first want until ctx ends.
func (g *guard) run(ctx context.Context) {
	var soon time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.poke:
		case <-after(soon):
		}
		soon = g.look()
	}
}

// look brings the guarded links to what is wanted; a thorough one looks at the
// namespace of every pod, and at the guards that should be in force. It returns
// how soon to look again at pods whose links were not found; 0: there are none.
func (g *guard) look() (soon time.Duration) {
	g.mu.Lock()
	wanted, thorough := g.wanted, g.thorough
	g.thorough = false
	g.mu.Unlock()
	links := make(map[int]workload.PodCgroup)
	present := make(map[string]bool)
	sure := true
	for _, cg := range wanted {
		present[cg.UID] = true
		ifindexes, err := g.ensure(cg, thorough)
		sure = sure && !workload.Exhausted(err)
		for _, ifindex := range ifindexes {
			links[ifindex] = cg
		}
	}
	g.forget(present)
	g.write(links, thorough)
	if sure { // else a link may be a pod's that could not be looked at
		g.drop(links)
	}
	closeOnce(g.looked)
	return g.waiting.soon()
}

// ensure returns the links of a pod, which it looks for where it does not know
// them.
func (g *guard) ensure(cg workload.PodCgroup, thorough bool) ([]int, error) {
	have, ok := g.links[cg.UID]
	if ok && !thorough && slices.Equal(have.containers, cg.Containers) {
		return have.ifindexes, nil
	}
	if !ok && !thorough && !g.waiting.due(cg) {
		return nil, g.waiting[cg.UID].missing
	}
	box := &sandbox{finder: g.sandboxes, cgroup: cg.Path}
	defer box.close()
	found, err := g.find(have, box)
	g.waiting.settle(cg, err)
	switch {
	case ok && workload.Exhausted(err):
		return have.ifindexes, err // looked for anew with the next thorough look
	case err != nil:
		delete(g.links, cg.UID)
		if !errors.Is(err, errNoSandbox) {
			g.note(cg.UID, err)
		}
		return nil, err
	}
	found.containers = cg.Containers
	g.links[cg.UID] = found
	g.note(cg.UID, nil)
	return found.ifindexes, nil
}

// find returns the links that lead to the namespace that a pod is in now.
func (g *guard) find(have podLinks, box *sandbox) (podLinks, error) {
	ns, err := box.open()
	if err != nil || have.inode == ns.inode {
		return have, err
	}
	ifindexes, err := linksOf(ns, g.node)
	if err != nil {
		return podLinks{}, fmt.Errorf("find the pod's links: %w", err)
	}
	return podLinks{inode: ns.inode, ifindexes: ifindexes}, nil
}

// forget drops what is kept of pods that are not to be guarded.
func (g *guard) forget(present map[string]bool) {
	for uid := range g.links {
		if !present[uid] {
			delete(g.links, uid)
		}
	}
	g.waiting.forget(present)
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid := range g.unguarded {
		if !present[uid] {
			delete(g.unguarded, uid)
		}
	}
}

// write has the links guarded, each on behalf of its pod. Where a guard should
// be in force it is looked at only if thorough.
func (g *guard) write(want map[int]workload.PodCgroup, thorough bool) {
	for ifindex, pod := range want {
		if g.guarded[ifindex] == pod.CgroupID && !thorough {
			continue
		}
		err := g.Kernel.GuardLink(ifindex, pod.CgroupID)
		if errors.Is(err, unix.ENODEV) {
			delete(g.links, pod.UID) // those that there are now are looked for soon
			g.waiting.settle(pod, err)
			continue
		}
		g.note(pod.UID, err)
		g.guarded[ifindex] = pod.CgroupID
		if err != nil {
			g.guarded[ifindex] = 0 // tried again with the next look
		}
	}
}

// drop takes the guards away that are not wanted.
func (g *guard) drop(want map[int]workload.PodCgroup) {
	for ifindex := range g.guarded {
		if _, ok := want[ifindex]; ok {
			continue
		}
		if err := g.Kernel.UnguardLink(ifindex); err != nil {
			g.Log.Warn("cannot take away the guard of a link", "ifindex", ifindex, "err", err)
		}
		delete(g.guarded, ifindex)
	}
}

// note tells whether the pod's packets are guarded.
func (g *guard) note(uid string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		delete(g.unguarded, uid)
		return
	}
	if g.unguarded[uid] == nil {
		g.Log.Warn("a pod's packets are not guarded", "pod_uid", uid, "err", err)
	}
	g.unguarded[uid] = err
}

// Unguarded returns the pods, by UID, whose packets should be guarded and are
// not, with the reason.
func (r *Reconciler) Unguarded() map[string]error {
	r.guard.mu.Lock()
	defer r.guard.mu.Unlock()
	return maps.Clone(r.guard.unguarded)
}
