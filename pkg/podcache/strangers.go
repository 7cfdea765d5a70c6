package podcache

import (
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

// strangers are the pods that run here and that the API has not reported. The
// cache's lock guards them.
type strangers struct {
	met   map[string]*stranger // by UID
	asked time.Time            // when they had pods listed again
}

// meet takes which pods run now. It reports whether pods are to be listed
// again, and takes it that they are.
func (s *strangers) meet(running []string, isExplained func(uid string) bool, now time.Time) bool {
	due := false
	met := map[string]*stranger{}
	for _, uid := range running {
		if isExplained(uid) {
			continue
		}
		one := s.met[uid]
		if one == nil {
			one = &stranger{since: now, next: now.Add(explained), pause: askPause}
		}
		met[uid] = one
		due = due || !now.Before(one.next)
	}
	s.met = met
	if !due || now.Sub(s.asked) < askPause {
		return false
	}
	s.asked = now
	for _, one := range met {
		if !now.Before(one.next) {
			one.next = now.Add(one.pause + rand.N(one.pause))
			one.pause = min(2*one.pause, askPauseMost)
		}
	}
	return true
}

// unexplained returns the UIDs, sorted, of those that have run for 5 s or more.
func (s *strangers) unexplained(isExplained func(uid string) bool, now time.Time) []string {
	var uids []string
	for uid, one := range s.met {
		if now.Sub(one.since) >= explained && !isExplained(uid) {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}
