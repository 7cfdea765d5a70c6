package tokens

import (
	"errors"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// remindAfter is how often a pod's owner is told of a failure that lasts. It
	// is long enough for client-go's events to take it for a new one: an older
	// one would have to be patched.
	remindAfter  = 15 * time.Minute
	maxReminders = 4096
)

// owners remembers what the owners of pods were told. It knows codes and not
// descriptions: in those a pod could name ever new clients.
type owners struct {
	notify func(workload.Workload, *workload.TokenError) // nil: nobody listens

	mu   sync.Mutex
	told *bounded[reminder, time.Time]
}

type reminder struct {
	podUID string
	kind   workload.TokenErrorKind
	code   string
}

func newOwners(notify func(workload.Workload, *workload.TokenError)) *owners {
	old := func(at, now time.Time) bool { return now.Sub(at) >= remindAfter }
	return &owners{notify: notify, told: newBounded[reminder](maxReminders, old)}
}

// tell tells a pod's owner why a request failed, if that is his to mend and he
// was not told of late.
func (o *owners) tell(w workload.Workload, r workload.TokenRequest, err error, now time.Time) {
	var failed *workload.TokenError
	if o.notify == nil || !errors.As(err, &failed) || !ownersToMend(failed, r) {
		return
	}
	k := reminder{w.PodUID, failed.Kind, failed.Code}
	o.mu.Lock()
	_, told := o.told.get(k, now)
	if !told {
		o.told.put(k, now, now)
	}
	o.mu.Unlock()
	if !told {
		o.notify(w, failed)
	}
}

// ownersToMend reports whether the failure lies in how the workload is set up,
// and not in the one request: some clients ask for an identity by one kind of
// id after the other, until one is known.
func ownersToMend(failed *workload.TokenError, r workload.TokenRequest) bool {
	switch failed.Kind {
	case workload.Refused:
		return true
	case workload.IdentityNotFound:
		return !r.Selects()
	case workload.InvalidResource:
		return failed.Code != ""
	}
	return false
}
