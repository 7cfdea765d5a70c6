package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// retryInterval is how soon a pod whose namespace is not there yet is
	// looked at again: the runtime takes 10–20 ms to enter it.
	retryInterval = 5 * time.Millisecond
	// retryLimit ends the quick retries of one pod; then checkInterval holds.
	retryLimit = 10 * time.Second
	// checkInterval is how often every listener's namespace is compared with
	// its pod's, in case an event was missed.
	checkInterval = 5 * time.Second
)

// Reconciler keeps listeners and verdicts as the rules and the running pods
// want them.
type Reconciler struct {
	Options
	sandboxes sandboxFinder
	listeners map[string]*podListener // by pod UID
	inForce   map[uint64]entry        // verdicts as last written
	waiting   map[string]time.Time    // pods without a namespace, since when
	poke      chan struct{}
	passed    chan struct{}
	ready     chan struct{}

	mu    sync.Mutex
	ports map[string]uint16 // what Listeners returns
}

type entry struct {
	verdict workload.Verdict
	port    uint16
	cookie  uint64
	// foreign marks what an earlier agent wrote: it equals no wanted entry,
	// so it is written anew or deleted.
	foreign bool
}

// NewReconciler returns a Reconciler for the network namespace it is called
// in, the node's.
func NewReconciler(o Options) (*Reconciler, error) {
	node, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	defer node.close()
	return &Reconciler{
		Options:   o,
		sandboxes: sandboxFinder{proc: o.Proc, cgroups: o.Cgroups, nodeInode: node.inode},
		listeners: make(map[string]*podListener),
		inForce:   make(map[uint64]entry),
		waiting:   make(map[string]time.Time),
		poke:      make(chan struct{}, 1),
		passed:    make(chan struct{}),
		ready:     make(chan struct{}),
		ports:     make(map[string]uint16),
	}, nil
}

// Passed is closed after the first pass over all pods: from then on the
// programs may be attached without holding pods that pass.
func (r *Reconciler) Passed() <-chan struct{} { return r.passed }

// Ready is closed once every steered pod that runs has its listener and every
// pod its verdict.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// Poke asks for a look at everything soon; it never blocks.
func (r *Reconciler) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Listeners returns the port of each pod's listener by pod UID.
func (r *Reconciler) Listeners() map[string]uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]uint16, len(r.ports))
	for uid, port := range r.ports {
		all[uid] = port
	}
	return all
}

// Run works until ctx ends, then closes the listeners and returns nil.
// Verdicts stay: without their listeners, steered pods are refused. Pods and
// Cgroups must be complete before it starts: what they do not have loses its
// verdict and is held.
func (r *Reconciler) Run(ctx context.Context) error {
	defer r.closeAll()
	if err := r.adopt(); err != nil {
		return err
	}
	pods, cancelPods := r.Pods.Subscribe()
	defer cancelPods()
	cgroups, cancelCgroups := r.Cgroups.Subscribe()
	defer cancelCgroups()
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	thorough := true
	for {
		retry := r.reconcile(thorough)
		thorough = false
		var again <-chan time.Time
		if retry {
			again = time.After(retryInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pods:
		case <-cgroups:
		case <-r.poke:
			thorough = true
		case <-check.C:
			thorough = true
		case <-again:
		}
	}
}

// adopt takes over the verdicts of an earlier agent, so that those of pods
// that ended meanwhile are removed.
func (r *Reconciler) adopt() error {
	decided, err := r.Kernel.Decided()
	if err != nil {
		return err
	}
	for _, id := range decided {
		r.inForce[id] = entry{foreign: true}
	}
	return nil
}

// reconcile makes one pass over all pods; a thorough one looks at the
// namespace of every steered pod, others only where containers came or went.
// It reports whether some pod should be looked at again soon.
func (r *Reconciler) reconcile(thorough bool) (retry bool) {
	pods := make(map[string]workload.Pod)
	for _, p := range r.Pods.Pods() {
		pods[p.UID] = p
	}
	want := make(map[uint64]entry)
	running := make(map[string]bool)
	complete := true
	for _, cg := range r.Cgroups.Snapshot() {
		pod, known := pods[cg.UID]
		if !known {
			continue // no verdict: the kernel side calls it unknown
		}
		running[pod.UID] = true
		at, err := r.deliver(pod, cg, thorough)
		if err != nil {
			complete = complete && errors.Is(err, errNoSandbox)
			retry = r.retrySoon(pod, err) || retry
		}
		verdicts(want, pod, cg, at)
	}
	if r.Self != 0 {
		want[r.Self] = entry{verdict: workload.Pass}
	}
	r.closeOthers(running)
	if !r.write(want) {
		complete = false
	}
	closeOnce(r.passed)
	if complete {
		closeOnce(r.ready)
	}
	return retry
}

// closeOnce is called by the reconciling goroutine alone.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

// retrySoon keeps count of how long the pod has been waiting.
func (r *Reconciler) retrySoon(pod workload.Pod, err error) bool {
	since, waiting := r.waiting[pod.UID]
	if !waiting {
		since = time.Now()
		r.waiting[pod.UID] = since
	}
	if !errors.Is(err, errNoSandbox) && !waiting {
		r.Log.Warn("no listener for the pod; it is held", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
	return time.Since(since) < retryLimit
}

// write brings the kernel's verdicts from those in force to those wanted.
func (r *Reconciler) write(want map[uint64]entry) (complete bool) {
	complete = true
	for id, w := range want {
		if now, ok := r.inForce[id]; ok && now == w {
			continue
		}
		if err := r.Kernel.SetVerdict(id, w.verdict, w.port, w.cookie); err != nil {
			r.Log.Error("cannot set a verdict; the pod is held", "cgroup_id", id, "err", err)
			complete = false
			continue
		}
		r.inForce[id] = w
	}
	for id := range r.inForce {
		if _, ok := want[id]; ok {
			continue
		}
		if err := r.Kernel.DeleteVerdict(id); err != nil {
			r.Log.Error("cannot delete a verdict", "cgroup_id", id, "err", err)
			continue
		}
		delete(r.inForce, id)
	}
	return complete
}

// verdicts adds the entries of one pod: its own, and those of containers that
// differ.
func verdicts(want map[uint64]entry, pod workload.Pod, cg workload.PodCgroup, at entry) {
	want[cg.CgroupID] = resolve(pod.Decision.Verdict, at)
	for _, c := range cg.Containers {
		if d, ok := pod.Containers[c.ContainerID]; ok {
			want[c.CgroupID] = resolve(d.Verdict, at)
		}
	}
}

// resolve turns a rule's verdict into a kernel's entry. at is where the pod
// is to be steered to; while that is nowhere, a steered pod is unknown.
func resolve(v workload.Verdict, at entry) entry {
	if v == workload.Steer {
		return at
	}
	return entry{verdict: v}
}
