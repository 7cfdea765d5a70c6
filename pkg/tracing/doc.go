// Package tracing sends spans to an OpenTelemetry collector: OTLP over HTTP in
// protobuf, by the SDK's batches. cmd/agent/daemon makes it where it is asked for, and
// hands its tracer to whoever has something to trace. It never holds up who is
// traced: what cannot be sent is dropped.
//
// The exporter is the package's own, since OpenTelemetry's brings gRPC with it
// and makes the agent half as large again.
package tracing
