package tokens

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// warmAgain is how soon after Warm another may send something. An idle
// connection is kept for longer (transportTrusting).
const warmAgain = 30 * time.Second

// Warm makes ready for the workload's first token, before it asks: it fetches
// its tenant's discovery document and leaves an open connection to its
// authority, but not twice within half a minute. The zero workload stands for
// those that name no tenant. A failure harms nothing: the first exchange does
// both itself. Of a workload that could get no token, or gets it by way of a
// proxy, nothing is asked.
func (e *Engine) Warm(ctx context.Context, w workload.Workload) error {
	tenant, err := e.defaults.selectTenant(w)
	if err != nil || w.Binding != nil {
		return nil
	}
	authority, err := e.defaults.selectAuthority(w)
	if err != nil {
		return nil
	}
	r := realm{authority: authority, tenant: tenant}
	if !e.cache.beginWarm(r) {
		return nil
	}
	if err := e.entra.warm(ctx, r); err != nil {
		e.cache.warmFailed(r)
		return err
	}
	return nil
}

// beginWarm reports whether it is time to warm the realm.
func (c *cache) beginWarm(r realm) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now().steady
	if _, lately := c.warmed.get(r, now); lately {
		return false
	}
	c.warmed.put(r, now, now)
	return true
}

func (c *cache) warmFailed(r realm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warmed.remove(r)
}

// warm fetches the realm's discovery document, remembered or not, and leaves
// an open connection behind.
func (x *entra) warm(ctx context.Context, r realm) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.authority+"/"+r.tenant+discoveryPath, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s for its discovery document: %w", r.authority, err)
	}
	doc, err := x.discovery.ask(req, false)
	if err != nil {
		return fmt.Errorf("ask %s for its discovery document: %w", r.authority, err)
	}
	if doc.status != http.StatusOK {
		return fmt.Errorf("ask %s for its discovery document of the tenant %s: status %d", r.authority, r.tenant, doc.status)
	}
	return nil
}
