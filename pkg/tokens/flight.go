package tokens

import (
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// paceMemory is how long a failure counts as the same as the next one.
	paceMemory = time.Minute
	// toldPause is the shortest pause after Entra itself said no: it has seen
	// the request, and counts how often it comes.
	toldPause = 2 * time.Second
	// crowdPause is how long a caller waits whose service account has too many
	// exchanges under way.
	crowdPause = 250 * time.Millisecond
)

// anyPod stands for the pods that asked before, where no pod asks now. It is no
// pod's UID.
const anyPod = "*"

// flight is one exchange under way. Its results may be read once done is
// closed.
type flight struct {
	done   chan struct{}
	podUID string // whose assertion is exchanged, or anyPod
	entry  *entry
	err    *workload.TokenError
	// ofPod: the assertion could not be had. That says nothing about the other
	// pods of the service account.
	ofPod bool

	// Guarded by cache.mu.
	probe     bool // of its realm's circuit
	ahead     bool // nobody waited for it when it began
	forgotten bool // its service account was erased
}

// paceKey is what fails and is tried again: a key, or the assertion of one of
// its pods.
type paceKey struct {
	key
	podUID string // empty unless the assertion failed
}

// pace says when what failed may be tried again.
type pace struct {
	since time.Time // when it began to fail
	until time.Time
	err   *workload.TokenError
}

// depart begins a flight, or says in the lookup why it must wait. The caller
// holds the lock, as it does for the functions below.
func (c *cache) depart(k key, w workload.Workload, now instant) (*flight, lookup) {
	for _, pk := range []paceKey{{k, ""}, {k, w.PodUID}} {
		p, ok := c.paces.get(pk, now.steady)
		if !ok || !now.steady.Before(p.until) {
			continue
		}
		// A refusal that is final for this caller is no reason to wait.
		if err := forCaller(p.err, w, now.date); err.Kind == workload.Unavailable {
			return nil, lookup{outcome: held, err: err, wait: &wait{until: p.until}}
		}
	}
	if c.inFlight[k.account] >= maxFlights {
		return nil, lookup{
			outcome: limited, wait: &wait{until: now.steady.Add(crowdPause)},
			err: unavailable("too many token requests of the service account %s/%s are under way", w.Namespace, w.ServiceAccount),
		}
	}
	probe, closed := c.circuits.admit(k.realm(), now.steady)
	if closed != nil {
		return nil, lookup{outcome: held, wait: closed, err: unavailable("Entra cannot be reached, or asks to be left alone")}
	}
	f := &flight{done: make(chan struct{}), podUID: w.PodUID, probe: probe}
	c.flights[k] = f
	c.inFlight[k.account]++
	return f, lookup{}
}

// land ends a flight with its result and keeps what may be kept; it reports
// whether the service account was erased meanwhile. It takes the lock.
func (c *cache) land(k key, f *flight, e *entry, err *workload.TokenError) (forgotten bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now().steady
	if f.ofPod {
		c.circuits.withdraw(k.realm(), f.probe, now)
	} else {
		c.circuits.report(k.realm(), f.probe, err, now)
	}
	if !f.forgotten {
		c.keep(k, f, e, err, now)
	}
	f.entry, f.err = e, err
	delete(c.flights, k)
	if c.inFlight[k.account]--; c.inFlight[k.account] == 0 {
		delete(c.inFlight, k.account)
	}
	if f.ahead {
		c.refreshing--
	}
	close(f.done)
	return f.forgotten
}

func (c *cache) keep(k key, f *flight, e *entry, err *workload.TokenError, now time.Time) {
	if err == nil {
		c.store(k, e, now)
		c.refusals.remove(k)
		c.paces.remove(paceKey{k, ""})
		return
	}
	pk := paceKey{k, ""}
	if f.ofPod {
		pk.podUID = f.podUID
	} else if err.Kind != workload.Unavailable {
		c.refusals.put(k, refusal{err, now.Add(refusalMemory)}, now)
	}
	last, ok := c.paces.get(pk, now)
	// While a realm fails its circuit sets the pace, for all keys alike.
	if !ok || realmFailed(err) && !f.ofPod {
		last.since = now
	}
	pause := pauseAfter(now.Sub(last.since))
	if err.Code != "" && !realmFailed(err) {
		pause = max(pause, toldPause, err.RetryAfter)
	}
	c.paces.put(pk, pace{since: last.since, until: now.Add(pause), err: err}, now)
}

// retryAfter returns how long a caller that waited in vain should stay away.
func (c *cache) retryAfter(k key, w workload.Workload) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now().steady
	wait := time.Second
	for _, pk := range []paceKey{{k, ""}, {k, w.PodUID}} {
		if p, ok := c.paces.get(pk, now); ok {
			wait = max(wait, p.until.Sub(now))
		}
	}
	if known, ok := c.circuits.failing.get(k.realm(), now); ok {
		wait = max(wait, known.until.Sub(now))
	}
	return min(wait, maxRetryAfter)
}
