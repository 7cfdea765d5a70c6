package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

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

// Unguarded returns the pods, by UID, whose packets should be guarded and are
// not, with the reason.
func (r *Reconciler) Unguarded() map[string]error {
	r.guard.mu.Lock()
	defer r.guard.mu.Unlock()
	return maps.Clone(r.guard.unguarded)
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

// The budget of looks at single pods: a pod that connects in a loop without
// a usable verdict is looked at ten times a second, all pods together a
// hundred times. What is over it is not looked at: its next connect asks again.
const (
	lookEvery, lookBurst       = 100 * time.Millisecond, 3
	allLooksEvery, allLooksMax = 10 * time.Millisecond, 100
)

// looks are the pods that somebody wants looked at, by UID. Its fields are
// guarded by Reconciler.mu.
type looks struct {
	asked  map[string]bool
	budget map[string]*rate.Limiter
	all    *rate.Limiter
}

func newLooks() looks {
	return looks{
		asked: make(map[string]bool), budget: make(map[string]*rate.Limiter),
		all: rate.NewLimiter(rate.Every(allLooksEvery), allLooksMax),
	}
}

// Look asks for a look at one pod soon, as far as the pod's budget allows. It
// never blocks.
func (r *Reconciler) Look(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running[podUID] || r.looks.asked[podUID] {
		return
	}
	limit := r.looks.budget[podUID]
	if limit == nil {
		limit = rate.NewLimiter(rate.Every(lookEvery), lookBurst)
		r.looks.budget[podUID] = limit
	}
	if !limit.Allow() || !r.looks.all.Allow() {
		return
	}
	r.looks.asked[podUID] = true
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// lookAt looks at the pods that were asked for, and at no others.
func (r *Reconciler) lookAt() (soon time.Duration) {
	r.mu.Lock()
	asked := r.looks.asked
	r.looks.asked = make(map[string]bool)
	r.mu.Unlock()
	return r.lookClosely(func(cg workload.PodCgroup) bool { return asked[cg.UID] })
}

// noteRunning says which pods there are to be looked at.
func (r *Reconciler) noteRunning(running map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = running
	for uid := range r.looks.budget {
		if !running[uid] {
			delete(r.looks.budget, uid)
		}
	}
}

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
	r.guard.ask(asking{pods: turn, missing: true, guards: r.checks%guardRounds == 0})
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
	r.guard.ask(asking{pods: uids})
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

// ExportedListener is a pod's open listener as one agent passes it to the next.
type ExportedListener struct {
	PodUID string
	Inode  uint64 // of its network namespace; 0: the pod is on the host's network
	net.Listener
}

// Export returns the listeners that are open, for another agent's Adopt. They
// stay the Reconciler's, which must not run meanwhile.
func (r *Reconciler) Export() []ExportedListener {
	all := make([]ExportedListener, 0, len(r.listeners))
	for uid, l := range r.listeners {
		all = append(all, ExportedListener{PodUID: uid, Inode: l.inode, Listener: l.Listener})
	}
	return all
}

// Adopt takes over listeners that another agent opened and tagged, and starts
// to accept; those that this one would not have opened are closed. It is
// called before Run, which closes the listeners of pods that ended meanwhile.
func (r *Reconciler) Adopt(all []ExportedListener) {
	for _, h := range all {
		l, err := adoptListener(r.Kernel, h.Listener)
		if err != nil || r.NodeOnly || l.port() < r.Ports.First || l.port() > r.Ports.Last {
			r.Log.Debug("listener not taken over", "pod_uid", h.PodUID, "err", err)
			h.Close()
			continue
		}
		r.start(h.PodUID, &podListener{listener: l, inode: h.Inode})
	}
}

// AdoptNode takes over the node listener of another agent.
func AdoptNode(kernel Kernel, l net.Listener, log *slog.Logger) (*Node, error) {
	adopted, err := adoptListener(kernel, l)
	if err != nil {
		return nil, err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return &Node{kernel: kernel, at: at, cookie: adopted.netnsCookie, listener: adopted, log: log}, nil
}

// adoptListener reads from the socket whose namespace it is of. The agent's
// tag is kept with the socket, whoever has it open; but it is of the former
// agent's map, and this one's is another where the BPF filesystem was mounted
// again in between.
func adoptListener(kernel Kernel, tcp net.Listener) (*listener, error) {
	from, ok := tcp.(*net.TCPListener)
	if !ok {
		return nil, errors.New("not a TCP listener")
	}
	socket, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	cookie, err := netnsCookie(socket)
	if err != nil {
		return nil, err
	}
	withoutProbes(from)
	l := &listener{Listener: tcp, netnsCookie: cookie}
	return l, l.tag(kernel)
}

func netnsCookie(socket syscall.RawConn) (cookie uint64, err error) {
	control := socket.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie, errors.Join(control, err)
}

// signal tells all who wait that something has changed. Its zero value is ready
// to use.
type signal struct {
	mu      sync.Mutex
	waiters chan struct{}
}

// next returns a channel that is closed with the next change. Who waits for a
// state takes it before looking at that.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters == nil {
		s.waiters = make(chan struct{})
	}
	return s.waiters
}

// tell says that something has changed.
func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters != nil {
		close(s.waiters)
		s.waiters = nil
	}
}
