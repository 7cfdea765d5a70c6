package broker

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// podLimits counts what each pod has under way.
type podLimits struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	pods  map[string]*usage // by pod UID
}

// usage is what one pod uses now.
type usage struct {
	mu       sync.Mutex
	rate     *rate.Limiter
	requests int
	conns    int // under podLimits.mu
}

func newPodLimits(c clock.PassiveClock) *podLimits {
	return &podLimits{clock: c, pods: map[string]*usage{}}
}

// connect counts a connection of the pod in and returns the pod's usage, which
// is good until disconnect; nil if the pod has that many connections.
func (l *podLimits) connect(uid string, most int) *usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage(uid)
	if u.conns >= most {
		return nil
	}
	u.conns++
	return u
}

// disconnect counts a connection of the pod out.
func (l *podLimits) disconnect(u *usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	return u.requests == 0 && (u.rate == nil || u.rate.TokensAt(now) >= float64(u.rate.Burst()))
}

// usage returns the pod's entry. A new one takes with it those that say
// nothing any more: no use now, and none lately either.
func (l *podLimits) usage(uid string) *usage {
	u, ok := l.pods[uid]
	if ok {
		return u
	}
	now := l.clock.Now()
	for uid, u := range l.pods {
		if u.conns == 0 && u.rested(now) {
			delete(l.pods, uid)
		}
	}
	u = &usage{}
	l.pods[uid] = u
	return u
}
