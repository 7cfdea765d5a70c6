package tokens

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// How many new exchanges requests may start: so many at once, and so many in
// each second after that. A node's start needs a few for each identity of a
// pod; a pod that asks for ever new resources or clients waits for its turn.
// Tries of what is held, which have pauses of their own, and refreshes ahead of
// a token's end, which are bounded by the tokens that are kept, are not counted.
const (
	podBurst     = 64
	podRate      = 2
	accountBurst = 128
	accountRate  = 4
	maxBudgets   = 4096
)

// budgets bound the exchanges of each pod and each service account. They have
// no lock of their own; their times are steady.
type budgets struct {
	pods, accounts *bounded.Map[string, *rate.Limiter]
}

func newBudgets() budgets {
	full := func(burst float64) func(*rate.Limiter, time.Time) bool {
		return func(l *rate.Limiter, now time.Time) bool { return l.TokensAt(now) >= burst }
	}
	return budgets{
		pods:     bounded.New[string](maxBudgets, full(podBurst)),
		accounts: bounded.New[string](maxBudgets, full(accountBurst)),
	}
}

// next returns when the workload's budgets have an exchange left: a time that
// is not after now if they have.
func (b budgets) next(w workload.Workload, now time.Time) (at time.Time) {
	for _, l := range b.of(w, now) {
		missing := 1 - l.TokensAt(now)
		if missing <= 0 {
			continue
		}
		wait := time.Duration(missing / float64(l.Limit()) * float64(time.Second))
		if again := now.Add(wait + time.Millisecond); again.After(at) {
			at = again
		}
	}
	return at
}

// take takes one exchange off the workload's budgets.
func (b budgets) take(w workload.Workload, now time.Time) {
	for _, l := range b.of(w, now) {
		l.AllowN(now, 1)
	}
}

func (b budgets) of(w workload.Workload, now time.Time) [2]*rate.Limiter {
	return [...]*rate.Limiter{
		limiter(b.pods, w.PodUID, podRate, podBurst, now),
		limiter(b.accounts, w.ServiceAccountUID, accountRate, accountBurst, now),
	}
}

func limiter(all *bounded.Map[string, *rate.Limiter], k string, perSecond rate.Limit, burst int, now time.Time) *rate.Limiter {
	if l, ok := all.Get(k, now); ok {
		return l
	}
	l := rate.NewLimiter(perSecond, burst)
	all.Put(k, l, now)
	return l
}
