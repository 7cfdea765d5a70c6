package delivery

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

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
