package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

const (
	scope = "github.com/sidestep-agent/sidestep"
	// flushLimit bounds the last batch when the agent ends.
	flushLimit = 2 * time.Second
	// tellEvery is how often a collector that fails is in the log.
	tellEvery = time.Minute
)

// Options say where spans go and who sends them. All are needed.
type Options struct {
	// Endpoint is the collector's URL, http or https. Without a path it is that
	// of OTLP, /v1/traces.
	Endpoint string
	Node     string // the node's name
	Version  string // the agent's
	// Getenv reads OTEL_EXPORTER_OTLP_HEADERS and _CERTIFICATE, and the same
	// with TRACES_. The SDK reads others from the process itself.
	Getenv func(string) string
	Log    *slog.Logger
}

// Tracing makes spans and sends them.
type Tracing struct {
	spans *sdktrace.TracerProvider
}

// New returns what makes spans. Whether the collector can be reached is not
// tried. The errors name the setting to fix. Run must be called, or spans are
// lost at the end.
func New(o Options) (*Tracing, error) {
	exporter, err := newExporter(o.Endpoint, o.Getenv)
	if err != nil {
		return nil, err
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(
			attribute.String("service.name", "sidestep-agent"),
			attribute.String("service.version", o.Version),
			attribute.String("k8s.node.name", o.Node),
		),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	tell := rate.NewLimiter(rate.Every(tellEvery), 1)
	otel.SetLogger(logr.FromSlogHandler(o.Log.With("component", "opentelemetry").Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if tell.Allow() {
			o.Log.Warn("spans were not sent", "err", err)
		}
	}))
	return &Tracing{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}, nil
}

// Tracer returns what spans are begun with. It never blocks.
func (t *Tracing) Tracer() trace.Tracer { return t.spans.Tracer(scope) }

// Run waits until ctx ends, and sends what is left then, in two seconds at
// most. It returns nil: lost spans are no failure.
func (t *Tracing) Run(ctx context.Context) error {
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
	defer cancel()
	if err := t.spans.Shutdown(last); err != nil {
		otel.Handle(fmt.Errorf("at the end: %w", err))
	}
	return nil
}
