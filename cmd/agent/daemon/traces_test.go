package daemon

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The variables that would switch an SDK's own exporter on do nothing: a node's
// agent talks to no host that its flags do not name.
func TestTracesAreOffUnlessAskedFor(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	a := &agent{log: slog.New(slog.DiscardHandler)}
	tracer, err := a.makeTracer()
	if tracer != nil || err != nil || a.traces != nil {
		t.Errorf("tracer %v, error %v", tracer, err)
	}
}

func TestTracesGoWhereTheFlagSays(t *testing.T) {
	got := make(chan int, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- len(body)
	}))
	defer collector.Close()
	a := &agent{log: slog.New(slog.DiscardHandler), options: Options{NodeName: "node-1", TraceEndpoint: collector.URL}}
	tracer, err := a.makeTracer()
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Start(t.Context(), "work")
	span.End()
	ended, end := context.WithCancel(t.Context())
	end()
	if err := a.traces.Run(ended); err != nil {
		t.Error(err)
	}
	select {
	case n := <-got:
		if n == 0 {
			t.Error("an empty request")
		}
	default:
		t.Error("nothing was sent before the agent ended")
	}
}

func TestBadTraceEndpointIsRefused(t *testing.T) {
	a := &agent{log: slog.New(slog.DiscardHandler), options: Options{TraceEndpoint: "collector:4318"}}
	if _, err := a.makeTracer(); err == nil {
		t.Error("an endpoint without http:// was taken")
	}
}
