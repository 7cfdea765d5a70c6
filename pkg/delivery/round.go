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

// podListener is the listener of one pod and the namespace it is in.
type podListener struct {
	*listener
	inode      uint64
	containers []workload.ContainerCgroup // when the namespace was last looked at
}

// deliver makes sure that a steered pod has its listener, in the namespace
// that the pod is in now, and returns where its connects go. Until it has one
// that is nowhere: the zero entry, Unknown.
func (r *round) deliver(pod workload.Pod, cg workload.PodCgroup, box *sandbox) (workload.Entry, error) {
	if !pod.Steered() {
		r.closeListener(pod.UID)
		return workload.Entry{}, nil
	}
	if r.NodeOnly {
		return workload.Entry{Verdict: workload.Steer}, nil
	}
	l, err := r.ensure(pod, cg, box)
	if err != nil {
		return workload.Entry{}, err
	}
	return workload.Entry{Verdict: workload.Steer, Port: l.port(), NetnsCookie: l.netnsCookie}, nil
}

func (r *round) ensure(pod workload.Pod, cg workload.PodCgroup, box *sandbox) (*podListener, error) {
	have := r.listeners[pod.UID]
	if have != nil && !r.thorough && slices.Equal(have.containers, cg.Containers) {
		return have, nil
	}
	if pod.HostNetwork {
		if have != nil {
			return have, nil
		}
		return r.open(pod, nil, cg.Containers)
	}
	ns, err := box.open()
	if have != nil && workload.Exhausted(err) {
		return have, nil // looked at again with the others
	}
	if err != nil {
		// The sandbox has ended: an open listener would keep its namespace
		// and the devices in it alive.
		r.closeListener(pod.UID)
		return nil, err
	}
	if have != nil && have.inode == ns.inode {
		have.containers = cg.Containers
		return have, nil
	}
	r.closeListener(pod.UID)
	return r.open(pod, ns, cg.Containers)
}

// open opens the pod's listener in the namespace, or in the node's if that is
// nil, and starts to accept.
func (r *Reconciler) open(pod workload.Pod, ns *namespace, containers []workload.ContainerCgroup) (*podListener, error) {
	p := &podListener{containers: containers}
	listen := func() (err error) {
		p.listener, err = listenInRange(r.Kernel, r.Ports, pod.Ports)
		return err
	}
	var err error
	if ns == nil {
		err = listen()
	} else {
		p.inode = ns.inode
		err = ns.do(listen)
	}
	if err != nil {
		if p.listener != nil {
			p.Close()
		}
		return nil, err
	}
	r.start(pod.UID, p)
	r.Log.Debug("listener opened", "namespace", pod.Namespace, "pod", pod.Name, "port", p.port())
	return p, nil
}

// start makes the listener the pod's and accepts.
func (r *Reconciler) start(uid string, p *podListener) {
	var wait func()
	if r.Pace != nil {
		wait = r.Pace()
	}
	go p.accept(r.Serve, p.netnsCookie, wait, r.Log)
	r.listeners[uid] = p
	r.mu.Lock()
	r.ports[uid] = p.port()
	r.mu.Unlock()
	r.opened.tell()
}

func (r *Reconciler) closeListener(uid string) {
	l := r.listeners[uid]
	if l == nil {
		return
	}
	l.Close()
	delete(r.listeners, uid)
	r.mu.Lock()
	delete(r.ports, uid)
	r.mu.Unlock()
}

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
