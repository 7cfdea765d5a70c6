package tracing

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	"google.golang.org/protobuf/proto"
)

// inbox is what a collector was sent.
type inbox struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
}

func (i *inbox) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.requests, i.bodies = append(i.requests, r), append(i.bodies, body)
}

func newTracing(t *testing.T, endpoint string, env map[string]string, log io.Writer) *Tracing {
	t.Helper()
	traces, err := New(Options{
		Endpoint: endpoint, Node: "node-1", Version: "v1", Log: slog.New(slog.NewJSONHandler(log, nil)),
		Getenv: func(name string) string { return env[name] },
	})
	if err != nil {
		t.Fatal(err)
	}
	return traces
}

// end has the traces sent.
func end(t *testing.T, traces *Tracing) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := traces.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestSpanArrivesAsItWasMade(t *testing.T) {
	var got inbox
	server := httptest.NewServer(&got)
	defer server.Close()
	traces := newTracing(t, server.URL, map[string]string{
		"OTEL_EXPORTER_OTLP_HEADERS": "other=x", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "Authorization=Bearer%20abc, x-tenant=one",
	}, io.Discard)
	_, span := traces.Tracer().Start(t.Context(), "work", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("a", "text"), attribute.Bool("b", true), attribute.Int("c", 7), attribute.StringSlice("d", []string{"x", "y"}),
	))
	span.SetStatus(otelcodes.Error, "it failed")
	span.End()
	_, fine := traces.Tracer().Start(t.Context(), "more work")
	fine.SetStatus(otelcodes.Ok, "")
	fine.End()
	end(t, traces)

	if len(got.requests) != 1 {
		t.Fatalf("%d requests, want 1", len(got.requests))
	}
	r := got.requests[0]
	for name, want := range map[string]string{
		"Content-Type": "application/x-protobuf", "Authorization": "Bearer abc", "X-Tenant": "one", "Other": "", "User-Agent": "sidestep-agent",
	} {
		if value := r.Header.Get(name); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" {
		t.Errorf("%s %s", r.Method, r.URL.Path)
	}
	checkBody(t, got.bodies[0])
}

func checkBody(t *testing.T, body []byte) {
	t.Helper()
	var sent collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	of := sent.GetResourceSpans()[0]
	if diff := cmp.Diff(map[string]string{
		"service.name": "sidestep-agent", "service.version": "v1", "k8s.node.name": "node-1",
	}, texts(of.GetResource().GetAttributes())); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
	spans := of.GetScopeSpans()[0].GetSpans()
	s, fine := spans[0], spans[1]
	if s.GetName() != "work" || s.GetKind().String() != "SPAN_KIND_CLIENT" || len(s.GetTraceId()) != 16 || len(s.GetSpanId()) != 8 ||
		s.GetStartTimeUnixNano() == 0 || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
		t.Errorf("span %v", s)
	}
	if s.GetStatus().GetCode().String() != "STATUS_CODE_ERROR" || s.GetStatus().GetMessage() != "it failed" || fine.GetStatus().GetCode().String() != "STATUS_CODE_OK" {
		t.Errorf("status %v and %v", s.GetStatus(), fine.GetStatus())
	}
	if diff := cmp.Diff(map[string]string{"a": "text", "b": "true", "c": "7", "d": `["x","y"]`}, texts(s.GetAttributes())); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// texts returns attributes, those that are no strings in protobuf's own form.
func texts(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		if v, ok := kv.GetValue().GetValue().(*common.AnyValue_StringValue); ok {
			out[kv.GetKey()] = v.StringValue
			continue
		}
		_, out[kv.GetKey()], _ = strings.Cut(kv.GetValue().String(), ":")
	}
	return out
}

// Whoever traces neither waits nor fails, whatever becomes of the spans.
func TestDeadCollectorHarmsNobody(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	var log bytes.Buffer
	traces := newTracing(t, server.URL, nil, &log)
	for range 10000 { // more than the queue holds
		_, span := traces.Tracer().Start(t.Context(), "work")
		span.End()
	}
	end(t, traces)
	if n := strings.Count(log.String(), "spans were not sent"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, &log)
	}
}

func TestNewNamesWhatToMend(t *testing.T) {
	noCertificate := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(noCertificate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		endpoint, variable, value string
		want                      error // nil: any
	}{
		{endpoint: "collector:4318", want: errEndpoint},
		{endpoint: "grpc://collector:4317", want: errEndpoint},
		{endpoint: "http://", want: errEndpoint},
		{endpoint: "http://user:secret@collector:4318", want: errEndpoint},
		{endpoint: "http://[::1", want: nil},
		{"http://collector", "HEADERS", "secret", errHeaders},
		{"http://collector", "HEADERS", "=secret", errHeaders},
		{"http://collector", "HEADERS", "a=secret%zz", errHeaders},
		{"https://collector", "CERTIFICATE", filepath.Join(t.TempDir(), "missing.pem"), os.ErrNotExist},
		{"https://collector", "CERTIFICATE", noCertificate, errCertificate},
	} {
		_, err := newExporter(tc.endpoint, func(name string) string {
			if name == "OTEL_EXPORTER_OTLP_"+tc.variable {
				return tc.value
			}
			return ""
		})
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s, %s: error %v, want %v", tc.endpoint, tc.variable, err, tc.want)
		}
	}
}

func TestEndpointMayHaveAPath(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://c:4318": "http://c:4318/v1/traces", "http://c:4318/": "http://c:4318/v1/traces", "https://c/otlp/v1/traces": "https://c/otlp/v1/traces",
	} {
		x, err := newExporter(endpoint, func(string) string { return "" })
		if err != nil || x.url != want {
			t.Errorf("%s: %v, %v", endpoint, x, err)
		}
	}
}

func TestCollectorsOwnCertificateIsTrusted(t *testing.T) {
	var got inbox
	server := httptest.NewTLSServer(&got)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	traces := newTracing(t, server.URL, map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": file}, io.Discard)
	_, span := traces.Tracer().Start(t.Context(), "work")
	span.End()
	end(t, traces)
	if len(got.requests) != 1 {
		t.Errorf("%d requests, want 1", len(got.requests))
	}
}
