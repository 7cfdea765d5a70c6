package tokens

import (
	"math"
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
	// Over all: four for each of 250 service accounts at the start of a full
	// node, and then as much as four service accounts may have that ask for
	// ever new tokens.
	nodeBurst  = 1024
	nodeRate   = 4 * accountRate
	maxBudgets = 4096
)

const (
	// shareHalfLife is how fast it is forgotten what a service account has had
	// of the node's budget.
	shareHalfLife = time.Minute
	// shareLook is how often who waits for the node's budget looks at least:
	// others have a part in when there is some.
	shareLook = time.Second
)

// budgets bound the exchanges of each pod, of each service account and of the
// node. They have no lock of their own; their times are steady.
//
// The node's is fair: a service account has some of it while it has had less in
// the last minutes than is left. So much as the greediest have had is then always
// left for the others, who need not wait.
type budgets struct {
	pods, accounts *bounded.Map[string, *rate.Limiter]
	node           *rate.Limiter
	shares         *bounded.Map[string, *share]
}

// share is what a service account has had of the node's budget, lately.
type share struct {
	had  float64
	asOf time.Time
}

// at returns what is remembered of the share at that time.
func (s *share) at(now time.Time) float64 {
	if s == nil {
		return 0
	}
	return s.had * math.Exp2(-now.Sub(s.asOf).Seconds()/shareHalfLife.Seconds())
}

func newBudgets() budgets {
	full := func(burst float64) func(*rate.Limiter, time.Time) bool {
		return func(l *rate.Limiter, now time.Time) bool { return l.TokensAt(now) >= burst }
	}
	return budgets{
		pods:     bounded.New[string](maxBudgets, full(podBurst)),
		accounts: bounded.New[string](maxBudgets, full(accountBurst)),
		node:     rate.NewLimiter(nodeRate, nodeBurst),
		shares:   bounded.New[string](maxBudgets, func(s *share, now time.Time) bool { return s.at(now) < 0.5 }),
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
	had, _ := b.shares.Get(w.ServiceAccountUID, now)
	if missing := had.at(now) + 1 - b.node.TokensAt(now); missing > 0 {
		wait := min(time.Duration(missing/nodeRate*float64(time.Second)), shareLook)
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
	b.node.AllowN(now, 1)
	s, ok := b.shares.Get(w.ServiceAccountUID, now)
	if !ok {
		s = new(share)
		b.shares.Put(w.ServiceAccountUID, s, now)
	}
	s.had, s.asOf = s.at(now)+1, now
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
