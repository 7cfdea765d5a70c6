package kernel

import (
	"maps"
	"slices"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// podList stands for the cluster: the pods of this node and what the rules
// say about them, to be changed while they run.
type podList struct {
	mu   sync.Mutex
	pods map[string]workload.Pod
	subs map[chan struct{}]bool
}

func newPodList() *podList {
	return &podList{pods: map[string]workload.Pod{}, subs: map[chan struct{}]bool{}}
}

// set adds the pod or changes it.
func (l *podList) set(p workload.Pod) {
	l.change(func() { l.pods[p.UID] = p })
}

// remove deletes the pod's object; its processes may live on.
func (l *podList) remove(uid string) {
	l.change(func() { delete(l.pods, uid) })
}

func (l *podList) change(what func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what()
	for ch := range l.subs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (l *podList) Pods() []workload.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.pods))
}

func (l *podList) Pod(uid string) (workload.Pod, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pods[uid]
	return p, ok
}

func (l *podList) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[ch] = true
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subs, ch)
	}
}

func (l *podList) Lookup(ref workload.CgroupRef) (workload.Workload, workload.Decision, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pods[ref.PodUID]
	d := p.Decision
	if own, has := p.Containers[ref.ContainerID]; has {
		d = own
	}
	return workload.Workload{PodUID: p.UID, PodName: p.Name, Namespace: p.Namespace}, d, ok
}
