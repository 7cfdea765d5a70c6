package tracing

import (
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
)

// request returns the spans, which are all of one provider and one scope, in
// OTLP's form.
func request(spans []sdktrace.ReadOnlySpan) *collector.ExportTraceServiceRequest {
	if len(spans) == 0 {
		return &collector.ExportTraceServiceRequest{}
	}
	of := &otlp.ScopeSpans{Scope: &common.InstrumentationScope{Name: spans[0].InstrumentationScope().Name}}
	for _, s := range spans {
		of.Spans = append(of.Spans, span(s))
	}
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource:   &resource.Resource{Attributes: attributes(spans[0].Resource().Attributes())},
		ScopeSpans: []*otlp.ScopeSpans{of},
	}}}
}

func span(s sdktrace.ReadOnlySpan) *otlp.Span {
	trace, id := s.SpanContext().TraceID(), s.SpanContext().SpanID()
	return &otlp.Span{
		TraceId:           trace[:],
		SpanId:            id[:],
		Name:              s.Name(),
		Kind:              otlp.Span_SpanKind(s.SpanKind()), // the same numbers
		StartTimeUnixNano: uint64(s.StartTime().UnixNano()),
		EndTimeUnixNano:   uint64(s.EndTime().UnixNano()),
		Attributes:        attributes(s.Attributes()),
		Status:            status(s.Status()),
		Flags:             uint32(s.SpanContext().TraceFlags()),
	}
}

func status(s sdktrace.Status) *otlp.Status {
	// OTLP's numbers are not the SDK's.
	code := otlp.Status_STATUS_CODE_UNSET
	switch s.Code {
	case otelcodes.Ok:
		code = otlp.Status_STATUS_CODE_OK
	case otelcodes.Error:
		code = otlp.Status_STATUS_CODE_ERROR
	}
	return &otlp.Status{Code: code, Message: s.Description}
}

func attributes(all []attribute.KeyValue) []*common.KeyValue {
	out := make([]*common.KeyValue, 0, len(all))
	for _, kv := range all {
		out = append(out, &common.KeyValue{Key: string(kv.Key), Value: value(kv.Value)})
	}
	return out
}

func value(v attribute.Value) *common.AnyValue {
	switch v.Type() {
	case attribute.BOOL:
		return &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: v.AsBool()}}
	case attribute.INT64:
		return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: v.AsInt64()}}
	default: // what else there is has a text
		return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v.String()}}
	}
}
