package delivery

import (
	"errors"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// round is one look at all pods. A thorough one looks at the namespace of every
// pod that has something in it, others only where containers came or went.
type round struct {
	*Reconciler
	thorough bool
	pods     map[string]workload.Pod // by UID
	want     map[uint64]workload.Entry
	guards   map[int]uint64 // links to be guarded: cgroup ids of their pods
	table    linkTable
	unsure   bool // some pod's links could not be looked for: no guard is taken away
	complete bool // every steered pod has its listener
	retry    bool // some pod should be looked at again soon
}

// reconcile makes one pass over all pods. It reports whether some pod should
// be looked at again soon.
func (r *Reconciler) reconcile(thorough bool) (retry bool) {
	now := &round{
		Reconciler: r, thorough: thorough, pods: make(map[string]workload.Pod),
		want: make(map[uint64]workload.Entry), guards: make(map[int]uint64), complete: true,
	}
	for _, pod := range r.Pods.Pods() {
		now.pods[pod.UID] = pod
	}
	running := make(map[string]bool)
	for _, cg := range r.Cgroups.Snapshot() {
		running[cg.UID] = true
		if cg.CgroupID != r.Self {
			now.visit(cg)
		}
	}
	if r.Self != 0 {
		now.want[r.Self] = OwnEntry()
	}
	r.forget(running)
	now.complete = r.write(now.want) && now.complete
	now.writeLinks()
	closeOnce(r.passed)
	if now.complete {
		closeOnce(r.ready)
	}
	return now.retry
}

// OwnEntry returns what must be in force for the agent's own pod before the
// node listener is opened.
func OwnEntry() workload.Entry { return workload.Entry{Verdict: workload.Pass, Agent: true} }

// visit sees to one pod that runs.
func (r *round) visit(cg workload.PodCgroup) {
	box := &sandbox{finder: &r.sandboxes, cgroup: cg.Path}
	defer box.close()
	pod, known := r.pods[cg.UID]
	if !known {
		// No verdict: the kernel side calls it unknown.
		r.closeListener(cg.UID)
		_ = r.guard(cg, workload.Entry{}, box) // seen again with the next event
		return
	}
	at, err := r.deliver(pod, cg, box)
	if err != nil {
		r.complete = r.complete && errors.Is(err, errNoSandbox)
	}
	r.decide(pod, cg, at)
	if !pod.HostNetwork {
		err = errors.Join(err, r.guard(cg, r.want[cg.CgroupID], box))
	}
	r.settle(pod, err)
}

// decide adds the entries of one pod: its own, and those of containers that
// differ.
func (r *round) decide(pod workload.Pod, cg workload.PodCgroup, at workload.Entry) {
	own := resolve(pod.Decision, at)
	for _, d := range pod.Containers {
		own.Shared = own.Shared || d.Verdict == workload.Pass
	}
	r.want[cg.CgroupID] = own
	for _, c := range cg.Containers {
		if d, ok := pod.Containers[c.ContainerID]; ok {
			r.want[c.CgroupID] = resolve(d, at)
		}
	}
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

// settle keeps count of how long something has been missing of the pod, and
// has it looked at again soon for a while.
func (r *round) settle(pod workload.Pod, err error) {
	if err == nil {
		delete(r.waiting, pod.UID)
		return
	}
	since, waiting := r.waiting[pod.UID]
	if !waiting {
		since = time.Now()
		r.waiting[pod.UID] = since
	}
	if !waiting && !errors.Is(err, errNoSandbox) {
		r.Log.Warn("a pod is not served as it should be", "namespace", pod.Namespace, "pod", pod.Name,
			"err", err)
	}
	if time.Since(since) < retryLimit && !workload.Exhausted(err) {
		r.retry = true
	}
}

// forget drops what is kept of pods that no longer run.
func (r *Reconciler) forget(running map[string]bool) {
	for uid := range r.listeners {
		if !running[uid] {
			r.closeListener(uid)
		}
	}
	for uid := range r.waiting {
		if !running[uid] {
			delete(r.waiting, uid)
		}
	}
	for uid := range r.links {
		if !running[uid] {
			r.forgetLinks(uid)
		}
	}
}

// Close closes the listeners; the Reconciler must not run. Verdicts and guards
// stay: where no agent has the listeners open, steered pods are refused.
func (r *Reconciler) Close() {
	for uid := range r.listeners {
		r.closeListener(uid)
	}
}
