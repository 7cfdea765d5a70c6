package delivery

import (
	"cmp"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// rota takes turns through the pods.
type rota struct {
	last string // the cgroup's path of the pod whose turn was last
}

// next returns the part of the pods, which are sorted by path, whose turn it is:
// within so many rounds it is every pod's, also while others come and go.
func (r *rota) next(all []workload.PodCgroup, rounds int) (part []workload.PodCgroup) {
	if len(all) == 0 {
		return nil
	}
	at, found := slices.BinarySearchFunc(all, r.last, func(cg workload.PodCgroup, path string) int {
		return cmp.Compare(cg.Path, path)
	})
	if found {
		at++
	}
	for range (len(all) + rounds - 1) / rounds {
		part = append(part, all[at%len(all)])
		at++
	}
	r.last = part[len(part)-1].Path
	return part
}

// check looks at the pods that something is missing of, thoroughly at those whose
// turn it is, and at the guards of all links when that is due.
func (r *Reconciler) check() (soon time.Duration) {
	turn := make(map[string]bool)
	for _, cg := range r.audit.next(r.last.cgroups, auditRounds) {
		turn[cg.UID] = true
	}
	r.checks++
	r.guard.check(turn, true, r.checks%guardRounds == 0)
	r.drop(r.last.want) // what could not be removed before
	if r.last.lacking[""] && r.setSelf() == nil {
		delete(r.last.lacking, "")
	}
	return r.lookClosely(func(cg workload.PodCgroup) bool {
		return turn[cg.UID] || r.waiting[cg.UID] != nil || r.last.lacking[cg.UID]
	})
}

// lookAtLost looks at the pods whose sandbox has ended, or is in another
// namespace than it was.
func (r *Reconciler) lookAtLost() (soon time.Duration) {
	lost, uids := r.sandboxes.takeLost(), make(map[string]bool)
	for _, cg := range r.last.cgroups {
		if lost[cg.Path] {
			uids[cg.UID] = true
		}
	}
	r.guard.check(uids, false, false)
	return r.lookClosely(func(cg workload.PodCgroup) bool { return lost[cg.Path] })
}

// lookClosely looks at some pods thoroughly, and at no others.
func (r *Reconciler) lookClosely(which func(workload.PodCgroup) bool) (soon time.Duration) {
	now := r.last
	now.thorough = true
	for _, cg := range now.cgroups {
		if cg.CgroupID != r.Self && which(cg) {
			now.visit(cg)
		}
	}
	now.thorough = false
	return now.end()
}
