package tokens

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
)

// maxAccounts bounds the service accounts whose last exchange is kept; a node
// runs fewer pods.
const maxAccounts = 1024

// Exchange is the last exchange of a service account, for people.
type Exchange struct {
	Namespace      string
	ServiceAccount string
	At             time.Time
	ExpiresOn      time.Time // zero if it failed
	// ErrorCode and Error are empty if it did not fail; ErrorCode also where
	// Entra gave none.
	ErrorCode string
	Error     string
	// Meaning is the error in plain words, and Fix a shell command that fixes
	// it, where they are known.
	Meaning string
	Fix     string
}

// status keeps the last exchange of each service account.
type status struct {
	mu   sync.Mutex
	last *bounded.Map[string, Exchange] // by service account UID
}

func newStatus() *status {
	never := func(Exchange, time.Time) bool { return false }
	return &status{last: bounded.New[string](maxAccounts, never)}
}

// record takes how an exchange ended.
func (s *status) record(k key, r result, now time.Time) {
	x := Exchange{Namespace: r.from.Namespace, ServiceAccount: r.from.ServiceAccount, At: now}
	if r.entry != nil {
		x.ExpiresOn = r.entry.token.ExpiresOn
	}
	if r.err != nil {
		x.ErrorCode, x.Error = r.err.Code, r.err.Description
		x.Meaning, x.Fix = r.err.Meaning, r.err.Fix
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Put(k.account, x, now)
}

func (s *status) forget(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Remove(account)
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
