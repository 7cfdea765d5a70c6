package broker

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// usages counts what each pod has under way.
type usages struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	pods  map[string]*usage // by pod UID
}

// usage is what one pod uses now.
type usage struct {
	lines *logBudget

	mu       sync.Mutex
	rate     *rate.Limiter
	requests int
	conns    int // under usages.mu
}

func newUsages(c clock.PassiveClock) *usages {
	return &usages{clock: c, pods: map[string]*usage{}}
}

// connect counts a connection of the pod in and returns the pod's usage, which
// is good until disconnect. A new one takes with it those that say nothing any
// more: no use now, and none lately either.
func (all *usages) connect(uid string) *usage {
	all.mu.Lock()
	defer all.mu.Unlock()
	u, ok := all.pods[uid]
	if !ok {
		now := all.clock.Now()
		for uid, u := range all.pods {
			if u.conns == 0 && u.rested(now) {
				delete(all.pods, uid)
			}
		}
		u = &usage{lines: newLogBudget(podLines, podLineInterval)}
		all.pods[uid] = u
	}
	u.conns++
	return u
}

// disconnect counts a connection of the pod out.
func (all *usages) disconnect(u *usage) {
	all.mu.Lock()
	defer all.mu.Unlock()
	u.conns--
}

// begin counts a request of the pod in, to be counted out by end; false if it
// is one too many.
func (u *usage) begin(most Limits, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.allow(most, now) {
		return false
	}
	u.requests++
	return true
}

// pass is begin and end of a request that takes no time.
func (u *usage) pass(most Limits, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.allow(most, now)
}

func (u *usage) allow(most Limits, now time.Time) bool {
	if u.rate == nil {
		u.rate = rate.NewLimiter(rate.Limit(most.RequestsPerSecond), most.RequestsPerSecond)
	} else if u.rate.Burst() != most.RequestsPerSecond {
		u.rate.SetLimitAt(now, rate.Limit(most.RequestsPerSecond))
		u.rate.SetBurstAt(now, most.RequestsPerSecond)
	}
	return u.requests < most.Concurrent && u.rate.AllowN(now, 1)
}

// end counts a request out.
func (u *usage) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests--
}

// rested reports whether the pod has not used anything lately.
func (u *usage) rested(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests == 0 && (u.rate == nil || u.rate.TokensAt(now) >= float64(u.rate.Burst())) && u.lines.rested(now)
}

// logBudget bounds how many lines are logged, and counts those that were not.
type logBudget struct {
	limiter *rate.Limiter
	mu      sync.Mutex
	skipped int
}

// newLogBudget returns a budget of burst lines at once, and another for each
// interval.
func newLogBudget(burst int, interval time.Duration) *logBudget {
	return &logBudget{limiter: rate.NewLimiter(rate.Every(interval), burst)}
}

// spend reports whether a line may be logged, and how many were not since the
// last one.
func (b *logBudget) spend(now time.Time) (skipped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limiter.AllowN(now, 1) {
		b.skipped++
		return 0, false
	}
	skipped, b.skipped = b.skipped, 0
	return skipped, true
}

// rested reports whether the budget is as a new one.
func (b *logBudget) rested(now time.Time) bool {
	return b.limiter.TokensAt(now) >= float64(b.limiter.Burst())
}
