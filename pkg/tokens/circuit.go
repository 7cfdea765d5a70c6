package tokens

import (
	"errors"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// openAfter is how many failures in a row open a tenant's circuit.
	openAfter = 5
	// shortestPause and longestPause bound the pauses between tries.
	shortestPause = 250 * time.Millisecond
	longestPause  = 30 * time.Second
	// throttledPause follows a 429 that does not say how long to wait.
	throttledPause = time.Second
	// probeLook is how often a caller looks whether a probe has ended, should
	// it not be told.
	probeLook   = time.Second
	maxCircuits = 256
	// circuitMemory is how long a circuit is kept that nobody tries.
	circuitMemory = 10 * time.Minute
)

// pauseAfter returns how long to wait before the next try of what has been
// failing for that long: an eighth of it. Whoever waits thus waits little
// longer than the failure lasts, and the longer it lasts the rarer the tries.
// Up to a quarter is taken off by chance.
func pauseAfter(failing time.Duration) time.Duration {
	p := min(max(failing/8, shortestPause), longestPause)
	return p - upTo(p/4)
}

// realm is a tenant at an authority: what fails, throttles and mends as one.
type realm struct {
	authority, tenant string
	// account is set where a proxy is between: a pod's author chooses how to
	// reach that one, and must not spoil it for others.
	account string
}

func (k key) realm() realm {
	r := realm{authority: k.authority, tenant: k.tenant}
	if k.through != (through{}) {
		r.account = k.account
	}
	return r
}

// circuit is a realm that has failed. Closed, it lets everything through;
// open, nothing until its time; then one exchange, the probe, whose end closes
// it or opens it anew.
type circuit struct {
	failures int       // in a row
	since    time.Time // when they began
	until    time.Time // nothing is sent before
	probing  bool
	changed  chan struct{} // closed at the next change
}

func (c *circuit) open() bool { return c.failures >= openAfter }

// circuits are those of all realms that failed of late. Like bounded, it has
// no lock of its own; its times are steady.
type circuits struct {
	failing *bounded[realm, *circuit]
}

func newCircuits() circuits {
	return circuits{newBounded[realm](maxCircuits, func(c *circuit, now time.Time) bool {
		return now.After(c.until.Add(circuitMemory))
	})}
}

// wait says what a caller waits for before it looks again.
type wait struct {
	until   time.Time
	changed <-chan struct{} // nil: nothing
}

// admit reports whether an exchange may be sent to the realm now, and whether
// it is the probe; else what to wait for.
func (c circuits) admit(r realm, now time.Time) (probe bool, w *wait) {
	known, ok := c.failing.get(r, now)
	switch {
	case !ok:
		return false, nil
	case now.Before(known.until):
		return false, &wait{known.until, known.changed}
	case !known.open():
		return false, nil
	case known.probing:
		return false, &wait{now.Add(probeLook), known.changed}
	}
	known.probing = true
	return true, nil
}

// report takes the end of an exchange that was admitted.
func (c circuits) report(r realm, probe bool, err *workload.TokenError, now time.Time) {
	known, ok := c.failing.get(r, now)
	switch {
	case realmFailed(err):
		if !ok {
			known = &circuit{since: now, changed: make(chan struct{})}
		}
		known.fail(err, now)
		c.failing.put(r, known, now)
	case !ok, known.open() && !probe:
		return // what was sent before the circuit opened proves nothing
	default:
		c.failing.remove(r)
	}
	if probe {
		known.probing = false
	}
	close(known.changed)
	known.changed = make(chan struct{})
}

// withdraw takes back a probe that was never sent.
func (c circuits) withdraw(r realm, probe bool, now time.Time) {
	known, ok := c.failing.get(r, now)
	if !probe || !ok {
		return
	}
	known.probing = false
	close(known.changed)
	known.changed = make(chan struct{})
}

func (c *circuit) fail(err *workload.TokenError, now time.Time) {
	c.failures++
	until := now
	if throttled(err) {
		c.failures = max(c.failures, openAfter)
		until = now.Add(max(err.RetryAfter, throttledPause))
	}
	if again := now.Add(pauseAfter(now.Sub(c.since))); c.open() && again.After(until) {
		until = again
	}
	if until.After(c.until) {
		c.until = until
	}
}

// clientCodes are transient, but say nothing about other clients.
var clientCodes = map[string]bool{
	"AADSTS50196": true, // this client looped
}

// realmFailed reports whether an exchange ended in a way that any other with
// the same realm would have.
func realmFailed(err *workload.TokenError) bool {
	return err != nil && err.Kind == workload.Unavailable && !clientCodes[err.Code]
}

// throttled reports whether Entra asks to be left alone.
func throttled(err *workload.TokenError) bool {
	var status statusError
	return err.RetryAfter > 0 || errors.As(err.Err, &status) && int(status) == http.StatusTooManyRequests
}

// Circuit is a tenant that Entra does not answer for, for people.
type Circuit struct {
	Authority string
	Tenant    string
	State     string    // "open": nothing is sent; "half-open": one exchange is tried
	Failures  int       // in a row
	Since     time.Time // when they began
	Until     time.Time // nothing is sent before
}

// The states of a circuit that is not closed.
const (
	circuitOpen     = "open"
	circuitHalfOpen = "half-open"
)

// Circuits returns the circuits that are not closed.
func (e *Engine) Circuits() []Circuit { return e.cache.openCircuits() }

func (c *cache) openCircuits() []Circuit {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Circuit
	now := c.clocks.now()
	c.circuits.failing.each(func(r realm, known *circuit) bool {
		if !known.open() || c.circuits.failing.dead(known, now.steady) {
			return true
		}
		state := circuitOpen
		if !now.steady.Before(known.until) {
			state = circuitHalfOpen
		}
		all = append(all, Circuit{
			Authority: r.authority, Tenant: r.tenant, State: state, Failures: known.failures,
			Since: now.dateOf(known.since), Until: now.dateOf(known.until),
		})
		return true
	})
	return all
}

func (c *cache) countCircuits(state string) int {
	n := 0
	for _, known := range c.openCircuits() {
		if known.State == state {
			n++
		}
	}
	return n
}
