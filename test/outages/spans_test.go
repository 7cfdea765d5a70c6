package outages

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/tracing"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/otlp"
)

// openTraces has the engine's spans sent to a collector, as the agent has with
// --trace-endpoint.
func (r *rig) openTraces(s setup, log *slog.Logger) *tracing.Tracing {
	r.t.Helper()
	if s.collector == "" {
		server := httptest.NewServer(otlp.New(&r.spans, &r.spansRaw))
		r.t.Cleanup(server.Close)
		s.collector = server.URL
	}
	traces, err := tracing.New(tracing.Options{
		Endpoint: s.collector, Node: "node", Version: "test", Log: log, Getenv: func(string) string { return "" },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := traces.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.flush = func() { stop(); running.Wait() }
	r.t.Cleanup(r.flush)
	return traces
}

// sentSpans returns all that the collector was sent, as it was sent and as it
// was understood. Later spans are not sent any more.
func (r *rig) sentSpans() string {
	r.flush()
	return r.spans.String() + r.spansRaw.String()
}

func (r *rig) readSpans() []otlp.Entry {
	r.t.Helper()
	r.flush()
	entries, err := journal.Read[otlp.Entry](strings.NewReader(r.spans.String()))
	if err != nil {
		r.t.Fatal(err)
	}
	return entries
}

func TestSpansTellOfEachExchange(t *testing.T) {
	r := newRig(t, setup{})
	mine, unknown := r.app(1, "web"), r.app(2, "job")
	unknown.url += "&client_id=" + clientOf(777)
	token := mine.mustAsk().token
	mine.mustAsk() // from the cache
	if got := unknown.ask(); got.status != http.StatusBadRequest {
		t.Fatalf("%v", got)
	}
	spans := r.readSpans()
	if len(spans) != 2 || len(spans) != len(r.asked(entra.Token)) {
		t.Fatalf("%d spans of %d exchanges, want 2", len(spans), len(r.asked(entra.Token)))
	}
	want := map[string]any{
		"k8s.namespace.name": namespace, "k8s.pod.name": "web", "k8s.pod.uid": "pod-app-1-web",
		"sidestep.service_account": accountOf(1), "sidestep.client_id": clientOf(1), "sidestep.tenant_id": tenant,
		"sidestep.authority": r.site.URL(), "sidestep.resource": vault, "sidestep.refresh": false, "sidestep.result": "ok",
	}
	if diff := cmp.Diff(want, spans[0].Attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if spans[0].Name != "token exchange" || spans[0].Kind != "SPAN_KIND_CLIENT" || spans[0].Status != "STATUS_CODE_UNSET" {
		t.Errorf("span %+v", spans[0])
	}
	refused := spans[1]
	if refused.Attributes["error.type"] != "AADSTS700016" || refused.Attributes["sidestep.result"] != "refused" ||
		refused.Attributes["k8s.pod.name"] != "job" || refused.Status != "STATUS_CODE_ERROR" || refused.Message == "" {
		t.Errorf("span of a refusal %+v", refused)
	}
	for _, found := range leaks("spans", r.sentSpans(), append([]string{token}, r.assertions...)) {
		t.Error(found)
	}
}

// A collector that is not there takes no token from anybody.
func TestSpansThatCannotBeSentHarmNobody(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	r := newRig(t, setup{collector: gone.URL})
	for i := range identities {
		r.app(i, "web").mustAsk()
	}
	r.flush()
	if !strings.Contains(r.log.String(), "spans were not sent") {
		t.Error("the log does not say that spans are lost")
	}
}
