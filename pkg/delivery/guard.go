package delivery

import (
	"cmp"
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
	news      chan struct{} // has one when the second line lets more pods through

	mu        sync.Mutex
	wanted    []guardedPod
	thorough  bool                        // look at every pod's links anew
	unguarded map[string]error            // what Unguarded returns
	let       map[string]workload.PodLink // what the second line lets pods send, by UID
}

// guardedPod is a pod whose links are looked for.
type guardedPod struct {
	workload.PodCgroup
	known bool             // false: the rules say nothing about it
	sends workload.PodLink // what it may send; the link is left out
}

// everything reports whether the pod may send everything.
func (p guardedPod) everything() bool { return p.sends.IMDS && p.sends.WireServer }

// podLinks are the node's ends of one guarded pod's links.
type podLinks struct {
	inode      uint64 // the pod's network namespace
	containers []workload.ContainerCgroup
	ifindexes  []int
	hidden     []int // those of them that are ports of a bridge
}

func newGuard(o *Options, sandboxes *sandboxFinder, node *namespace) *guard {
	return &guard{
		Options: o, sandboxes: sandboxes, node: node,
		links: make(map[string]podLinks), guarded: make(map[int]uint64), waiting: make(waits),
		poke: make(chan struct{}, 1), looked: make(chan struct{}), news: make(chan struct{}, 1),
		unguarded: make(map[string]error),
	}
}

// want has the links of these pods guarded, and no others.
func (g *guard) want(pods []guardedPod, thorough bool) {
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
	let := make(map[string]workload.PodLink)
	for _, p := range wanted {
		present[p.UID] = true
		ifindexes, err := g.ensure(p, thorough)
		sure = sure && !workload.Exhausted(err)
		if p.everything() {
			ifindexes = g.links[p.UID].hidden // the second line knows the others
		}
		for _, ifindex := range ifindexes {
			links[ifindex] = p.PodCgroup
		}
		if err == nil || linkless(err) {
			let[p.UID] = p.sends
		}
	}
	g.forget(present)
	g.write(links, thorough)
	if sure { // else a link may be a pod's that could not be looked at
		g.drop(links)
		soon = g.tellLine(wanted, let)
	}
	closeOnce(g.looked)
	return cmp.Or(g.waiting.soon(), soon)
}

// linkless reports whether the pod has links, and none that the node routes
// for: no line stands in its way.
func linkless(err error) bool {
	return errors.Is(err, errNoLink) && !errors.Is(err, errNoLinkYet)
}

// tellLine has the second line let through what the pods may send, and notes
// whom it lets. It returns how soon to try again; 0: all is done.
func (g *guard) tellLine(wanted []guardedPod, let map[string]workload.PodLink) (soon time.Duration) {
	if g.Line == nil {
		return 0
	}
	var all []workload.PodLink
	for _, p := range wanted {
		for _, ifindex := range g.links[p.UID].ifindexes {
			if p.known {
				all = append(all, workload.PodLink{Ifindex: ifindex, IMDS: p.sends.IMDS, WireServer: p.sends.WireServer})
			}
		}
	}
	if err := g.Line.SetLinks(all); err != nil {
		return longestWait
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !maps.Equal(let, g.let) {
		select {
		case g.news <- struct{}{}:
		default:
		}
	}
	g.let = let
	return 0
}

// lets reports whether the second line lets through what the pod may send.
func (g *guard) lets(uid string, sends workload.PodLink) bool {
	if g.Line == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	have := g.let[uid]
	return (have.IMDS || !sends.IMDS) && (have.WireServer || !sends.WireServer)
}

// ensure returns the links of a pod, which it looks for where it does not know
// them.
func (g *guard) ensure(p guardedPod, thorough bool) ([]int, error) {
	cg := p.PodCgroup
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
		mayLackLinks := p.everything() && errors.Is(err, errNoLink)
		if !errors.Is(err, errNoSandbox) && !mayLackLinks {
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
	if err != nil {
		return have, err
	}
	if have.inode != ns.inode {
		ifindexes, err := linksOf(ns, g.node)
		if err != nil {
			return podLinks{}, fmt.Errorf("find the pod's links: %w", err)
		}
		have = podLinks{inode: ns.inode, ifindexes: ifindexes}
	}
	if g.Line == nil {
		return have, nil
	}
	have.hidden = nil
	for _, ifindex := range have.ifindexes {
		if is, err := hidden(ifindex); err == nil && is {
			have.hidden = append(have.hidden, ifindex)
		}
	}
	return have, nil
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
