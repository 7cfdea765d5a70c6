package tokens

import (
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The life of an exchange, all under the cache's lock:
//
//	start ─ held: a pause, a budget or a circuit says when to look again
//	   │
//	  call ─ one for each key, run by whoever started it, joined by the others
//	   │
//	  end ── a token        the key, its client and its tenant work
//	      ── a refusal      the key pauses; callers are denied, or held while
//	      │                 Entra may not know yet of what it refuses
//	      ── a failure      the key pauses, and its client's or its tenant's
//	                        circuit counts it
const (
	// pauseMemory is how long a failure counts as the same as the next one.
	pauseMemory = time.Minute
	// refusedPause is the shortest pause after Entra itself said no: it has seen
	// the request, and counts how often it comes.
	refusedPause = 2 * time.Second
	// refusalMemory is the longest pause after a refusal: it keeps a retrying
	// client from asking Entra the same in vain, and is short enough for
	// whoever fixes the set-up and tries again.
	refusalMemory = 10 * time.Second
	// settleTime is how long Entra may need until all of it has seen a new
	// federated credential or client. What worked before and is refused now is
	// retried for as long, too.
	settleTime = 2 * time.Minute
	// maxSkew is how far the node's clock may be behind the API server's, whose
	// clock dates new objects.
	maxSkew = 15 * time.Minute
	// crowdPause is how long a caller waits whose service account has too many
	// exchanges under way.
	crowdPause = 250 * time.Millisecond
	// maxCalls bounds one service account's exchanges under way. They outlive
	// their callers, so the callers' own limits do not bound them.
	maxCalls = 64
	// maxNodeCalls bounds the exchanges under way over all. Each costs some
	// 50 KiB, here and in the connection to Entra.
	maxNodeCalls = 256
	// maxTrusted bounds what is known to have worked, and maxAccountTrusted
	// what of that is one service account's.
	maxTrusted        = 2 * maxTokens
	maxAccountTrusted = 2 * maxAccountTokens
)

// anyPod stands for the pods that asked before, where no pod asks now. It is no
// pod's UID.
const anyPod = "*"

// exchanges is the part of the cache that says what may be sent. It has no lock
// of its own.
type exchanges struct {
	calls    map[key]*call
	running  map[string]int // calls by service account
	pauses   *bounded.Map[pauseKey, pause]
	trusted  *bounded.Map[key, trust] // keys that have worked, and their identities
	circuits circuits
	budgets  budgets
	// refreshing counts the calls that no caller waited for when they began.
	refreshing int
}

func newExchanges() exchanges {
	return exchanges{
		calls:   make(map[key]*call),
		running: make(map[string]int),
		pauses: bounded.New[pauseKey](maxPauses, func(p pause, now time.Time) bool {
			return now.After(p.until.Add(pauseMemory))
		}),
		trusted:  bounded.New[key](maxTrusted, func(trust, time.Time) bool { return false }),
		circuits: newCircuits(),
		budgets:  newBudgets(),
	}
}

// call is one exchange under way. Its result may be read once done is closed.
type call struct {
	done   chan struct{}
	podUID string // whose assertion is exchanged, or anyPod
	result

	// Guarded by cache.mu.
	probes    probes
	ahead     bool // no caller waited for it when it began
	forgotten bool // its service account was erased
}

// result is how an exchange ended.
type result struct {
	entry *entry
	err   *workload.TokenError
	from  workload.Workload // whose assertion was tried last
	// unsent: nothing went to Entra, because the pod's assertion could not be
	// had or the agent itself failed. That says nothing about other pods.
	unsent bool
}

// pauseKey is what fails and is tried again: a key, or the assertion of one of
// its pods.
type pauseKey struct {
	key
	podUID string // empty unless the assertion failed
}

// pause says when what failed may be tried again.
type pause struct {
	since time.Time // when it began to fail
	until time.Time
	err   *workload.TokenError
}

// trust is what is known of a key that has worked.
type trust struct {
	refusedSince time.Time // when Entra began to refuse it; zero: it does not
	refusedLast  time.Time
}

// wait says what a caller waits for before it looks again.
type wait struct {
	until   time.Time
	changed <-chan struct{} // nil: nothing
	circuit *circuit        // whose turns the waiting takes part in; may be nil
}

func (w *wait) join(account string) {
	if w.circuit != nil {
		w.circuit.asker(account).callers++
	}
}

// leave ends what join began. Where the caller gave up, others may have left the
// turn to it.
func (w *wait) leave(account string, gaveUp bool) {
	if w.circuit == nil {
		return
	}
	w.circuit.asker(account).callers--
	if gaveUp && !w.circuit.probing {
		w.circuit.notify()
	}
}

// start begins a call for the workload, or says why it must wait. Of the calls
// that there may be over all, a service account may have as many as are left: n of
// them that take what they can get come to one part in n+1 each, and leave one to
// who comes next.
func (x *exchanges) start(k key, w workload.Workload, now clocks.Instant) (*call, *held) {
	again := false
	for _, pk := range []pauseKey{{k, ""}, {k, w.PodUID}} {
		p, ok := x.pauses.Get(pk, now.Steady)
		if !ok {
			continue
		}
		// A refusal that is final for this caller is no reason to wait.
		err := x.pauseError(pk, p, w, now)
		if err.Kind != workload.Unavailable {
			continue
		}
		if again = true; now.Steady.Before(p.until) {
			return nil, &held{how: heldBack, err: err, wait: &wait{until: p.until}}
		}
	}
	if x.running[k.account] >= maxCalls {
		return nil, &held{
			how: limited, wait: &wait{until: now.Steady.Add(crowdPause)},
			err: unavailable("too many token requests of the service account %s/%s are under way", w.Namespace, w.ServiceAccount),
		}
	}
	if x.running[k.account] >= maxNodeCalls-len(x.calls) {
		return nil, &held{
			how: limited, wait: &wait{until: now.Steady.Add(crowdPause)},
			err: unavailable("too many token requests of this node's pods are under way"),
		}
	}
	if at := x.budgets.next(w, now.Steady); !again && now.Steady.Before(at) {
		return nil, &held{
			how: limited, wait: &wait{until: at},
			err: unavailable("the pod %s/%s, its service account or the node asks for more new tokens than are exchanged at once", w.Namespace, w.PodName),
		}
	}
	probes, closed := x.circuits.admit(k, now.Steady)
	if closed != nil {
		return nil, &held{how: heldBack, wait: closed, err: unavailable("Entra cannot be reached, or asks to be left alone")}
	}
	if !again {
		x.budgets.take(w, now.Steady)
	}
	return x.begin(k, &call{podUID: w.PodUID, probes: probes}), nil
}

// startAhead begins a call that no caller waits for; nil if it must wait, and for
// which circuit.
func (x *exchanges) startAhead(k key, now clocks.Instant) (*call, *wait) {
	if p, ok := x.pauses.Get(pauseKey{k, ""}, now.Steady); ok && now.Steady.Before(p.until) {
		return nil, nil
	}
	if p, ok := x.pauses.Get(pauseKey{k, anyPod}, now.Steady); ok && now.Steady.Before(p.until) {
		return nil, nil
	}
	if x.running[k.account] >= maxCalls {
		return nil, nil
	}
	probes, closed := x.circuits.admit(k, now.Steady)
	if closed != nil {
		// It looks again then: those who come earlier leave it its turn.
		closed.circuit.asker(k.account).until = closed.until.Add(probeLook)
		return nil, closed
	}
	x.refreshing++
	return x.begin(k, &call{podUID: anyPod, ahead: true, probes: probes}), nil
}

func (x *exchanges) begin(k key, p *call) *call {
	p.done = make(chan struct{})
	x.calls[k] = p
	x.running[k.account]++
	return p
}

// end takes a call's result.
func (x *exchanges) end(k key, p *call, r result, now time.Time) {
	if r.unsent {
		x.circuits.withdraw(k, p.probes, now)
	} else {
		x.circuits.report(k, p.probes, r.err, now)
	}
	if !p.forgotten {
		x.note(k, p, r, now)
	}
	p.result = r
	delete(x.calls, k)
	if x.running[k.account]--; x.running[k.account] == 0 {
		delete(x.running, k.account)
	}
	if p.ahead {
		x.refreshing--
	}
}

// note keeps what the result says about the next try.
func (x *exchanges) note(k key, p *call, r result, now time.Time) {
	pk := pauseKey{k, ""}
	switch {
	case r.err == nil:
		x.pauses.Remove(pk)
		return
	case r.unsent:
		pk.podUID = p.podUID
	case r.err.Kind != workload.Unavailable:
		x.doubt(k, now)
	}
	last, ok := x.pauses.Get(pk, now)
	failed := !r.unsent && r.err.Kind == workload.Unavailable
	// While a circuit counts the failures it sets the pace, for all its keys
	// alike.
	if !ok || failed && r.err.Code == "" {
		last.since = now
	}
	pause := pauseAfter(now.Sub(last.since))
	if r.err.Code != "" {
		pause = max(pause, refusedPause)
	}
	if r.err.Kind != workload.Unavailable {
		pause = min(pause, refusalMemory)
	}
	last.until, last.err = now.Add(max(pause, r.err.RetryAfter)), r.err
	x.pauses.Put(pk, last, now)
}

// trust notes that the key has worked, and with it its identity.
func (x *exchanges) trust(k key, now time.Time) {
	x.trusted.Put(k, trust{}, now)
	x.trusted.Put(k.identity(), trust{}, now)
	x.trusted.Trim(maxAccountTrusted, func(o key) bool { return o.account == k.account })
}

// doubt notes that Entra refuses the key. A refusal long after the last begins
// a time of its own.
func (x *exchanges) doubt(k key, now time.Time) {
	for _, k := range []key{k, k.identity()} {
		t, ok := x.trusted.Get(k, now)
		if !ok {
			continue
		}
		if t.refusedSince.IsZero() || now.Sub(t.refusedLast) > pauseMemory {
			t.refusedSince = now
		}
		t.refusedLast = now
		x.trusted.Put(k, t, now)
	}
}

// refusal returns what Entra last said to the key if that is final for the
// workload and too young to ask again; else nil.
func (x *exchanges) refusal(k key, w workload.Workload, now clocks.Instant) *workload.TokenError {
	p, ok := x.pauses.Get(pauseKey{k, ""}, now.Steady)
	if !ok || !now.Steady.Before(p.until) {
		return nil
	}
	if err := x.forCaller(p.err, k, w, now); err.Kind != workload.Unavailable {
		return err
	}
	return nil
}

// pauseError returns the pause's failure as it holds for the workload. That a
// pod's assertion cannot be had is never for time alone to fix.
func (x *exchanges) pauseError(pk pauseKey, p pause, w workload.Workload, now clocks.Instant) *workload.TokenError {
	if pk.podUID != "" {
		return p.err
	}
	return x.forCaller(p.err, pk.key, w, now)
}

// forCaller returns a failure of Entra's as it holds for the workload: a
// refusal is transient while it may pass by itself. One answer decides nothing
// that it does not.
func (x *exchanges) forCaller(e *workload.TokenError, k key, w workload.Workload, now clocks.Instant) *workload.TokenError {
	if e.Kind == workload.Unavailable {
		return e
	}
	settled, worked := x.settlesAt(e, k, w, now)
	if !now.Steady.Before(settled) {
		return e
	}
	retried := *e
	retried.Kind, retried.RetriedUntil = workload.Unavailable, now.DateOf(settled)
	if worked {
		retried.Fix = "" // it needed none before
	}
	return &retried
}

// settlesAt returns the steady time from which on the refusal is final for the
// workload, and whether the same has worked before.
func (x *exchanges) settlesAt(e *workload.TokenError, k key, w workload.Workload, now clocks.Instant) (at time.Time, worked bool) {
	// What Entra refuses may be as new as the workload.
	row, _ := aadsts.Lookup(e.Code)
	age := now.Date.Sub(w.ChangedAt)
	if row.Kind == aadsts.NotYet && age < settleTime && age >= -maxSkew {
		at = now.Steady.Add(settleTime - age)
	}
	if e.Kind != workload.InvalidResource {
		k = k.identity()
	}
	t, worked := x.trusted.Get(k, now.Steady)
	if worked && !t.refusedSince.IsZero() {
		if lasts := t.refusedSince.Add(settleTime); lasts.After(at) {
			at = lasts
		}
	}
	return at, worked
}

// retryIn returns how long a caller that waited in vain should stay away.
func (x *exchanges) retryIn(k key, w workload.Workload, now time.Time) time.Duration {
	wait := max(time.Second, x.circuits.until(k, now).Sub(now))
	for _, pk := range []pauseKey{{k, ""}, {k, w.PodUID}} {
		if p, ok := x.pauses.Get(pk, now); ok {
			wait = max(wait, p.until.Sub(now))
		}
	}
	return min(wait, entra.MaxRetryAfter)
}

// forget erases what is kept for the service account.
func (x *exchanges) forget(account string) {
	x.pauses.RemoveIf(func(k pauseKey, _ pause) bool { return k.account == account })
	x.trusted.RemoveIf(func(k key, _ trust) bool { return k.account == account })
	for k, p := range x.calls {
		if k.account == account {
			p.forgotten = true
		}
	}
}
