package delivery

import (
	"context"
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
	// checkInterval is how often every pod's namespace is compared with that
	// of its listener, in case an event was missed.
	checkInterval = 5 * time.Second
)

// Reconciler keeps listeners, verdicts and guarded links as the rules and the
// running pods want them.
type Reconciler struct {
	Options
	sandboxes sandboxFinder
	listeners map[string]*podListener    // by pod UID
	inForce   map[uint64]*workload.Entry // as last written; nil: by an earlier agent
	links     map[string]podLinks        // of guarded pods, by pod UID
	guarded   map[int]uint64             // cgroup ids by link; 0: by an earlier agent
	waiting   map[string]time.Time       // pods that something is missing of, since when
	poke      chan struct{}
	passed    chan struct{}
	ready     chan struct{}

	mu        sync.Mutex
	ports     map[string]uint16 // what Listeners returns
	unguarded map[string]error  // what Unguarded returns
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
		inForce:   make(map[uint64]*workload.Entry),
		links:     make(map[string]podLinks),
		guarded:   make(map[int]uint64),
		waiting:   make(map[string]time.Time),
		poke:      make(chan struct{}, 1),
		passed:    make(chan struct{}),
		ready:     make(chan struct{}),
		ports:     make(map[string]uint16),
		unguarded: make(map[string]error),
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

// Run works until ctx ends, and returns nil. The listeners go on accepting
// until Close; it may be run again. Pods and Cgroups must be complete before
// it starts: what they do not have loses its verdict and is held.
func (r *Reconciler) Run(ctx context.Context) error {
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

// adopt takes over what an earlier agent left in force, so that what belongs
// to pods that ended meanwhile is removed.
func (r *Reconciler) adopt() error {
	decided, err := r.Kernel.Decided()
	if err != nil {
		return err
	}
	for _, id := range decided {
		r.inForce[id] = nil
	}
	guarded, err := r.Kernel.GuardedLinks()
	if err != nil {
		return err
	}
	for _, ifindex := range guarded {
		r.guarded[ifindex] = 0
	}
	return nil
}

// write brings the kernel's verdicts from those in force to those wanted.
func (r *Reconciler) write(want map[uint64]workload.Entry) (complete bool) {
	complete = true
	for id, w := range want {
		if now := r.inForce[id]; now != nil && *now == w {
			continue
		}
		if err := r.Kernel.SetVerdict(id, w); err != nil {
			r.Log.Error("cannot set a verdict; the pod is held", "cgroup_id", id, "err", err)
			complete = false
			continue
		}
		r.inForce[id] = &w
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

// closeOnce is called by the reconciling goroutine alone.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
