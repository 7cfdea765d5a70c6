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

// report tells log, metrics and status how a flight ended.
func (e *Engine) report(ctx context.Context, k key, f *flight, w workload.Workload, token workload.Token, failed *workload.TokenError) {
	e.status.record(k, w, token, failed, e.clock.Now())
	if failed == nil {
		return
	}
	e.metrics.errors.WithLabelValues(codeLabel(failed, f.ofPod)).Inc()
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
	if failed.Err != nil {
		attrs = append(attrs, slog.String("cause", failed.Err.Error()))
	}
	e.log.LogAttrs(ctx, slog.LevelWarn, "token exchange failed", attrs...)
}
