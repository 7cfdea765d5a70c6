package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/trace"

	"github.com/sidestep-agent/sidestep/pkg/tracing"
)

func addTraceEndpoint(flags *pflag.FlagSet, endpoint *string) {
	flags.StringVar(endpoint, "trace-endpoint", "", "URL of an OpenTelemetry collector that gets a span for each exchange, OTLP over HTTP (default: none does)")
}

// makeTracer returns nil where no traces are asked for.
func (a *agent) makeTracer() (trace.Tracer, error) {
	if a.options.traceEndpoint == "" {
		return nil, nil
	}
	var err error
	a.traces, err = tracing.New(tracing.Options{
		Endpoint: a.options.traceEndpoint, Node: a.options.nodeName, Version: version,
		Getenv: os.Getenv, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	return a.traces.Tracer(), nil
}

func (a *agent) sendTraces(ctx context.Context) error {
	if a.traces == nil {
		return nil
	}
	return a.traces.Run(ctx)
}
