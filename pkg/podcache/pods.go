package podcache

import (
	"context"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/podcache/listwatch"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// relistEvery is how often, at most, everything is listed again although the
// watches are open: one that is connected may be silent for ever, after etcd
// was restored from an older copy for one. Up to half of it comes on top by
// chance, so that the agents of a cluster do not ask at the same time.
const relistEvery = 30 * time.Minute

// followPods keeps the pods up to date until ctx is done, with one reflector
// after another: each begins with a list.
func (c *Cache) followPods(ctx context.Context) {
	pods := c.client.CoreV1().Pods("")
	for own, first := false, true; ; first = false {
		again := !first
		list := listwatch.Opening(c.gate, pods.List)
		if own {
			list = listwatch.Uncached(list)
		}
		lw := listwatch.New(fields.OneTermEqualSelector("spec.nodeName", c.node), c.errors.Of("pods"),
			list, listwatch.Opening(c.gate, pods.Watch))
		round, end := context.WithCancel(ctx)
		// Not waited for: a reflector that backs off sleeps through its context's end.
		go listwatch.Keep(round, podStore{Cache: c, ctx: ctx, round: round, again: &again}, "pods", lw, c.client, &corev1.Pod{})
		select {
		case own = <-c.relist:
		case <-ctx.Done():
		}
		end() // its store takes nothing from now on
		if ctx.Err() != nil {
			return
		}
	}
}

// listPods has the pods listed again.
func (c *Cache) listPods(own bool) {
	select {
	case c.relist <- own:
	default: // it is asked for already
	}
}

// relistOthers has what pods depend on listed again, over some time. The
// caller holds the lock.
func (c *Cache) relistOthers(ctx context.Context) {
	for _, a := range c.accounts {
		if a.stop != nil {
			a.stop()
			a.stop = nil
			c.followAfter(ctx, a, rand.N(spreadTime))
		}
	}
	if c.exempt != nil {
		select {
		case c.switched <- struct{}{}:
		default:
		}
	}
}

// listFromTimeToTime has everything listed again every half an hour or more.
func (c *Cache) listFromTimeToTime(ctx context.Context) {
	for {
		timer := c.clock.NewTimer(relistEvery + rand.N(relistEvery/2))
		select {
		case <-timer.C():
			c.listPods(false)
			c.mu.Lock()
			c.relistOthers(ctx)
			c.mu.Unlock()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// podStore takes the node's pods from their reflector. The objects themselves
// are not kept.
type podStore struct {
	*Cache
	ctx   context.Context // of the watches of service accounts that pods start
	round context.Context // of the reflector: what it says later is old
	again *bool           // the list to come is one that the cache asked for
}

// Add takes a new pod.
func (s podStore) Add(o any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round.Err() == nil && s.set(s.ctx, o.(*corev1.Pod)) {
		s.notify()
	}
	return nil
}

// Update takes a pod that changed.
func (s podStore) Update(o any) error { return s.Add(o) }

// Delete forgets a pod.
func (s podStore) Delete(o any) error {
	gone := o.(*corev1.Pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[types.NamespacedName{Namespace: gone.Namespace, Name: gone.Name}]
	if s.round.Err() == nil && r != nil && r.objectUID == gone.UID {
		s.replace(s.ctx, r, nil)
		s.notify()
	}
	return nil
}

// Replace takes the list of all pods.
func (s podStore) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round.Err() != nil {
		return nil
	}
	present := make(map[types.NamespacedName]struct{}, len(list))
	changed := false
	for _, item := range list {
		o := item.(*corev1.Pod)
		present[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = struct{}{}
		changed = s.set(s.ctx, o) || changed
	}
	for name, r := range s.records {
		if _, ok := present[name]; !ok {
			s.replace(s.ctx, r, nil)
			changed = true
		}
	}
	if !s.listed {
		s.firstListed(s.ctx)
	}
	if changed {
		s.notify()
		if *s.again {
			s.log.Warn("the list of pods has what the watch did not tell: service accounts are listed again too")
			s.relistOthers(s.ctx)
		}
	}
	*s.again = false
	return nil
}

// Resync is never asked for.
func (s podStore) Resync() error { return nil }

// firstListed notes which service accounts are yet to come, and has those
// watched that are known from an imported state alone.
func (c *Cache) firstListed(ctx context.Context) {
	c.listed = true
	for name, a := range c.accounts {
		if len(a.users) == 0 {
			continue
		}
		c.follow(ctx, a)
		if !a.synced {
			c.pending[name] = struct{}{}
		}
	}
	c.checkReady()
}

// set takes a pod as it is now and reports whether anything about it changed.
// The caller holds the lock.
func (c *Cache) set(ctx context.Context, o *corev1.Pod) bool {
	if o.Spec.NodeName != c.node {
		return false // a server that does not know the field selector
	}
	next := &record{pod: newPod(o)}
	next.findToken(&o.Spec, c.tokenAudience)
	old := c.records[next.name]
	switch {
	case next.finished && old == nil:
		return false
	case next.finished:
		c.replace(ctx, old, nil)
		return true
	case old != nil && old.objectUID == next.objectUID:
		if reflect.DeepEqual(old.pod, next.pod) {
			return false
		}
		next.changed = old.changed
		if old.labels[workload.UseLabel] != next.labels[workload.UseLabel] {
			next.changed = c.clock.Now()
		}
	}
	c.replace(ctx, old, next)
	return true
}

// replace puts next in the place of old; either may be nil. The caller holds
// the lock.
func (c *Cache) replace(ctx context.Context, old, next *record) {
	if next != nil {
		c.follow(ctx, c.insert(next))
	}
	if old != nil {
		if next == nil {
			delete(c.records, old.name)
		}
		c.unclaim(old)
		c.release(ctx, old)
		c.compute(old.cgroupUID)
	}
	if next != nil {
		c.compute(next.cgroupUID)
	}
}

// insert notes a pod and returns its service account, nil if it has none; what
// callers get is not computed yet.
func (c *Cache) insert(r *record) *account {
	c.records[r.name] = r
	if r.cgroupUID != "" { // a mirror pod without a hash has no cgroup that it could name
		c.claims[r.cgroupUID] = append(c.claims[r.cgroupUID], r)
	}
	return c.use(r)
}

func (c *Cache) unclaim(r *record) {
	rest := slices.DeleteFunc(c.claims[r.cgroupUID], func(o *record) bool { return o == r })
	if len(rest) == 0 {
		delete(c.claims, r.cgroupUID)
		return
	}
	c.claims[r.cgroupUID] = rest
}
