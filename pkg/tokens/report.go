package tokens

import (
	"context"
	"log/slog"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// auditIssue writes that the pod got the token, for the first time.
func (e *Engine) auditIssue(ctx context.Context, w workload.Workload, t target, token workload.Token) {
	e.audit.LogAttrs(ctx, slog.LevelInfo, "token issued",
		slog.String("event", "token_issued"),
		slog.String("namespace", w.Namespace),
		slog.String("service_account", w.ServiceAccount),
		slog.String("pod", w.PodName),
		slog.String("pod_uid", w.PodUID),
		slog.String("client_id", t.clientID),
		slog.String("tenant_id", t.tenant),
		slog.String("resource", t.resource),
		slog.String("expires_on", token.ExpiresOn.UTC().Format(time.RFC3339)),
	)
}

// tellAgainAfter is how often a failure that lasts is logged.
const tellAgainAfter = time.Minute

// told is a failure that was logged.
type told struct {
	code, description string
	at                time.Time
}

// report tells log, metrics and status how a flight ended: issued or failed is
// nil.
func (e *Engine) report(ctx context.Context, k key, f *flight, w workload.Workload, issued *entry, failed *workload.TokenError) {
	now := e.clocks.now()
	e.status.record(k, w, issued, failed, now.date)
	if failed == nil {
		e.cache.untell(k)
		return
	}
	e.metrics.errors.WithLabelValues(codeLabel(failed, f.ofPod)).Inc()
	if e.cache.tell(k, told{failed.Code, failed.Description, now.steady}) {
		e.logFailure(ctx, k, w, failed)
	}
}

func (e *Engine) logFailure(ctx context.Context, k key, w workload.Workload, failed *workload.TokenError) {
	attrs := []slog.Attr{
		slog.String("namespace", w.Namespace),
		slog.String("service_account", w.ServiceAccount),
		slog.String("pod", w.PodName),
		slog.String("client_id", k.clientID),
		slog.String("tenant_id", k.tenant),
		slog.String("authority", k.authority),
		slog.String("resource", k.resource),
		slog.String("kind", failed.Kind.String()),
		slog.String("code", failed.Code),
		slog.String("description", failed.Description),
	}
	if failed.Meaning != "" {
		attrs = append(attrs, slog.String("meaning", failed.Meaning), slog.String("mend", failed.Mend))
	}
	if failed.Err != nil {
		// One line of it: MSAL adds the whole of a document that it cannot read.
		attrs = append(attrs, slog.String("cause", oneLine(failed.Err.Error())))
	}
	e.log.LogAttrs(ctx, slog.LevelWarn, "token exchange failed", attrs...)
}

// tell reports whether a failure of the key is news: another one than the last
// time, or one that was logged some time ago. Held requests try again and again.
func (c *cache) tell(k key, failure told) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.told.get(k, failure.at)
	if ok && last.code == failure.code && last.description == failure.description {
		return false
	}
	c.told.put(k, failure, failure.at)
	return true
}

// untell makes the key's next failure news.
func (c *cache) untell(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told.remove(k)
}
