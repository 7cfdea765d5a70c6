package delivery

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// checkInterval is how often pods that something is missing of are looked at
	// again, when that has lasted.
	checkInterval = 5 * time.Second
	// guardRounds is in how many checks it is looked once whether the guards of
	// links are attached, of which the kernel tells by no event. Who can detach one
	// without an event has the node's bpf() as it is, and can do so again at once:
	// to look more often than each 15 s would keep nobody out, and cost the most of
	// what the agent does at rest.
	guardRounds = 3
	// auditRounds is in how many checks every pod's namespace and links are looked
	// at once more, in case an event was missed: a part of the pods in each, so that
	// all are within half an hour.
	auditRounds = 360
)

// Reconciler keeps listeners, verdicts and guarded links as the rules and the
// running pods want them.
type Reconciler struct {
	Options
	node      *namespace
	sandboxes *sandboxFinder
	listeners map[string]*podListener    // by pod UID
	applied   map[uint64]*workload.Entry // as last written; nil: by an earlier agent
	waiting   waits                      // pods that something is missing of
	last      *round                     // the last look at all pods
	audit     rota
	checks    int // made so far
	guard     *guard
	aborter   *aborter
	enforced  atomic.Bool // the kernel acts by the verdicts
	trigger   chan struct{}
	look      chan struct{} // has one when a pod was asked for
	opened    signal        // a pod has got its listener
	ready     chan struct{}
	decided   chan struct{}
	since     time.Time // when the first look began

	neighbours neighbours

	mu      sync.Mutex
	ports   map[string]uint16 // what Listeners returns
	running map[string]bool   // pods, by UID
	looks   looks
}

// NewReconciler returns a Reconciler for the network namespace it is called
// in, the node's.
func NewReconciler(o Options) (*Reconciler, error) {
	node, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the node's network namespace: %w", err)
	}
	r := &Reconciler{
		Options:   o,
		node:      node,
		sandboxes: newSandboxFinder(procfs(o.Proc), o.Cgroups, node.inode),
		listeners: make(map[string]*podListener),
		applied:   make(map[uint64]*workload.Entry),
		waiting:   make(waits),
		trigger:   make(chan struct{}, 1),
		look:      make(chan struct{}, 1),
		ready:     make(chan struct{}),
		decided:   make(chan struct{}),
		ports:     make(map[string]uint16),
		looks:     newLooks(),
		neighbours: neighbours{
			log: o.Log, ways: make(map[netip.Addr]way), seen: make(map[string]time.Time),
		},
	}
	r.guard = newGuard(&r.Options, r.sandboxes, node)
	r.aborter = newAborter(&r.Options, r.sandboxes)
	return r, nil
}

// Ready is closed once every steered pod that runs has its listener, every pod
// its verdict, and those links are guarded that were found at the first look.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// decideWithin is how long a pod that passes is waited for which the second line
// does not let through yet.
const decideWithin = 15 * time.Second

// Decided is closed once every pod that runs has its entry: what the kernel has
// now is at least as good as what an earlier agent left.
func (r *Reconciler) Decided() <-chan struct{} { return r.decided }

// Trigger asks for a look at everything soon; it never blocks.
func (r *Reconciler) Trigger() {
	select {
	case r.trigger <- struct{}{}:
	default:
	}
}

// SetEnforced says whether the kernel acts by the verdicts, or lets every
// connect pass, as in audit mode. It is called once the kernel's settings say
// so. Until then nothing is known to be enforced, and no socket is destroyed.
func (r *Reconciler) SetEnforced(enforced bool) {
	if r.enforced.Swap(enforced) != enforced {
		r.Trigger()
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
	guarding, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { r.guard.run(guarding) })
	beside.Go(func() { r.aborter.run(guarding) })
	defer func() { stop(); beside.Wait() }() // whoever comes next writes the same maps
	looked := r.guard.looked
	if r.since.IsZero() {
		r.since = time.Now()
	}
	soon := r.reconcile(true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-looked:
			looked = nil
			if soon = r.last.end(); r.Line != nil {
				soon = r.reconcile(false)
			}
		case <-r.guard.news:
			soon = r.reconcile(false)
		case <-after(soon):
			soon = r.lookAgain()
		case <-pods:
			soon = r.reconcile(false)
		case <-cgroups:
			soon = r.reconcile(false)
		case <-r.look:
			soon = r.lookAt()
		case <-r.sandboxes.news:
			soon = r.lookAtLost()
		case <-r.trigger:
			soon = r.reconcile(true)
		case <-check.C:
			soon = r.check()
		}
	}
}

// after is time.After but for 0, which never comes.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// adopt takes over what an earlier agent left applied, so that what belongs
// to pods that ended meanwhile is removed.
func (r *Reconciler) adopt() error {
	decided, err := r.Kernel.Decided()
	if err != nil {
		return err
	}
	for _, id := range decided {
		r.applied[id] = nil
	}
	guarded, err := r.Kernel.GuardedLinks()
	if err != nil {
		return err
	}
	for _, ifindex := range guarded {
		r.guard.guarded[ifindex] = 0
	}
	return nil
}

// set applies an entry unless it is applied already.
func (r *Reconciler) set(id uint64, want workload.Entry) error {
	if now := r.applied[id]; now != nil && *now == want {
		return nil
	}
	if err := r.Kernel.SetVerdict(id, want); err != nil {
		r.Log.Error("cannot set a verdict; the pod is held", "cgroup_id", id, "err", err)
		return err
	}
	r.applied[id] = &want
	return nil
}

// setSelf applies the entry of the agent's own pod.
func (r *Reconciler) setSelf() error { return r.set(r.Self, OwnEntry()) }

// drop removes the verdicts that are not wanted.
func (r *Reconciler) drop(want map[uint64]workload.Entry) {
	for id := range r.applied {
		if _, ok := want[id]; ok {
			continue
		}
		if err := r.Kernel.DeleteVerdict(id); err != nil {
			r.Log.Error("cannot delete a verdict", "cgroup_id", id, "err", err)
			continue
		}
		delete(r.applied, id)
	}
}

// closeOnce closes a channel that one goroutine alone closes.
func closeOnce(ch chan struct{}) {
	if !closed(ch) {
		close(ch)
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
