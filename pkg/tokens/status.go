package tokens

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
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
	// Meaning is the error in plain words, and Mend a shell command that mends
	// it, where they are known.
	Meaning string
	Mend    string
}

type status struct {
	mu   sync.Mutex
	last *bounded[string, Exchange] // by service account UID
}

func newStatus() *status {
	never := func(Exchange, time.Time) bool { return false }
	return &status{last: newBounded[string](maxAccounts, never)}
}

// record takes how an exchange ended: issued or failed is nil.
func (s *status) record(k key, w workload.Workload, issued *entry, failed *workload.TokenError, now time.Time) {
	x := Exchange{Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, At: now}
	if issued != nil {
		x.ExpiresOn = issued.token.ExpiresOn
	}
	if failed != nil {
		x.ErrorCode, x.Error = failed.Code, failed.Description
		x.Meaning, x.Mend = failed.Meaning, failed.Mend
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.put(k.account, x, now)
}

func (s *status) forget(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.remove(account)
}

// Exchanges returns the last exchange of each service account, by namespace and
// name. There is no token in it.
func (e *Engine) Exchanges() []Exchange {
	e.status.mu.Lock()
	var all []Exchange
	e.status.last.each(func(_ string, x Exchange) bool {
		all = append(all, x)
		return true
	})
	e.status.mu.Unlock()
	slices.SortFunc(all, func(a, b Exchange) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.ServiceAccount, b.ServiceAccount))
	})
	return all
}
