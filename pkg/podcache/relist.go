package podcache

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
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
		list := opening(c.gate, pods.List)
		if own {
			list = uncached(list)
		}
		lw := listWatch(fields.OneTermEqualSelector("spec.nodeName", c.node), c.watchErrorsOf("pods"),
			list, opening(c.gate, pods.Watch))
		round, end := context.WithCancel(ctx)
		// Not waited for: a reflector that backs off sleeps through its context's end.
		go keep(round, podStore{Cache: c, ctx: ctx, round: round, again: &again}, "pods", lw, c.client, &corev1.Pod{})
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

// uncached has a list come from etcd and not from the API server's cache.
func uncached[T any](next call[T]) call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		if o.ResourceVersion == "0" {
			o.ResourceVersion = ""
		}
		return next(ctx, o)
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
