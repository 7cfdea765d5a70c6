package podcache

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// patience is how long the API server may take for its first answers before
// somebody else's word is taken. It answers in milliseconds; steered pods are
// refused meanwhile.
const patience = 3 * time.Second

// Unanswered returns a channel that is closed when, before Ready, the API
// server cannot be reached, or has kept the cache waiting for 3 seconds. It is
// asked further; Import helps meanwhile.
func (c *Cache) Unanswered() <-chan struct{} { return c.unanswered }

// awaitAnswer gives up when patience ends.
func (c *Cache) awaitAnswer(ctx context.Context) {
	timer := c.clock.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.ready:
	case <-timer.C():
		c.giveUp()
	case <-ctx.Done():
	}
}

// unreachable reports whether an error is not an API server's own: nobody
// answered, and the next try is a pause away. A refusal may be the answer to a
// question that an older server does not know, and another follows at once.
func unreachable(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status)
}

// Stale reports whether what the cache says is, in part or whole, from an
// imported state, and the time at which that was taken. It is so until the API
// server has answered all that Ready waits for.
func (c *Cache) Stale() (taken time.Time, stale bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.asOf, !c.asOf.IsZero()
}

// checkReady ends what depends on the API server's answers, as far as they
// have come. The caller holds the lock.
func (c *Cache) checkReady() {
	complete := c.listed && len(c.pending) == 0 && !c.exempt.isAwaited() && !c.exempt.isImported()
	imported := !c.asOf.IsZero()
	if complete && imported {
		c.log.Info("the API server has answered: pods and service accounts are as it says", "stale_since", c.asOf)
		c.asOf = time.Time{}
		c.notify()
	}
	if (complete || (imported && !c.exempt.isAwaited())) && !c.isReady() {
		close(c.ready)
	}
}

func (c *Cache) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}
