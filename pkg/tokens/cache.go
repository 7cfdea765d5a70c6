package tokens

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// refusalMemory keeps a retrying client from asking Entra the same in
	// vain, and is short enough for whoever mends the set-up and tries again.
	refusalMemory = 10 * time.Second
	// bypassEvery is how often bypass_cache=true may force an exchange.
	bypassEvery = 10 * time.Second

	maxTokens   = 4096
	maxRefusals = 4096
	// maxAccountTokens bounds one service account's tokens, so that it cannot
	// push out those of the others.
	maxAccountTokens = 256
	// maxFlights bounds one service account's exchanges under way. They
	// outlive their callers, so the callers' own limits do not bound them.
	maxFlights = 64
	// maxRefreshes bounds the exchanges under way that nobody waits for.
	maxRefreshes = 16
)

// key says which requests share a token. It names the service account by its
// UID and never the pod.
type key struct {
	account string
	target
}

type refusal struct {
	err   *workload.TokenError
	until time.Time
}

// cache holds tokens, refusals, the exchanges under way, and what is known
// about when the next may be sent.
type cache struct {
	clocks clocks

	mu       sync.Mutex
	tokens   *bounded[key, *entry]
	refusals *bounded[key, refusal]
	bypasses *bounded[key, *rate.Limiter]
	paces    *bounded[paceKey, pace]
	circuits circuits
	told     *bounded[key, told] // failures in the log
	warmed   *bounded[realm, time.Time]
	flights  map[key]*flight
	inFlight map[string]int // by service account
	// refreshing counts the flights that nobody waited for when they began.
	refreshing int
}

func newCache(c clocks) *cache {
	return &cache{
		clocks:   c,
		tokens:   newBounded[key](maxTokens, func(e *entry, now time.Time) bool { return e.left(instant{steady: now}) <= 0 }),
		refusals: newBounded[key](maxRefusals, func(r refusal, now time.Time) bool { return !now.Before(r.until) }),
		bypasses: newBounded[key](maxTokens, func(l *rate.Limiter, now time.Time) bool { return l.TokensAt(now) >= 1 }),
		paces:    newBounded[paceKey](maxRefusals, func(p pace, now time.Time) bool { return now.After(p.until.Add(paceMemory)) }),
		circuits: newCircuits(),
		told:     newBounded[key](maxRefusals, func(t told, now time.Time) bool { return now.Sub(t.at) >= tellAgainAfter }),
		warmed:   newBounded[realm](maxCircuits, func(at, now time.Time) bool { return now.Sub(at) >= warmAgain }),
		flights:  make(map[key]*flight),
		inFlight: make(map[string]int),
	}
}

// lookup is what the cache has for a request: a token, a refusal, a flight to
// wait for, or the reason and the time to wait before there may be one.
type lookup struct {
	outcome outcome
	entry   *entry // to serve; with a flight: the old token, if it still holds
	err     *workload.TokenError
	flight  *flight
	lead    bool // the caller must run the flight
	wait    *wait
}

func (c *cache) look(k key, w workload.Workload, bypass bool) lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now()
	old, ok := c.tokens.get(k, now.steady)
	if !ok {
		old = nil
	}
	if !bypass {
		if old.fresh(now) {
			return lookup{outcome: hit, entry: old}
		}
		if r, ok := c.refusals.get(k, now.steady); ok {
			if err := forCaller(r.err, w, now.date); err.Kind != workload.Unavailable {
				return lookup{outcome: refusedBefore, err: err}
			}
		}
	}
	if f, ok := c.flights[k]; ok {
		return lookup{outcome: joined, entry: old, flight: f}
	}
	f, not := c.depart(k, w, now)
	switch {
	case f != nil:
		return lookup{outcome: miss, entry: old, flight: f, lead: true}
	case old != nil:
		return lookup{outcome: stale, entry: old}
	}
	return not
}

// hit is serve for the key's token, if there is one that look would return
// alone.
func (c *cache) hit(k key, w workload.Workload) (t workload.Token, first, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now()
	e, ok := c.tokens.get(k, now.steady)
	if !ok || !e.fresh(now) {
		return workload.Token{}, false, false
	}
	return e.at(now), e.serve(w), true
}

// store keeps a new token, and forgets the account's oldest if it has too
// many.
func (c *cache) store(k key, e *entry, now time.Time) {
	c.tokens.put(k, e, now)
	c.tokens.trim(maxAccountTokens, func(o key) bool { return o.account == k.account })
}

// mayBypass reports whether the key's cached token may be passed over now.
func (c *cache) mayBypass(k key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now().steady
	l, ok := c.bypasses.get(k, now)
	if !ok {
		l = rate.NewLimiter(rate.Every(bypassEvery), 1)
		l.AllowN(now, 1)
		c.bypasses.put(k, l, now)
		return true
	}
	return l.AllowN(now, 1)
}

// serve returns the token as it is served now, notes that the workload gets
// it, and reports whether that is its pod's first time.
func (c *cache) serve(e *entry, w workload.Workload) (t workload.Token, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.at(c.clocks.now()), e.serve(w)
}

// forget erases all that is kept for the service account. What its exchanges
// under way bring is not kept either.
func (c *cache) forget(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens.removeIf(func(k key, _ *entry) bool { return k.account == account })
	c.refusals.removeIf(func(k key, _ refusal) bool { return k.account == account })
	c.bypasses.removeIf(func(k key, _ *rate.Limiter) bool { return k.account == account })
	c.paces.removeIf(func(k paceKey, _ pace) bool { return k.account == account })
	c.told.removeIf(func(k key, _ told) bool { return k.account == account })
	for k, f := range c.flights {
		if k.account == account {
			f.forgotten = true
		}
	}
}

// size returns how many tokens are kept.
func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens.order.Len()
}

// refresh is an exchange ahead of time, which has begun.
type refresh struct {
	key    key
	flight *flight
	askers []workload.Workload // whose assertions may be tried, in this order
}

// due begins the exchanges that are to be made ahead of time now.
func (c *cache) due() []refresh {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []refresh
	now := c.clocks.now()
	c.tokens.each(func(k key, e *entry) bool {
		if c.refreshing >= maxRefreshes {
			return false
		}
		if _, ok := c.flights[k]; ok || e.left(now) <= 0 || !e.due(now) {
			return true
		}
		f, _ := c.depart(k, workload.Workload{PodUID: anyPod}, now)
		if f == nil {
			return true
		}
		f.ahead = true
		c.refreshing++
		all = append(all, refresh{k, f, slices.Clone(e.askers)})
		return true
	})
	return all
}
