package tokens

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// minLeft is what a cached token must have left to be served: clients ask
	// again and again for a token that ends sooner.
	minLeft = 5 * time.Minute
	// refusalMemory keeps a retrying client from asking Entra the same in
	// vain, and is short enough for whoever mends the set-up and tries again.
	refusalMemory = 10 * time.Second
	// bypassEvery is how often bypass_cache=true may force an exchange.
	bypassEvery = 10 * time.Second

	maxTokens   = 4096
	maxRefusals = 4096
	// maxFlights bounds one service account's exchanges under way. They
	// outlive their callers, so the callers' own limits do not bound them.
	maxFlights = 64
	// maxPods bounds the pods noted per token. Beyond it the notes start
	// again: an audit line twice is better than none.
	maxPods = 1024
)

// key says which requests share a token. It names the service account by its
// UID and never the pod.
type key struct {
	account string
	target
}

// entry is a token and the pods that it was issued to.
type entry struct {
	token workload.Token
	pods  map[string]struct{} // guarded by cache.mu
}

func (e *entry) left(now time.Time) time.Duration {
	if e == nil {
		return 0
	}
	return e.token.ExpiresOn.Sub(now)
}

type refusal struct {
	err   *workload.TokenError
	until time.Time
}

// flight is one exchange under way. Its results may be read once done is
// closed.
type flight struct {
	done   chan struct{}
	podUID string // whose assertion is exchanged
	entry  *entry
	err    *workload.TokenError
	// ofPod: the assertion could not be had. That says nothing about the other
	// pods of the service account.
	ofPod bool
}

// cache holds tokens, refusals and the exchanges under way.
type cache struct {
	clock clock.PassiveClock

	mu       sync.Mutex
	tokens   *bounded[key, *entry]
	refusals *bounded[key, refusal]
	bypasses *bounded[key, *rate.Limiter]
	flights  map[key]*flight
	inFlight map[string]int // by service account
}

func newCache(c clock.PassiveClock) *cache {
	return &cache{
		clock:    c,
		tokens:   newBounded[key](maxTokens, func(e *entry, now time.Time) bool { return e.left(now) <= 0 }),
		refusals: newBounded[key](maxRefusals, func(r refusal, now time.Time) bool { return !now.Before(r.until) }),
		bypasses: newBounded[key](maxTokens, func(l *rate.Limiter, now time.Time) bool { return l.TokensAt(now) >= 1 }),
		flights:  make(map[key]*flight),
		inFlight: make(map[string]int),
	}
}

// lookup is what the cache has for a request: a token, a refusal, or a flight
// to wait for.
type lookup struct {
	outcome outcome
	entry   *entry // to serve; with a flight: the old token, if it still holds
	err     *workload.TokenError
	flight  *flight
	lead    bool // the caller must run the flight
}

func (c *cache) look(k key, w workload.Workload, bypass bool) lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	held, ok := c.tokens.get(k, now)
	if !ok {
		held = nil
	}
	if !bypass {
		if held.left(now) >= minLeft {
			return lookup{outcome: hit, entry: held}
		}
		if r, ok := c.refusals.get(k, now); ok {
			if err := forCaller(r.err, w, now); err.Kind != workload.Unavailable {
				return lookup{outcome: refusedBefore, err: err}
			}
		}
	}
	if f, ok := c.flights[k]; ok {
		return lookup{outcome: joined, entry: held, flight: f}
	}
	if c.inFlight[k.account] >= maxFlights {
		if held != nil {
			return lookup{outcome: stale, entry: held}
		}
		return lookup{outcome: limited, err: unavailable("too many token requests of the service account %s/%s are under way", w.Namespace, w.ServiceAccount)}
	}
	f := &flight{done: make(chan struct{}), podUID: w.PodUID}
	c.flights[k] = f
	c.inFlight[k.account]++
	return lookup{outcome: miss, entry: held, flight: f, lead: true}
}

// land ends a flight with its result and keeps what may be kept.
func (c *cache) land(k key, f *flight, t workload.Token, err *workload.TokenError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	switch {
	case err == nil:
		f.entry = &entry{token: t, pods: make(map[string]struct{})}
		c.tokens.put(k, f.entry, now)
		c.refusals.remove(k)
	case err.Kind != workload.Unavailable && !f.ofPod:
		c.refusals.put(k, refusal{err, now.Add(refusalMemory)}, now)
	}
	f.err = err
	delete(c.flights, k)
	if c.inFlight[k.account]--; c.inFlight[k.account] == 0 {
		delete(c.inFlight, k.account)
	}
	close(f.done)
}

// mayBypass reports whether the key's cached token may be passed over now.
func (c *cache) mayBypass(k key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	l, ok := c.bypasses.get(k, now)
	if !ok {
		l = rate.NewLimiter(rate.Every(bypassEvery), 1)
		l.AllowN(now, 1)
		c.bypasses.put(k, l, now)
		return true
	}
	return l.AllowN(now, 1)
}

// firstIssue notes that the pod gets the token, and reports whether that is
// its first time.
func (c *cache) firstIssue(e *entry, podUID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := e.pods[podUID]; ok {
		return false
	}
	if len(e.pods) >= maxPods {
		clear(e.pods)
	}
	e.pods[podUID] = struct{}{}
	return true
}

func (c *cache) forget(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens.removeIf(func(k key, _ *entry) bool { return k.account == account })
	c.refusals.removeIf(func(k key, _ refusal) bool { return k.account == account })
}
