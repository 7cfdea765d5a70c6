package attest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// conn is the connection of the pod "a"'s container "c1" in most tests.
var conn = workload.Connection{
	NetnsCookie: 7,
	Client:      netip.MustParseAddrPort("127.0.0.1:40000"),
	Server:      netip.MustParseAddrPort("127.0.0.1:28000"),
}

// kernel is the flow records and the cgroups.
type kernel struct {
	mu      sync.Mutex
	flows   map[workload.Connection]uint64
	doubled map[workload.Connection]bool
	cgroups map[uint64]workload.CgroupRef
	broken  error // what Resolve returns instead
}

func newKernel() *kernel {
	return &kernel{
		flows:   map[workload.Connection]uint64{conn: 42},
		doubled: map[workload.Connection]bool{},
		cgroups: map[uint64]workload.CgroupRef{42: {PodUID: "a", ContainerID: "c1"}},
	}
}

type claimError struct{ ambiguous bool }

func (e claimError) Error() string   { return fmt.Sprintf("claim failed, ambiguous: %t", e.ambiguous) }
func (e claimError) Ambiguous() bool { return e.ambiguous }

func (k *kernel) Claim(c workload.Connection) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.doubled[c] {
		return 0, fmt.Errorf("flow: %w", claimError{ambiguous: true})
	}
	id, ok := k.flows[c]
	if !ok {
		return 0, fmt.Errorf("flow: %w", claimError{})
	}
	delete(k.flows, c)
	return id, nil
}

func (k *kernel) Resolve(id uint64) (workload.CgroupRef, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return workload.CgroupRef{}, k.broken
	}
	ref, ok := k.cgroups[id]
	if !ok {
		return workload.CgroupRef{}, fmt.Errorf("cgroup %d: %w", id, fs.ErrNotExist)
	}
	return ref, nil
}

func (k *kernel) remove(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.cgroups, id)
}

// put gives a cgroup id to a pod.
func (k *kernel) put(id uint64, ref workload.CgroupRef) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cgroups[id] = ref
}

var errNotPod = errors.New("not a pod's cgroup")

// pods is the pod cache.
type pods struct {
	mu          sync.Mutex
	known       map[workload.CgroupRef]workload.Decision
	subscribers map[chan struct{}]struct{}
	// looked gets a value at each look-up, if it is not nil.
	looked chan struct{}
}

func newPods() *pods {
	return &pods{
		known:       map[workload.CgroupRef]workload.Decision{},
		subscribers: map[chan struct{}]struct{}{},
	}
}

func (p *pods) Lookup(ref workload.CgroupRef) (workload.Workload, workload.Decision, bool) {
	p.mu.Lock()
	d, ok := p.known[ref]
	p.mu.Unlock()
	if p.looked != nil {
		p.looked <- struct{}{}
	}
	if !ok {
		return workload.Workload{}, workload.Decision{}, false
	}
	return workload.Workload{PodUID: ref.PodUID, ServiceAccount: "sa-" + ref.PodUID}, d, true
}

func (p *pods) Subscribe() (<-chan struct{}, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := make(chan struct{}, 1)
	p.subscribers[ch] = struct{}{}
	return ch, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.subscribers, ch)
	}
}

// set makes a container known and tells the subscribers.
func (p *pods) set(ref workload.CgroupRef, v workload.Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[ref] = workload.Decision{Verdict: v}
	p.notify()
}

// setDecision is set with all of a decision.
func (p *pods) setDecision(ref workload.CgroupRef, d workload.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[ref] = d
	p.notify()
}

// forget takes a container out and tells the subscribers.
func (p *pods) forget(ref workload.CgroupRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, ref)
	p.notify()
}

func (p *pods) notify() {
	for ch := range p.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (p *pods) subscribed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.subscribers)
}
