package tokens

import (
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// openAfter is how many failures in a row open a circuit.
	openAfter = 5
	// openAfterAccounts is how many service accounts must have failed, each with
	// a client that Entra answers badly for, until that counts as a failure of
	// the whole tenant.
	openAfterAccounts = 3
	// shortestPause and longestPause bound the pauses between tries.
	shortestPause = 250 * time.Millisecond
	longestPause  = 30 * time.Second
	// throttledPause follows a 429 that does not say how long to wait.
	throttledPause = time.Second
	// probeLook is how often a caller looks whether a probe has ended, should
	// it not be known.
	probeLook   = time.Second
	maxCircuits = 1024
	// circuitMemory is how long a circuit is kept without a request.
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

// realm is what fails, throttles and recovers as one: a tenant at an authority,
// or one client there.
type realm struct {
	authority, tenant string
	// account is set where a proxy is between: a pod's author chooses how to
	// reach that one, and must not spoil it for others.
	account string
	client  string // empty: the tenant
}

// tenantRealm returns the realm of all the tenant's clients.
func (k key) tenantRealm() realm {
	r := realm{authority: k.authority, tenant: k.tenant}
	if k.proxy != (entra.Proxy{}) {
		r.account = k.account
	}
	return r
}

// clientRealm returns the realm of the key's client.
func (k key) clientRealm() realm {
	r := k.tenantRealm()
	r.client = k.clientID
	return r
}

// circuit is a realm that has failed. Closed, it lets everything through;
// open, nothing until its time; then one exchange, the probe, whose end closes
// it or opens it again.
type circuit struct {
	failures int       // in a row
	since    time.Time // when they began
	until    time.Time // nothing is sent before
	probing  bool
	changed  chan struct{} // closed at the next change

	// accounts have failed in a tenant's circuit, each for itself.
	accounts map[string]struct{}
	askers   map[string]*asker // by service account
}

// asker is a service account that waits for a circuit, or did.
type asker struct {
	callers int       // that wait now
	until   time.Time // as long as a refresh waits, which looks now and then
	probed  time.Time // when it was last let through
}

func newCircuit(now time.Time) *circuit {
	return &circuit{
		since: now, changed: make(chan struct{}),
		accounts: make(map[string]struct{}), askers: make(map[string]*asker),
	}
}

func (c *circuit) open() bool {
	return c.failures >= openAfter || len(c.accounts) >= openAfterAccounts
}

// asker returns the account's place among those that wait.
func (c *circuit) asker(account string) *asker {
	a, ok := c.askers[account]
	if !ok {
		a = &asker{}
		c.askers[account] = a
	}
	return a
}

// isTurn reports whether nobody waits who was let through less recently, so
// that an account whose exchanges always fail is not always the probe.
func (c *circuit) isTurn(account string, now time.Time) bool {
	mine := c.asker(account)
	for other, a := range c.askers {
		waits := a.callers > 0 || now.Before(a.until)
		if other != account && waits && a.probed.Before(mine.probed) {
			return false
		}
	}
	return true
}

// notify wakes those who wait for a change.
func (c *circuit) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// fail notes a failure that is the realm's own.
func (c *circuit) fail(err *workload.TokenError, now time.Time) {
	c.failures++
	until := now
	if entra.Throttled(err) {
		c.failures = max(c.failures, openAfter)
		until = now.Add(max(err.RetryAfter, throttledPause))
	}
	c.pause(until, now)
}

// failAccount notes in a tenant's circuit that an account's client failed. As
// the answer to a probe it shows that the way to Entra is open again.
func (c *circuit) failAccount(account string, probe bool, now time.Time) {
	if probe && c.failures > 0 {
		c.failures, c.since = 0, now
		clear(c.accounts)
	}
	c.accounts[account] = struct{}{}
	c.pause(now, now)
}

// pause leaves the realm alone until that time, and if it is open for as long
// as its failure suggests.
func (c *circuit) pause(until, now time.Time) {
	if again := now.Add(pauseAfter(now.Sub(c.since))); c.open() && again.After(until) {
		until = again
	}
	if until.After(c.until) {
		c.until = until
	}
}

// circuits are those of all realms that failed of late. They have no lock of
// their own; their times are steady.
type circuits struct {
	failing *bounded.Map[realm, *circuit]
}

func newCircuits() circuits {
	return circuits{bounded.New[realm](maxCircuits, func(c *circuit, now time.Time) bool {
		return now.After(c.until.Add(circuitMemory))
	})}
}

// probes are the circuits that an exchange is the probe of.
type probes struct{ tenant, client bool }

// admit reports whether an exchange of the key may be sent now, and what it is
// the probe of; else what to wait for.
func (c circuits) admit(k key, now time.Time) (p probes, w *wait) {
	client, clientOK := c.failing.Get(k.clientRealm(), now)
	tenant, tenantOK := c.failing.Get(k.tenantRealm(), now)
	// The client's goes first: what is held there does not wait for its turn at
	// the tenant's.
	if clientOK {
		if p.client, w = client.admits(k.account, now); w != nil {
			return probes{}, w
		}
	}
	if tenantOK {
		if p.tenant, w = tenant.admits(k.account, now); w != nil {
			return probes{}, w
		}
	}
	if p.client {
		client.probe(k.account, now)
	}
	if p.tenant {
		tenant.probe(k.account, now)
	}
	return p, nil
}

func (c *circuit) admits(account string, now time.Time) (probe bool, w *wait) {
	switch {
	case now.Before(c.until):
		return false, &wait{until: c.until, changed: c.changed, circuit: c}
	case !c.open():
		return false, nil
	case c.probing, !c.isTurn(account, now):
		return false, &wait{until: now.Add(probeLook), changed: c.changed, circuit: c}
	}
	return true, nil
}

func (c *circuit) probe(account string, now time.Time) {
	c.probing = true
	a := c.asker(account)
	a.probed, a.until = now, time.Time{}
}

// report takes the end of an exchange that was admitted and sent.
func (c circuits) report(k key, p probes, err *workload.TokenError, now time.Time) {
	switch {
	case err == nil || err.Kind != workload.Unavailable:
		c.succeed(k.clientRealm(), p.client, now)
		c.succeed(k.tenantRealm(), p.tenant, now)
	case entra.Whose(err) == aadsts.Client:
		c.fail(k.clientRealm(), p.client, now, func(known *circuit) { known.fail(err, now) })
		c.fail(k.tenantRealm(), p.tenant, now, func(known *circuit) { known.failAccount(k.account, p.tenant, now) })
	default:
		c.release(k.clientRealm(), p.client, now)
		c.fail(k.tenantRealm(), p.tenant, now, func(known *circuit) { known.fail(err, now) })
	}
}

// withdraw takes back an exchange that was never sent.
func (c circuits) withdraw(k key, p probes, now time.Time) {
	c.release(k.clientRealm(), p.client, now)
	c.release(k.tenantRealm(), p.tenant, now)
}

func (c circuits) fail(r realm, probe bool, now time.Time, note func(*circuit)) {
	known, ok := c.failing.Get(r, now)
	if !ok {
		known = newCircuit(now)
	}
	note(known)
	if probe {
		known.probing = false
	}
	c.failing.Put(r, known, now)
	known.notify()
}

func (c circuits) succeed(r realm, probe bool, now time.Time) {
	known, ok := c.failing.Get(r, now)
	if !ok || known.open() && !probe {
		return // what was sent before the circuit opened proves nothing
	}
	known.probing = false
	c.failing.Remove(r)
	known.notify()
}

func (c circuits) release(r realm, probe bool, now time.Time) {
	known, ok := c.failing.Get(r, now)
	if !probe || !ok {
		return
	}
	known.probing = false
	known.notify()
}

// until returns until when nothing of the key is sent; the zero time if its
// circuits let it through.
func (c circuits) until(k key, now time.Time) (until time.Time) {
	for _, r := range []realm{k.clientRealm(), k.tenantRealm()} {
		if known, ok := c.failing.Get(r, now); ok && known.until.After(until) {
			until = known.until
		}
	}
	return until
}

// Circuit is a tenant, or one client of it, that Entra does not answer for, for
// people.
type Circuit struct {
	Authority string
	Tenant    string
	ClientID  string    // empty: all clients of the tenant
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

// list returns the circuits that are not closed.
func (c circuits) list(now clocks.Instant) []Circuit {
	var all []Circuit
	c.failing.Each(func(r realm, known *circuit) bool {
		if _, ok := c.failing.Get(r, now.Steady); !ok || !known.open() {
			return true
		}
		state := circuitOpen
		if !now.Steady.Before(known.until) {
			state = circuitHalfOpen
		}
		all = append(all, Circuit{
			Authority: r.authority, Tenant: r.tenant, ClientID: r.client, State: state,
			Failures: max(known.failures, len(known.accounts)),
			Since:    now.DateOf(known.since), Until: now.DateOf(known.until),
		})
		return true
	})
	return all
}
