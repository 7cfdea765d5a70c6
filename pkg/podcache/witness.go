package podcache

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// explained is how long a pod may run that the API has not reported. The
	// kubelet has it from there too, but for a static pod, whose mirror comes a
	// moment later.
	explained = 5 * time.Second
	// askPause is the least time between two lists for pods that are not
	// explained, and the first pause for one that a list did not explain: it
	// doubles up to askPauseMost. As much again comes on top by chance.
	askPause     = 15 * time.Second
	askPauseMost = 10 * time.Minute
)

// stranger is a pod that runs on the node and that the API has not reported.
type stranger struct {
	since time.Time
	next  time.Time // when to list for it
	pause time.Duration
}

// Witness tells the cache which pods run on the node, by the UIDs that their
// cgroups name; those that Lookup knows may be left out. It is to be called
// every second or so. A pod that the API does not explain within 5 s means that
// the watch may be blind: pods are then listed again, not from the API server's
// cache, and ever less often while that explains nothing.
func (c *Cache) Witness(running []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listed {
		return // there is no watch yet that could be blind
	}
	now := c.clock.Now()
	due := false
	met := map[string]*stranger{}
	for _, uid := range running {
		if len(c.claims[uid]) > 0 {
			continue
		}
		s := c.strangers[uid]
		if s == nil {
			s = &stranger{since: now, next: now.Add(explained), pause: askPause}
		}
		met[uid] = s
		due = due || !now.Before(s.next)
	}
	c.strangers = met
	if !due || now.Sub(c.asked) < askPause {
		return
	}
	c.asked = now
	for _, s := range met {
		if !now.Before(s.next) {
			s.next = now.Add(s.pause + rand.N(s.pause))
			s.pause = min(2*s.pause, askPauseMost)
		}
	}
	c.log.Warn("pods run here that the API server has not reported: listing pods again", "pods", len(met))
	c.listPods(true)
}

// Unexplained returns the UIDs, sorted, of the pods that have run for 5 s or
// more by Witness's word and that the API has not reported.
func (c *Cache) Unexplained() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var uids []string
	now := c.clock.Now()
	for uid := range maps.Keys(c.strangers) {
		if s := c.strangers[uid]; now.Sub(s.since) >= explained && len(c.claims[uid]) == 0 {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}
