package delivery

import (
	"errors"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// round is one look at all pods. A thorough one looks at the namespace of every
// pod that has something in it, others only where containers came or went.
type round struct {
	*Reconciler
	thorough bool
	pods     map[string]workload.Pod // by UID
	cgroups  []workload.PodCgroup
	want     map[uint64]workload.Entry
	lacking  map[string]bool // steered pods without a listener, and pods without a verdict
	left     bool            // a pod that passes waits for the second line
}

// reconcile makes one pass over all pods. It returns how soon to lookAgain; 0:
// nothing is waited for.
func (r *Reconciler) reconcile(thorough bool) (soon time.Duration) {
	now := &round{
		Reconciler: r, thorough: thorough, pods: make(map[string]workload.Pod), cgroups: r.Cgroups.Snapshot(),
		want: make(map[uint64]workload.Entry), lacking: make(map[string]bool),
	}
	for _, pod := range r.Pods.Pods() {
		now.pods[pod.UID] = pod
	}
	running := make(map[string]bool)
	for _, cg := range now.cgroups {
		running[cg.UID] = true
		if cg.CgroupID != r.Self {
			now.visit(cg)
		}
	}
	if r.Self != 0 {
		now.want[r.Self] = OwnEntry()
		if r.setSelf() != nil {
			now.lacking[""] = true
		}
	}
	r.forget(running)
	r.aborter.forget(running)
	r.noteRunning(running)
	r.sandboxes.forgetOthers(now.cgroups)
	r.drop(now.want)
	r.guard.want(now.toGuard(), thorough)
	r.last = now
	return now.end()
}

// lookAgain looks at the pods that something is missing of and nothing else
// has changed of, as often as it is time to.
func (r *Reconciler) lookAgain() (soon time.Duration) {
	now := r.last
	now.thorough = false
	for _, cg := range now.cgroups {
		if r.waiting[cg.UID] != nil && r.waiting.due(cg) {
			now.visit(cg)
		}
	}
	return now.end()
}

// end says whether everything is applied, and returns how soon to look again.
func (r *round) end() (soon time.Duration) {
	if len(r.lacking) == 0 && closed(r.guard.looked) {
		closeOnce(r.ready)
	}
	if closed(r.guard.looked) && !r.left || time.Since(r.since) > decideWithin {
		closeOnce(r.decided)
	}
	return r.waiting.soon()
}

// toGuard returns the pods whose links are to be guarded: those that may not
// send everything, and those that nothing is known of. With a second line it
// returns the others as well.
func (r *round) toGuard() (all []guardedPod) {
	if !r.GuardLinks {
		return nil
	}
	for _, cg := range r.cgroups {
		pod := r.pods[cg.UID]
		p := guardedPod{PodCgroup: cg, known: pod.UID != ""}
		switch {
		case r.Self != 0 && cg.CgroupID == r.Self:
			p.known, p.sends = true, workload.PodLink{IMDS: true, WireServer: true}
		case p.known:
			p.sends = sends(pod)
		}
		if (r.Line != nil || !p.everything()) && !pod.HostNetwork {
			all = append(all, p)
		}
	}
	return all
}

// sends returns what the pod may send over its links. The decision counts and
// not the verdict, which waits for the second line.
func sends(pod workload.Pod) workload.PodLink {
	return workload.PodLink{IMDS: pod.PassesAny(), WireServer: !pod.Decision.DenyWireServer}
}

// OwnEntry returns what must be applied for the agent's own pod before the
// node listener is opened.
func OwnEntry() workload.Entry { return workload.Entry{Verdict: workload.Pass, Agent: true} }

// visit sees to one pod that runs.
func (r *round) visit(cg workload.PodCgroup) {
	box := &sandbox{finder: r.sandboxes, cgroup: cg.Path}
	defer box.close()
	defer func() { r.aborter.see(r.abortable(cg)) }()
	delete(r.lacking, cg.UID)
	pod, known := r.pods[cg.UID]
	if !known {
		delete(r.waiting, cg.UID)
		r.closeListener(cg.UID)
		r.orphan(cg)
		return
	}
	if pod.PassesAny() && !pod.HostNetwork && !r.guard.lets(cg.UID, sends(pod)) {
		// Its first packet shall find the second line open.
		delete(r.waiting, cg.UID)
		r.leave(cg)
		r.left = true
		return
	}
	at, err := r.deliver(pod, cg, box)
	if err != nil && !errors.Is(err, errNoSandbox) {
		r.lacking[cg.UID] = true
	}
	// At once, and not when all pods have been seen to.
	if set := r.decide(pod, cg, at); set != nil {
		r.lacking[cg.UID] = true
		err = errors.Join(err, set)
	}
	if r.waiting.settle(cg, err) && !errors.Is(err, errNoSandbox) {
		r.Log.Warn("a pod is not served as it should be", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
}

// orphan sees to a pod that the rules say nothing about. One that was decided
// on has lost its object while its processes live on: it is held until its
// cgroup is gone, whatever the settings say of unknown pods, or whoever may
// delete his own object would have the node's identity. One that was never
// decided on gets no entry: the kernel side calls it unknown.
func (r *round) orphan(cg workload.PodCgroup) {
	if !r.wasDecided(cg) {
		return
	}
	if err := r.put(cg.CgroupID, orphanEntry()); err != nil {
		r.lacking[cg.UID] = true
	}
}

// orphanEntry is what holds a pod without an object. That it may not reach the
// wire server either harms no pod: it has no use for it any more.
func orphanEntry() workload.Entry {
	return workload.Entry{Verdict: workload.Unknown, DenyWireServer: true}
}

// wasDecided reports whether this agent, or an earlier one, had an entry for
// the pod or for one of its containers.
func (r *round) wasDecided(cg workload.PodCgroup) bool {
	if _, ok := r.applied[cg.CgroupID]; ok {
		return true
	}
	return slices.ContainsFunc(cg.Containers, func(c workload.ContainerCgroup) bool {
		_, ok := r.applied[c.CgroupID]
		return ok
	})
}

// decide applies the entries of one pod: its own, and those of containers
// that differ.
func (r *round) decide(pod workload.Pod, cg workload.PodCgroup, at workload.Entry) error {
	own := resolve(pod.Decision, at)
	for _, d := range pod.Containers {
		own.Shared = own.Shared || d.Verdict == workload.Pass
	}
	err := r.put(cg.CgroupID, own)
	for _, c := range cg.Containers {
		if d, ok := pod.Containers[c.ContainerID]; ok {
			err = errors.Join(err, r.put(c.CgroupID, resolve(d, at)))
		}
	}
	return err
}

// abortable returns where a pod's sockets may not lead by the entries that this
// agent has applied.
func (r *round) abortable(cg workload.PodCgroup) abortable {
	now := abortable{PodCgroup: cg, closed: make(map[uint64]closedTo)}
	note := func(id uint64) {
		e := r.applied[id]
		if e == nil {
			return
		}
		if now.closed[id] = 0; r.enforced.Load() {
			now.closed[id] = closedBy(*e)
		}
	}
	note(cg.CgroupID)
	for _, c := range cg.Containers {
		note(c.CgroupID)
	}
	own := r.applied[cg.CgroupID]
	now.shared = own != nil && own.Shared
	return now
}

// leave leaves the entries of a pod as they are: none, or those of before.
func (r *round) leave(cg workload.PodCgroup) {
	for _, c := range append([]workload.ContainerCgroup{{CgroupID: cg.CgroupID}}, cg.Containers...) {
		if e, ok := r.applied[c.CgroupID]; ok {
			r.want[c.CgroupID] = workload.Entry{}
			if e != nil {
				r.want[c.CgroupID] = *e
			}
		}
	}
}

func (r *round) put(id uint64, e workload.Entry) error {
	r.want[id] = e
	return r.set(id, e)
}

// resolve turns a rule's decision into a kernel's entry. at is where the pod
// is to be steered to; while that is nowhere, a steered pod is unknown.
func resolve(d workload.Decision, at workload.Entry) workload.Entry {
	e := workload.Entry{Verdict: d.Verdict}
	if d.Verdict == workload.Steer {
		e = at
	}
	e.DenyWireServer = d.DenyWireServer
	return e
}

// forget drops what is kept of pods that no longer run.
func (r *Reconciler) forget(running map[string]bool) {
	for uid := range r.listeners {
		if !running[uid] {
			r.closeListener(uid)
		}
	}
	r.waiting.forget(running)
}

// Close closes the listeners; the Reconciler must not run again. Verdicts and
// guards stay: where no agent has the listeners open, steered pods are refused.
func (r *Reconciler) Close() {
	for uid := range r.listeners {
		r.closeListener(uid)
	}
	r.sandboxes.close()
	r.node.close()
}
