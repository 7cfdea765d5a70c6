package tokens

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// minLeft is what a cached token must have left to be served while a newer
	// one can be had: clients ask again and again for a token that ends sooner.
	minLeft = 5 * time.Minute
	// refreshLead is what a token has left when a new one is fetched ahead of
	// its end: some clients want a new one from then on.
	refreshLead = 20 * time.Minute
	// stepTolerance is how far the clock may stray from elapsed time before it
	// counts as set: an outage of the time source, but no drift, exceeds it.
	stepTolerance = time.Minute
	// firstRefreshPause and lastRefreshPause bound the pauses of a refresh that
	// Entra refuses.
	firstRefreshPause = 10 * time.Second
	lastRefreshPause  = 5 * time.Minute
	// maxPods bounds the pods noted per token. Beyond it the notes start
	// again: an audit line twice is better than none.
	maxPods = 1024
	// maxAskers is how many pods' assertions a refresh may try.
	maxAskers = 4
)

// entry is a token, and who uses it.
type entry struct {
	token     workload.Token // as it was issued
	issued    clocks.Instant
	lifetime  time.Duration
	refreshAt time.Time // steady

	// Guarded by cache.mu.
	// refusedSince is when Entra began to refuse to replace it, and notBefore
	// when the next try may be made ahead of requests.
	refusedSince, notBefore time.Time // steady

	used   bool                // it was asked for since it was issued
	askers []workload.Workload // the latest first
	pods   map[string]struct{} // those that it was issued to
}

// newEntry returns the entry of a grant that was asked for at that moment: to
// count from the answer would add the answer's delay to the token's life.
func newEntry(g entra.Grant, clientID string, asked clocks.Instant) *entry {
	return &entry{
		token: workload.Token{
			Value: g.Token, Type: "Bearer", ClientID: clientID,
			NotBefore: asked.Date, ExpiresOn: asked.Date.Add(g.Lifetime), Made: new(workload.Memo),
		},
		issued:    asked,
		lifetime:  g.Lifetime,
		refreshAt: asked.Steady.Add(refreshAfter(g)),
		pods:      make(map[string]struct{}),
	}
}

// refreshAfter returns the age at which a token is to be replaced: what Entra
// says, else twenty minutes before its end, or at half of a short life. Up to a
// quarter of that time is put before it by chance, so that the tokens of a
// node, or of a cluster, that were issued together are not replaced together.
func refreshAfter(g entra.Grant) time.Duration {
	lead := min(refreshLead, g.Lifetime/2)
	latest := g.Lifetime - lead - upTo(lead/4)
	if g.RefreshIn <= 0 || g.RefreshIn >= latest {
		return latest
	}
	return min(g.RefreshIn+upTo(g.RefreshIn/10), latest)
}

// upTo returns a random duration below d; 0 for none.
func upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// left returns how long the token still holds by its age, however the clock
// was set; 0 or less: it has ended. A nil entry has nothing left.
func (e *entry) left(now clocks.Instant) time.Duration {
	if e == nil {
		return 0
	}
	return e.lifetime - now.Steady.Sub(e.issued.Steady)
}

// fresh reports whether the token may be served without asking for a newer
// one. Where the clock was set, the less favourable reading decides.
func (e *entry) fresh(now clocks.Instant) bool {
	if e == nil {
		return false
	}
	left := min(e.left(now), e.token.ExpiresOn.Sub(now.Date))
	return left >= min(minLeft, e.lifetime/2)
}

// due reports whether a new token is to be fetched ahead: it is time, or the
// clock was set, so that the token's times say the wrong thing to whoever
// keeps them. A token that was not asked for is left to expire.
func (e *entry) due(now clocks.Instant) bool {
	return e.used && !now.Steady.Before(e.notBefore) && (!now.Steady.Before(e.refreshAt) || e.step(now) != 0)
}

// refused notes that Entra refuses to replace the token. The longer it does the
// rarer it is asked: after ten seconds, and in the end every five minutes, at
// most a dozen times in the twenty minutes that are left of the token.
func (e *entry) refused(now time.Time) {
	if e.refusedSince.IsZero() {
		e.refusedSince = now
	}
	pause := min(max(now.Sub(e.refusedSince)/2, firstRefreshPause), lastRefreshPause)
	e.notBefore = now.Add(pause - upTo(pause/4))
}

// step returns by how much the clock was set since the token was issued.
func (e *entry) step(now clocks.Instant) time.Duration {
	step := now.Date.Sub(e.issued.Date) - now.Steady.Sub(e.issued.Steady)
	if step.Abs() < stepTolerance {
		return 0
	}
	return step
}

// at returns the token with its times as the clock has it now.
func (e *entry) at(now clocks.Instant) workload.Token {
	t, step := e.token, e.step(now)
	t.NotBefore, t.ExpiresOn = t.NotBefore.Add(step), t.ExpiresOn.Add(step)
	return t
}

// serve notes that the workload gets the token, and reports whether its pod
// gets it for the first time. The caller holds the lock.
func (e *entry) serve(w workload.Workload) (first bool) {
	e.used = true
	if len(e.askers) > 0 && e.askers[0].PodUID == w.PodUID {
		e.askers[0] = w
	} else {
		e.putAsker(w)
	}
	if _, ok := e.pods[w.PodUID]; ok {
		return false
	}
	if len(e.pods) >= maxPods {
		clear(e.pods)
	}
	e.pods[w.PodUID] = struct{}{}
	return true
}

// putAsker makes the workload the one that asked last.
func (e *entry) putAsker(w workload.Workload) {
	e.askers = slices.DeleteFunc(e.askers, func(o workload.Workload) bool { return o.PodUID == w.PodUID })
	e.askers = slices.Insert(e.askers, 0, w)
	e.askers = e.askers[:min(len(e.askers), maxAskers)]
}
