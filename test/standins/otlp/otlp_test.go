package otlp

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
)

func TestTakesWhatACollectorWould(t *testing.T) {
	id := bytes.Repeat([]byte{1}, 16)
	body := func(spans ...*otlp.Span) []byte {
		b, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{
			{ScopeSpans: []*otlp.ScopeSpans{{Spans: spans}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := &otlp.Span{TraceId: id, SpanId: id[:8], Name: "s", StartTimeUnixNano: 1, EndTimeUnixNano: 2}
	for name, tc := range map[string]struct {
		method, path, contentType string
		body                      []byte
		want                      int
	}{
		"a span":         {"POST", "/v1/traces", contentType, body(good), 200},
		"another path":   {"POST", "/", contentType, body(good), 404},
		"another method": {"PUT", "/v1/traces", contentType, body(good), 405},
		"JSON":           {"POST", "/v1/traces", "application/json", body(good), 415},
		"no protobuf":    {"POST", "/v1/traces", contentType, []byte("{}"), 400},
		"no span":        {"POST", "/v1/traces", contentType, body(), 400},
		"no name":        {"POST", "/v1/traces", contentType, body(&otlp.Span{TraceId: id, SpanId: id[:8], StartTimeUnixNano: 1, EndTimeUnixNano: 2}), 400},
		"no id":          {"POST", "/v1/traces", contentType, body(&otlp.Span{Name: "s", StartTimeUnixNano: 1, EndTimeUnixNano: 2}), 400},
		"backwards":      {"POST", "/v1/traces", contentType, body(&otlp.Span{TraceId: id, SpanId: id[:8], Name: "s", StartTimeUnixNano: 2, EndTimeUnixNano: 1}), 400},
	} {
		var log, raw bytes.Buffer
		r := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, bytes.NewReader(tc.body))
		r.Header.Set("Content-Type", tc.contentType)
		w := httptest.NewRecorder()
		New(&log, &raw).ServeHTTP(w, r)
		entries, err := journal.Read[Entry](&log)
		if err != nil || w.Code != tc.want || (len(entries) == 1) != (tc.want == http.StatusOK) || (raw.Len() > 0) != (tc.want == http.StatusOK) {
			t.Errorf("%s: status %d, %d entries, %v; want %d", name, w.Code, len(entries), err, tc.want)
		}
	}
}
