package tokens

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// bypassEvery is how often bypass_cache=true may force an exchange.
	bypassEvery = 10 * time.Second
	// warmAgain is how soon after Warm another may send something. An idle
	// connection is kept for longer (entra.NewTransport).
	warmAgain = 30 * time.Second

	maxTokens = 4096
	maxPauses = 4096
	maxWarmed = 256
	// maxAccountTokens bounds one service account's tokens, so that it cannot
	// push out those of the others.
	maxAccountTokens = 256
	// maxRefreshes bounds the exchanges under way that no caller waits for.
	maxRefreshes = 16
)

// key says which requests share a token. It names the service account by its
// UID and never the pod.
type key struct {
	account string
	target
}

// identity returns the key of all that the service account asks for as the
// same client.
func (k key) identity() key {
	k.resource = ""
	return k
}

// cache holds tokens, the exchanges under way, and what is known about when the
// next may be sent: all that one lock guards.
type cache struct {
	clocks clocks.Clocks

	mu       sync.Mutex
	tokens   *bounded.Map[key, *entry]
	bypasses *bounded.Map[key, *rate.Limiter]
	warmed   *bounded.Map[realm, time.Time]
	exchanges
}

func newCache(c clocks.Clocks) *cache {
	return &cache{
		clocks:    c,
		tokens:    bounded.New[key](maxTokens, func(e *entry, now time.Time) bool { return e.left(clocks.Instant{Steady: now}) <= 0 }),
		bypasses:  bounded.New[key](maxTokens, func(l *rate.Limiter, now time.Time) bool { return l.TokensAt(now) >= 1 }),
		warmed:    bounded.New[realm](maxWarmed, func(at, now time.Time) bool { return now.Sub(at) >= warmAgain }),
		exchanges: newExchanges(),
	}
}

// found is what the cache has for a request: served, denied, held or pending.
type found interface{ outcome() outcome }

// served is a token.
type served struct {
	entry *entry
	how   outcome // hit, or stale
}

// denied is a refusal that is remembered.
type denied struct{ err *workload.TokenError }

// held says that nothing may be sent yet. Whoever has waited, in vain or not,
// calls cache.waited.
type held struct {
	err  *workload.TokenError // why
	wait *wait
	how  outcome // heldBack, or limited
}

// pending is an exchange under way.
type pending struct {
	call *call
	lead bool   // the caller must run it
	old  *entry // the token that is to be replaced; may be nil or have ended
}

func (s served) outcome() outcome { return s.how }
func (denied) outcome() outcome   { return refusedBefore }
func (h held) outcome() outcome   { return h.how }
func (p pending) outcome() outcome {
	if p.lead {
		return miss
	}
	return joined
}

// look returns what the cache has for the request, and begins an exchange if
// there is nothing and one may be sent.
func (c *cache) look(k key, w workload.Workload, bypass bool) found {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	old, ok := c.tokens.Get(k, now.Steady)
	if !ok {
		old = nil
	}
	if !bypass {
		if old.fresh(now) {
			return served{old, hit}
		}
		if err := c.refusal(k, w, now); err != nil {
			return denied{err}
		}
	}
	if p, ok := c.calls[k]; ok {
		return pending{call: p, old: old}
	}
	p, h := c.start(k, w, now)
	switch {
	case p != nil:
		return pending{call: p, lead: true, old: old}
	case old != nil:
		return served{old, stale}
	}
	h.wait.join(k.account)
	return *h
}

// waited ends the wait that look asked for. gaveUp: the caller does not look
// again.
func (c *cache) waited(k key, h held, gaveUp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.wait.leave(k.account, gaveUp)
}

// hit returns the key's token as it is served now, and notes that the workload
// gets it, if there is one that look would return alone.
func (c *cache) hit(k key, w workload.Workload) (t workload.Token, first, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	e, ok := c.tokens.Get(k, now.Steady)
	if !ok || !e.fresh(now) {
		return workload.Token{}, false, false
	}
	return e.at(now), e.serve(w), true
}

// serve returns the token as it is served now, notes that the workload gets
// it, and reports whether that is its pod's first time.
func (c *cache) serve(e *entry, w workload.Workload) (t workload.Token, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.at(c.clocks.Now()), e.serve(w)
}

// store keeps a new token, and forgets the account's oldest if it has too many.
// The caller holds the lock.
func (c *cache) store(k key, e *entry, now time.Time) {
	c.tokens.Put(k, e, now)
	c.tokens.Trim(maxAccountTokens, func(o key) bool { return o.account == k.account })
	c.trust(k, now)
}

// finish ends a call with its result and keeps what may be kept; it reports
// whether the service account was erased meanwhile. The caller closes done,
// once it has notified those who wait.
func (c *cache) finish(k key, p *call, r result) (forgotten bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now().Steady
	c.end(k, p, r, now)
	switch {
	case p.forgotten:
	case r.err == nil:
		c.store(k, r.entry, now)
	case p.ahead && r.err.Kind != workload.Unavailable:
		if e, ok := c.tokens.Get(k, now); ok {
			e.refused(now)
		}
	}
	return p.forgotten
}

// mayBypass reports whether the key's cached token may be passed over now.
func (c *cache) mayBypass(k key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now().Steady
	l, ok := c.bypasses.Get(k, now)
	if !ok {
		l = rate.NewLimiter(rate.Every(bypassEvery), 1)
		l.AllowN(now, 1)
		c.bypasses.Put(k, l, now)
		return true
	}
	return l.AllowN(now, 1)
}

// retryAfter returns how long a caller that waited in vain should stay away.
func (c *cache) retryAfter(k key, w workload.Workload) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retryIn(k, w, c.clocks.Now().Steady)
}

// asOf returns the failure of an exchange as it holds for the workload now.
func (c *cache) asOf(err *workload.TokenError, k key, w workload.Workload) *workload.TokenError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forCaller(err, k, w, c.clocks.Now())
}

// left returns how long the token still holds.
func (c *cache) left(e *entry) time.Duration { return e.left(c.clocks.Now()) }

// forget erases all that is kept for the service account. What its exchanges
// under way bring is not kept either.
func (c *cache) forget(account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens.RemoveIf(func(k key, _ *entry) bool { return k.account == account })
	c.bypasses.RemoveIf(func(k key, _ *rate.Limiter) bool { return k.account == account })
	c.exchanges.forget(account)
}

// underWay returns how many exchanges are under way.
func (c *cache) underWay() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// budgetLeft returns how many new exchanges the node's budget has left.
func (c *cache) budgetLeft() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.budgets.node.TokensAt(c.clocks.Now().Steady)
}

// size returns how many tokens are kept.
func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens.Len()
}

// overdue returns how many tokens that somebody asked for are about to end. A
// newer one is fetched much earlier, and pods that are gone are forgotten:
// nobody could have it.
func (c *cache) overdue() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	c.tokens.Each(func(_ key, e *entry) bool {
		if e.used && e.left(now) > 0 && !e.fresh(now) {
			n++
		}
		return true
	})
	return n
}

// openCircuits returns the circuits that are not closed.
func (c *cache) openCircuits() []Circuit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.circuits.list(c.clocks.Now())
}

// refresh is an exchange ahead of time, which has begun.
type refresh struct {
	key    key
	call   *call
	askers []workload.Workload // whose assertions may be tried, in this order
}

// due begins the exchanges that are to be made ahead of time now. It returns
// when to look again, because a circuit that holds one opens then: a refresh
// takes its turn there as callers do.
func (c *cache) due() (all []refresh, again time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now()
	again = now.Steady.Add(refreshTick)
	c.tokens.Each(func(k key, e *entry) bool {
		if c.refreshing >= maxRefreshes {
			return false
		}
		if _, ok := c.calls[k]; ok || e.left(now) <= 0 || !e.due(now) {
			return true
		}
		p, w := c.startAhead(k, now)
		if p == nil {
			if w != nil && w.until.Before(again) {
				again = w.until
			}
			return true
		}
		all = append(all, refresh{k, p, slices.Clone(e.askers)})
		return true
	})
	return all, again
}

// beginWarm reports whether it is time to warm the realm.
func (c *cache) beginWarm(r realm) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.Now().Steady
	if _, lately := c.warmed.Get(r, now); lately {
		return false
	}
	c.warmed.Put(r, now, now)
	return true
}

// warmFailed makes it time again.
func (c *cache) warmFailed(r realm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warmed.Remove(r)
}
