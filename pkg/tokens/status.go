package tokens

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// maxAccounts bounds the service accounts whose last exchange is kept; a node
// runs fewer pods.
const maxAccounts = 1024

// maxAnswered bounds the pods whose last answer is kept; a node runs fewer.
const maxAnswered = 1024

// Exchange is the last exchange of a service account, for people.
type Exchange struct {
	Namespace      string
	ServiceAccount string
	Outcome
}

// Answer is how a pod's last request for a token was answered, for people. Pods
// of one service account may ask for different things: what the account's last
// exchange says of one says nothing of another.
type Answer struct {
	Kind workload.TokenErrorKind // of the error, if it failed
	Outcome
}

// Explained reports whether the error names its cause, so that the agent's log
// adds nothing: Entra's code is known, or the request was refused for what it
// asks, without Entra.
func (a Answer) Explained() bool {
	return a.Meaning != "" || a.Kind == workload.InvalidResource || a.Kind == workload.IdentityNotFound
}

// Outcome is how an exchange or a request ended.
type Outcome struct {
	At        time.Time
	ExpiresOn time.Time // zero if it failed
	// ErrorCode and Error are empty if it did not fail; ErrorCode also where
	// Entra gave none.
	ErrorCode string
	Error     string
	// Meaning is the error in plain words, and Fix a shell command that fixes
	// it, where they are known.
	Meaning string
	Fix     string
}

// status keeps the last exchange of each service account, and the last answer
// to each pod.
type status struct {
	// failing is how many of the answers are failures. While it is 0, an answer
	// from the cache takes no lock.
	failing atomic.Int64

	mu      sync.Mutex
	last    *bounded.Map[string, Exchange] // by service account UID
	answers *bounded.Map[string, answer]   // by pod UID
}

type answer struct {
	account string // the UID of the pod's service account
	Answer
}

func newStatus() *status {
	never := func(Exchange, time.Time) bool { return false }
	neither := func(answer, time.Time) bool { return false }
	return &status{last: bounded.New[string](maxAccounts, never), answers: bounded.New[string](maxAnswered, neither)}
}

// record takes how an exchange ended.
func (s *status) record(k key, r result, now time.Time) {
	x := Exchange{Namespace: r.from.Namespace, ServiceAccount: r.from.ServiceAccount, Outcome: outcomeOf(r.err, now)}
	if r.entry != nil {
		x.ExpiresOn = r.entry.token.ExpiresOn
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Put(k.account, x, now)
}

// outcomeOf returns the outcome with the error, which may be nil.
func outcomeOf(failed *workload.TokenError, now time.Time) Outcome {
	o := Outcome{At: now}
	if failed != nil {
		o.ErrorCode, o.Error = failed.Code, failed.Description
		o.Meaning, o.Fix = failed.Meaning, failed.Fix
	}
	return o
}

// served takes that the pod got a token. first: it is the pod's first time for
// this one.
func (s *status) served(w workload.Workload, t workload.Token, first bool, now time.Time) {
	if !first && !s.isFailing(w) {
		return
	}
	a := Answer{Outcome: outcomeOf(nil, now)}
	a.ExpiresOn = t.ExpiresOn
	s.answered(w, a)
}

// failed takes that the pod's request failed. An error that is none of the
// agent's means that the caller has gone.
func (s *status) failed(w workload.Workload, err error, now time.Time) {
	var failed *workload.TokenError
	if errors.As(err, &failed) {
		s.answered(w, Answer{Kind: failed.Kind, Outcome: outcomeOf(failed, now)})
	}
}

func (s *status) answered(w workload.Workload, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers.Put(w.PodUID, answer{w.ServiceAccountUID, a}, a.At)
	s.countFailing()
}

// isFailing reports whether the pod's last request failed.
func (s *status) isFailing(w workload.Workload) bool {
	if s.failing.Load() == 0 {
		return false
	}
	last, ok := s.answer(w.PodUID)
	return ok && last.ExpiresOn.IsZero()
}

// countFailing is for the holder of the lock.
func (s *status) countFailing() {
	var n int64
	s.answers.Each(func(_ string, a answer) bool {
		if a.ExpiresOn.IsZero() {
			n++
		}
		return true
	})
	s.failing.Store(n)
}

// answer returns the last answer to the pod.
func (s *status) answer(podUID string) (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.answers.Get(podUID, time.Time{})
	return a.Answer, ok
}

func (s *status) forget(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Remove(account)
	s.answers.RemoveIf(func(_ string, a answer) bool { return a.account == account })
	s.countFailing()
}

// all returns the exchanges by namespace and name.
func (s *status) all() []Exchange {
	s.mu.Lock()
	var all []Exchange
	s.last.Each(func(_ string, x Exchange) bool {
		all = append(all, x)
		return true
	})
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b Exchange) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.ServiceAccount, b.ServiceAccount))
	})
	return all
}
