package tokens

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// startSpan begins the span of an exchange with the workload's assertion. It
// has no parent: the exchange is for every caller of its key.
func (e *Engine) startSpan(ctx context.Context, k key, w workload.Workload, refresh bool) (context.Context, trace.Span) {
	return e.tracer.Start(ctx, "token exchange", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("k8s.namespace.name", w.Namespace),
		attribute.String("k8s.pod.name", w.PodName),
		attribute.String("k8s.pod.uid", w.PodUID),
		attribute.String("sidestep.service_account", w.ServiceAccount),
		attribute.String("sidestep.client_id", k.clientID),
		attribute.String("sidestep.tenant_id", k.tenant),
		attribute.String("sidestep.authority", k.authority),
		attribute.String("sidestep.resource", k.resource),
		attribute.Bool("sidestep.refresh", refresh),
	))
}

// endSpan ends it with what came of the exchange: nil is a token.
func endSpan(s trace.Span, err error) {
	failed := asTokenError(err)
	s.SetAttributes(attribute.String("sidestep.result", resultLabel(failed)))
	if failed != nil {
		s.SetAttributes(attribute.String("error.type", codeLabel(failed, false)))
		s.SetStatus(codes.Error, failed.Description)
	}
	s.End()
}
