package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// recorded has the bench's spans recorded.
func (b *bench) recorded() *tracetest.SpanRecorder {
	spans := tracetest.NewSpanRecorder()
	b.engine.reporter.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	return spans
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]any {
	all := make(map[string]any)
	for _, kv := range s.Attributes() {
		all[string(kv.Key)] = kv.Value.AsInterface()
	}
	return all
}

func TestEachExchangeIsASpan(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		spans := b.recorded()
		b.run()
		w := b.pod("shop", "cart", "web")
		assertion := b.assertion(w, nil)
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(401, 700213, "invalid_client", "AADSTS700213: no match of "+assertion)
		})
		for range 2 { // the second is answered from memory
			if _, err := b.token(w, workload.TokenRequest{Resource: vault}); err == nil {
				t.Fatal("a token")
			}
		}
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.advance(time.Minute)
		for range 2 {
			b.mustToken(w, workload.TokenRequest{Resource: vault})
		}
		b.advance(45 * time.Minute) // one is fetched ahead
		if n := len(spans.Ended()); n != 3 || n != b.entra.exchanges() {
			t.Fatalf("%d spans of %d exchanges, want 3", n, b.entra.exchanges())
		}
		refused, issued, ahead := spans.Ended()[0], spans.Ended()[1], spans.Ended()[2]
		want := map[string]any{
			"k8s.namespace.name": "shop", "k8s.pod.name": "web", "k8s.pod.uid": w.PodUID,
			"sidestep.service_account": "cart", "sidestep.client_id": clientA, "sidestep.tenant_id": tenantA,
			"sidestep.authority": b.entra.URL, "sidestep.resource": vault, "sidestep.refresh": false, "sidestep.result": "ok",
		}
		if diff := cmp.Diff(want, attributesOf(issued)); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		want["sidestep.refresh"] = true
		if diff := cmp.Diff(want, attributesOf(ahead)); diff != "" {
			t.Errorf("attributes of a refresh (-want +got):\n%s", diff)
		}
		if got := attributesOf(refused); got["sidestep.result"] != "refused" || got["error.type"] != "AADSTS700213" {
			t.Errorf("attributes of a refusal: %v", got)
		}
		status := refused.Status()
		if status.Code != codes.Error || !strings.HasPrefix(status.Description, "AADSTS700213: no match of") || strings.Contains(status.Description, assertion) {
			t.Errorf("status %v", status)
		}
		if issued.Status().Code != codes.Unset || issued.Name() != "token exchange" || issued.Parent().IsValid() {
			t.Errorf("span %s with status %v below %v", issued.Name(), issued.Status(), issued.Parent())
		}
	})
}

// What is not sent is no exchange.
func TestNoSpanWithoutAnExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		spans := b.recorded()
		w := b.pod("shop", "cart", "web")
		b.write(w, b.assertion(w, func(c jwt.MapClaims) { c["sub"] = "someone else" }))
		if err := b.once(w, workload.TokenRequest{Resource: vault}); err == nil {
			t.Fatal("a token")
		}
		if n := len(spans.Started()); n != 0 {
			t.Errorf("%d spans", n)
		}
	})
}
