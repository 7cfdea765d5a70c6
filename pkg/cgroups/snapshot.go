package cgroups

import (
	"maps"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Snapshot returns the pods' cgroups as Run last saw them, sorted by path. It
// is empty before Ready. The caller must not change what the values point to.
func (t *Tree) Snapshot() []workload.PodCgroup {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.pods), func(a, b workload.PodCgroup) int {
		return strings.Compare(a.Path, b.Path)
	})
}

// KubepodsID returns the cgroup id of kubepods, 0 while it does not exist. The
// kubelet may remove it and make it again, under another id: programs that
// were attached to the old one then see nothing.
func (t *Tree) KubepodsID() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kubepodsID
}

// Ready is closed once Run has seen the whole tree.
func (t *Tree) Ready() <-chan struct{} { return t.ready }

// Subscribe returns a channel that gets a value after Snapshot or KubepodsID
// has changed; changes that were not read yet are one value. The function
// ends the subscription; the channel is never closed.
func (t *Tree) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subscribers[ch] = struct{}{}
	return ch, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subscribers, ch)
	}
}

// replace puts the result of a whole scan in place.
func (t *Tree) replace(kubepodsID uint64, pods map[string]workload.PodCgroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kubepodsID == kubepodsID && maps.EqualFunc(t.pods, pods, equalPod) {
		return
	}
	t.kubepodsID, t.pods = kubepodsID, pods
	t.notify()
}

// put replaces one pod.
func (t *Tree) put(pod workload.PodCgroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.pods[pod.Path]; ok && equalPod(old, pod) {
		return
	}
	t.pods[pod.Path] = pod
	t.notify()
}

// drop takes one pod out.
func (t *Tree) drop(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.pods[path]; !ok {
		return
	}
	delete(t.pods, path)
	t.notify()
}

// notify tells the subscribers. The caller holds mu.
func (t *Tree) notify() {
	for ch := range t.subscribers {
		select {
		case ch <- struct{}{}:
		default: // the last value has not been read yet
		}
	}
}

func equalPod(a, b workload.PodCgroup) bool {
	return a.UID == b.UID && a.CgroupID == b.CgroupID && a.Path == b.Path &&
		slices.Equal(a.Containers, b.Containers)
}
