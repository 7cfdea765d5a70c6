package otlp

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
)

const (
	contentType = "application/x-protobuf"
	maxRequest  = 4 << 20
)

// Entry is one span in the log.
type Entry struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind"`
	Scope      string         `json:"scope"`
	Start      time.Time      `json:"start"`
	End        time.Time      `json:"end"`
	Attributes map[string]any `json:"attributes"`
	Resource   map[string]any `json:"resource"`
	Status     string         `json:"status"`
	Message    string         `json:"message,omitempty"` // of the status
}

// Server is the collector.
type Server struct {
	log *journal.Writer
	raw io.Writer
}

// New returns a collector that writes one Entry a line to log, and each body as
// it came to raw. Either may be nil.
func New(log, raw io.Writer) *Server {
	if raw == nil {
		raw = io.Discard
	}
	return &Server{log: journal.New(log), raw: raw}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/v1/traces":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "POST is wanted", http.StatusMethodNotAllowed)
		return
	case r.Header.Get("Content-Type") != contentType:
		http.Error(w, "protobuf is wanted", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	entries, err := read(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := s.raw.Write(body); err != nil {
		panic(err) // as the journal does: a gap would let a test pass
	}
	for _, e := range entries {
		s.log.Append(e)
	}
	w.Header().Set("Content-Type", contentType) // an empty body is the empty answer
}

func read(body []byte) (entries []Entry, err error) {
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	for _, of := range request.GetResourceSpans() {
		about := attributes(of.GetResource().GetAttributes())
		for _, scoped := range of.GetScopeSpans() {
			for _, span := range scoped.GetSpans() {
				if err := check(span); err != nil {
					return nil, err
				}
				e := entry(span)
				e.Scope, e.Resource = scoped.GetScope().GetName(), about
				entries = append(entries, e)
			}
		}
	}
	if len(entries) == 0 {
		return nil, errors.New("no span in it")
	}
	return entries, nil
}

// check fails for a span that a collector would drop.
func check(s *otlp.Span) error {
	switch {
	case len(s.GetTraceId()) != 16, len(s.GetSpanId()) != 8:
		return fmt.Errorf("span %q has ids of %d and %d bytes", s.GetName(), len(s.GetTraceId()), len(s.GetSpanId()))
	case s.GetName() == "":
		return errors.New("a span has no name")
	case s.GetStartTimeUnixNano() == 0, s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano():
		return fmt.Errorf("span %q ends before it begins", s.GetName())
	}
	return nil
}

func entry(s *otlp.Span) Entry {
	return Entry{
		Name: s.GetName(), Kind: s.GetKind().String(),
		Start:      time.Unix(0, int64(s.GetStartTimeUnixNano())).UTC(),
		End:        time.Unix(0, int64(s.GetEndTimeUnixNano())).UTC(),
		Attributes: attributes(s.GetAttributes()),
		Status:     s.GetStatus().GetCode().String(), Message: s.GetStatus().GetMessage(),
	}
}

func attributes(all []*common.KeyValue) map[string]any {
	out := make(map[string]any, len(all))
	for _, kv := range all {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_BoolValue:
			out[kv.GetKey()] = v.BoolValue
		default:
			out[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return out
}
