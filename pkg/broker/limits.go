package broker

import (
	"sync"

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
	rate     *rate.Limiter
	requests int
	conns    int
}

func newPodLimits(c clock.PassiveClock) *podLimits {
	return &podLimits{clock: c, pods: map[string]*usage{}}
}

// connect counts a connection of the pod in, unless it has that many; release
// counts it out.
func (l *podLimits) connect(uid string, most int) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage(uid)
	if u.conns >= most {
		return nil, false
	}
	u.conns++
	return func() { l.sub(&u.conns) }, true
}

// request counts a request of the pod in, unless it is one too many; release
// counts it out.
func (l *podLimits) request(uid string, most Limits) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, now := l.usage(uid), l.clock.Now()
	if u.rate == nil {
		u.rate = rate.NewLimiter(rate.Limit(most.RequestsPerSecond), most.RequestsPerSecond)
	} else if u.rate.Burst() != most.RequestsPerSecond {
		u.rate.SetLimitAt(now, rate.Limit(most.RequestsPerSecond))
		u.rate.SetBurstAt(now, most.RequestsPerSecond)
	}
	if u.requests >= most.Concurrent || !u.rate.AllowN(now, 1) {
		return nil, false
	}
	u.requests++
	return func() { l.sub(&u.requests) }, true
}

func (l *podLimits) sub(n *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n--
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
		rested := u.rate == nil || u.rate.TokensAt(now) >= float64(u.rate.Burst())
		if u.conns == 0 && u.requests == 0 && rested {
			delete(l.pods, uid)
		}
	}
	u = &usage{}
	l.pods[uid] = u
	return u
}
