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

// How often at most the links of all pods are looked at because a link of the
// node changed that is no known pod's: once in allPause, and for no more than
// one part in allShare of the time.
const allPause, allShare = time.Second, 50

// guard keeps the links of pods guarded. It works beside the Reconciler: what
// changes a link waits for whatever else on the node changes one (the kernel
// has one lock for all), and no pod shall wait for its listener meanwhile.
//
// A pod's links are looked for when it starts, when the kernel says that one
// came that leads to its namespace, when its namespace may be another, and at
// each thorough look.
type guard struct {
	*Options
	sandboxes *sandboxFinder
	node      *namespace
	linksOf   func(ns, node *namespace) (podLinks, error)
	links     map[string]podLinks // by pod UID
	changed   map[string]bool     // pods whose links are to be looked at, by UID
	guarded   map[int]uint64      // cgroup ids by link; 0: by an earlier agent
	waiting   waits
	lookedAll time.Time     // when the links of all pods were looked at last
	pause     time.Duration // until they may be looked at again
	allDue    time.Time     // when they are to be; zero: with a thorough look
	trigger   chan struct{}
	looked    chan struct{} // closed after the first look
	news      chan struct{} // has one when the second line lets others through
	lines     signal        // the same, for who waits for one pod

	mu        sync.Mutex
	wanted    []guardedPod
	asked     asking
	unguarded map[string]error            // what Unguarded returns
	let       map[string]workload.PodLink // what the second line lets pods send, by UID
}

// asking is what is to be looked at that nothing is known to have changed of.
type asking struct {
	all     bool            // every pod's links
	guards  bool            // whether the guards are attached
	missing bool            // the links of pods that could not be looked at
	pods    map[string]bool // the links of these, by UID
}

// guardedPod is a pod whose links are looked for.
type guardedPod struct {
	workload.PodCgroup
	known bool             // false: the rules say nothing about it
	sends workload.PodLink // what it may send; the link is left out
}

// everything reports whether the pod may send everything.
func (p guardedPod) everything() bool { return p.sends.IMDS && p.sends.WireServer }

func newGuard(o *Options, sandboxes *sandboxFinder, node *namespace) *guard {
	return &guard{
		Options: o, sandboxes: sandboxes, node: node, linksOf: linksOf,
		links: make(map[string]podLinks), changed: make(map[string]bool), guarded: make(map[int]uint64),
		waiting: make(waits), trigger: make(chan struct{}, 1), looked: make(chan struct{}),
		news: make(chan struct{}, 1), unguarded: make(map[string]error),
	}
}

// want has the links of these pods guarded, and no others.
func (g *guard) want(pods []guardedPod, thorough bool) {
	g.mu.Lock()
	g.wanted = pods
	g.mu.Unlock()
	g.ask(asking{all: thorough, guards: thorough})
}

// ask has this looked at soon, beside what was asked for before.
func (g *guard) ask(more asking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &g.asked
	a.all, a.guards, a.missing = a.all || more.all, a.guards || more.guards, a.missing || more.missing
	if a.pods == nil {
		a.pods = make(map[string]bool)
	}
	maps.Copy(a.pods, more.pods)
	select {
	case g.trigger <- struct{}{}:
	default:
	}
}

// run works from the first want until ctx ends.
func (g *guard) run(ctx context.Context) {
	var events <-chan linkEvent
	if g.GuardLinks {
		events = followLinks(ctx, g.Log)
	}
	var soon time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.trigger:
		case e := <-events:
			g.notice(e)
			for range len(events) {
				g.notice(<-events)
			}
		case <-after(soon):
		}
		soon = g.look()
	}
}

// notice has those pods looked at whose links the event may be of. Ids of
// namespaces are used again, so it never says whose a link is. One that is of no
// known pod may be of a link that a pod's is made on.
func (g *guard) notice(e linkEvent) {
	known := false
	for uid, l := range g.links {
		if e.pair && (l.nsid == e.nsid || l.nsid == unknownNamespace) {
			g.changed[uid] = true
			known = known || l.nsid == e.nsid
		}
	}
	if e.pair {
		for uid := range g.waiting {
			g.changed[uid] = true
		}
	}
	if !known && g.allDue.IsZero() {
		g.allDue = time.Now().Add(max(0, g.pause-time.Since(g.lookedAll)))
	}
}

// look brings the guarded links to what is wanted, and looks at what was asked
// for. It returns how soon to look again; 0: nothing is waited for.
func (g *guard) look() (soon time.Duration) {
	g.mu.Lock()
	wanted, asked := g.wanted, g.asked
	g.asked = asking{}
	g.mu.Unlock()
	maps.Copy(g.changed, asked.pods)
	if asked.missing {
		g.retry()
	}
	all := asked.all || !g.allDue.IsZero() && !time.Now().Before(g.allDue)
	begin := time.Now()
	found := g.find(wanted, all)
	if all {
		g.lookedAll, g.allDue = time.Now(), time.Time{}
		g.pause = max(allPause, allShare*g.lookedAll.Sub(begin))
	}
	g.write(found.links, asked.guards, found.problems)
	if found.sure { // else a link may be a pod's that could not be looked at
		g.drop(found.links)
	}
	var again time.Duration
	if !found.exhausted { // else the line goes by what it got last
		again = g.tellLine(wanted, found.let)
	}
	g.tell(found.problems)
	closeOnce(g.looked)
	return earlier(g.soon(), again)
}

// retry has those pods looked at that something is missing of, but for a link: of
// that the kernel tells.
func (g *guard) retry() {
	for uid, w := range g.waiting {
		if !errors.Is(w.missing, errNoLink) {
			g.changed[uid] = true
		}
	}
}

// findings are what one look found out about the pods that are wanted.
type findings struct {
	links     map[int]workload.PodCgroup  // to be guarded, and whose they are
	let       map[string]workload.PodLink // what the second line may let pods send, by UID
	problems  map[string]error            // why a pod's packets are not guarded, by UID
	sure      bool                        // every pod could be looked at
	exhausted bool                        // some could not for lack of descriptors or memory
}

// find looks for the links of the pods; all: also of those that are known.
func (g *guard) find(wanted []guardedPod, all bool) findings {
	f := findings{
		links: make(map[int]workload.PodCgroup), let: make(map[string]workload.PodLink),
		problems: make(map[string]error), sure: true,
	}
	present := make(map[string]bool)
	for _, p := range wanted {
		present[p.UID] = true
		found, err := g.ensure(p.PodCgroup, all)
		f.add(p, found, err)
	}
	g.forget(present)
	return f
}

// add notes what was found out about a pod.
func (f *findings) add(p guardedPod, found podLinks, err error) {
	if err == nil || linkless(err) {
		f.let[p.UID] = p.sends
	}
	ifindexes, past := found.ifindexes, found.past
	if p.everything() {
		ifindexes, past = found.hidden, nil // the second line knows the others
	}
	for _, ifindex := range ifindexes {
		f.links[ifindex] = p.PodCgroup
	}
	switch {
	case errors.Is(err, errNoSandbox), p.everything() && errors.Is(err, errNoLink):
		err = nil
	case err != nil:
		f.sure = f.sure && errors.Is(err, errNoLink)
		f.exhausted = f.exhausted || workload.Exhausted(err)
	}
	if err := errors.Join(err, past); err != nil {
		f.problems[p.UID] = err
	}
}

// earlier returns the shorter of two waits, where 0 is none.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return cmp.Or(a, b)
	}
	return min(a, b)
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
	changed := !maps.Equal(let, g.let)
	g.let = let
	if changed {
		g.lines.tell()
		select {
		case g.news <- struct{}{}:
		default:
		}
	}
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

// soon returns how soon to look again; 0: nothing is waited for.
func (g *guard) soon() time.Duration {
	if g.allDue.IsZero() {
		return g.waiting.soon()
	}
	return earlier(g.waiting.soon(), max(time.Until(g.allDue), 1))
}

// ensure returns the links of a pod, which it looks for where it does not know
// them, where they may have changed, or if all is to be looked at. What is
// known of them stays with any error that does not say that there are none.
func (g *guard) ensure(cg workload.PodCgroup, all bool) (podLinks, error) {
	have, ok := g.links[cg.UID]
	fresh := all || g.changed[cg.UID]
	delete(g.changed, cg.UID)
	if ok && !fresh && g.waiting[cg.UID] == nil && slices.Equal(have.containers, cg.Containers) {
		return have, nil
	}
	if !fresh && !g.waiting.due(cg) {
		return have, g.waiting[cg.UID].missing
	}
	box := &sandbox{finder: g.sandboxes, cgroup: cg.Path}
	defer box.close()
	found, err := g.findIn(have, box, fresh)
	g.waiting.settle(cg, err)
	switch {
	case errors.Is(err, errNoLink):
		delete(g.links, cg.UID)
		return podLinks{}, err
	case err != nil:
		return have, err
	}
	found.containers = cg.Containers
	g.links[cg.UID] = found
	return found, nil
}

// findIn returns the links in the namespace that a pod is in now.
func (g *guard) findIn(have podLinks, box *sandbox, fresh bool) (podLinks, error) {
	ns, err := box.open()
	if err != nil || have.inode == ns.inode && !fresh {
		return have, err
	}
	found, err := g.linksOf(ns, g.node)
	if err != nil {
		return found, fmt.Errorf("find the pod's links: %w", err)
	}
	if g.Line == nil {
		return found, nil
	}
	for _, ifindex := range found.ifindexes {
		if is, err := hidden(ifindex); err == nil && is {
			found.hidden = append(found.hidden, ifindex)
		}
	}
	return found, nil
}

// forget drops what is kept of pods that are not to be guarded.
func (g *guard) forget(present map[string]bool) {
	for uid := range g.links {
		if !present[uid] {
			delete(g.links, uid)
		}
	}
	for uid := range g.changed {
		if !present[uid] {
			delete(g.changed, uid)
		}
	}
	g.waiting.forget(present)
}

// write has the links guarded, each on behalf of its pod, and notes what went
// wrong by pod. Guards that should be there are looked at only if again is set.
func (g *guard) write(want map[int]workload.PodCgroup, again bool, problems map[string]error) {
	for ifindex, pod := range want {
		if g.guarded[ifindex] == pod.CgroupID && !again {
			continue
		}
		err := g.Kernel.GuardLink(ifindex, pod.CgroupID)
		switch {
		case err == nil:
			g.guarded[ifindex] = pod.CgroupID
			continue
		case errors.Is(err, unix.ENODEV):
			g.went(ifindex, pod, err)
			delete(want, ifindex) // and its guard is taken from the books
		default:
			problems[pod.UID] = errors.Join(problems[pod.UID], err)
		}
		g.guarded[ifindex] = 0 // tried again with the next look
	}
}

// went forgets a link that is gone. Those that its pod has now are looked for
// soon.
func (g *guard) went(ifindex int, pod workload.PodCgroup, err error) {
	have := g.links[pod.UID]
	have.ifindexes = slices.DeleteFunc(slices.Clone(have.ifindexes), func(i int) bool { return i == ifindex })
	g.links[pod.UID] = have
	g.changed[pod.UID] = true
	g.waiting.settle(pod, err)
}

// drop removes the guards that are not wanted.
func (g *guard) drop(want map[int]workload.PodCgroup) {
	for ifindex := range g.guarded {
		if _, ok := want[ifindex]; ok {
			continue
		}
		if err := g.Kernel.UnguardLink(ifindex); err != nil {
			g.Log.Warn("cannot remove the guard of a link", "ifindex", ifindex, "err", err)
		}
		delete(g.guarded, ifindex)
	}
}

// tell says of which pods not every packet is guarded.
func (g *guard) tell(problems map[string]error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, err := range problems {
		if g.unguarded[uid] == nil {
			g.Log.Warn("a pod's packets are not guarded", "pod_uid", uid, "err", err)
		}
	}
	g.unguarded = problems
}
