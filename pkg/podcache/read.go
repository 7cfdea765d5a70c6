package podcache

import (
	"cmp"
	"slices"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Pods returns every pod of the node that has not finished, ordered by
// namespace and name. A pod that is being deleted is among them while its
// object exists. The values share slices and maps with the cache: they must
// not be changed.
func (c *Cache) Pods() []workload.Pod {
	c.mu.RLock()
	pods := make([]workload.Pod, 0, len(c.entries))
	for _, e := range c.entries {
		pods = append(pods, e.pod)
	}
	c.mu.RUnlock()
	slices.SortFunc(pods, func(a, b workload.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

// Lookup returns the workload that a cgroup belongs to and what the rules say
// about it; false if the cache has no such pod. In a pod where the rules differ
// between containers, a container that is not known, or not named, is Unknown.
// A container that is known has its own AZURE_CLIENT_ID as its default identity.
// The workload shares memory with the cache and must not be changed.
func (c *Cache) Lookup(ref workload.CgroupRef) (workload.Workload, workload.Decision, bool) {
	c.mu.RLock()
	e := c.entries[ref.PodUID]
	c.mu.RUnlock()
	if e == nil {
		return workload.Workload{}, workload.Decision{}, false
	}
	w, own := e.callers[ref.ContainerID]
	if !own {
		w = e.workload
	}
	if d, ok := e.pod.Containers[ref.ContainerID]; ok {
		return w, d, true
	}
	return w, e.pod.Decision, true
}

// Subscribe returns a channel that receives after each change of what Pods or
// Lookup return; changes that come before it is read are merged into one. The
// channel is never closed; cancel ends the subscription.
func (c *Cache) Subscribe() (changes <-chan struct{}, cancel func()) {
	s := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers[s] = struct{}{}
	return s, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, s)
	})
}

// notify tells the subscribers of a change. The caller holds the lock.
func (c *Cache) notify() {
	for s := range c.subscribers {
		select {
		case s <- struct{}{}:
		default: // one is waiting to be read already
		}
	}
}
