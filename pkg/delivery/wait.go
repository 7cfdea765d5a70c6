package delivery

import (
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// shortestPause is how soon a pod whose namespace is not there yet is
	// looked at again: the runtime takes 10–20 ms to enter it.
	shortestWait = 2 * time.Millisecond
	longestWait  = 500 * time.Millisecond
	// waitLimit ends the looking at one pod; then checkInterval holds.
	waitLimit = 10 * time.Second
)

// waits are for what is missing of pods, by UID.
type waits map[string]*wait

type wait struct {
	since      time.Time
	containers []workload.ContainerCgroup // at that time
	next       time.Time                  // when to look again; zero: with the others
	missing    error                      // as the last look had it
}

// settle notes whether something is missing of the pod, and has it looked at
// again soon for a while: the longer it lasts, the less often. A pod without a
// link that could be guarded will never have one, and what is used up does not
// come back for being asked for. It reports whether nothing was missing before.
func (all waits) settle(cg workload.PodCgroup, missing error) (news bool) {
	if missing == nil {
		delete(all, cg.UID)
		return false
	}
	now := time.Now()
	w := all[cg.UID]
	news = w == nil
	if news || !slices.Equal(w.containers, cg.Containers) {
		w = &wait{since: now, containers: cg.Containers}
		all[cg.UID] = w
	}
	w.next, w.missing = time.Time{}, missing
	if elapsed := now.Sub(w.since); elapsed < waitLimit && !workload.Exhausted(missing) {
		w.next = now.Add(min(max(elapsed/16, shortestWait), longestWait))
	}
	return news
}

// due reports whether it is time to look at the pod: nothing is known to be
// missing of it, the time has come, or it has other containers.
func (all waits) due(cg workload.PodCgroup) bool {
	w := all[cg.UID]
	return w == nil || !slices.Equal(w.containers, cg.Containers) || !w.next.IsZero() && !time.Now().Before(w.next)
}

// soon returns how soon the next one is due; 0: none will be.
func (all waits) soon() (soon time.Duration) {
	for _, w := range all {
		if w.next.IsZero() {
			continue
		}
		if left := max(time.Until(w.next), 1); soon == 0 || left < soon {
			soon = left
		}
	}
	return soon
}

// forget drops the pods that are not present.
func (all waits) forget(present map[string]bool) {
	for uid := range all {
		if !present[uid] {
			delete(all, uid)
		}
	}
}
