package tokens

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func countLines(text, with string) int {
	n := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, with) {
			n++
		}
	}
	return n
}

// throttling answers 429, with a Retry-After unless it is empty.
func throttling(retryAfter string) func(http.ResponseWriter, url.Values) bool {
	return func(w http.ResponseWriter, _ url.Values) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		writeJSON(w, http.StatusTooManyRequests, map[string]any{"error": "temporarily_unavailable"})
		return true
	}
}

func TestRetryAfterHoldsTheTenantAndNoOther(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		other := w
		other.TenantID = "contoso.example"
		b.mustToken(w, workload.TokenRequest{Resource: "https://before"})
		b.entra.set(func(f *fakeEntra) { f.refuse = throttling("10") })
		err := b.once(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "429")
		if again := asTokenError(err).RetryAfter.Round(time.Second); again != 10*time.Second {
			t.Errorf("RetryAfter is %v, want Entra's 10s", again)
		}
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		began, sent := time.Now(), b.entra.exchanges()
		b.mustToken(other, workload.TokenRequest{Resource: vault})
		if took := time.Since(began); took != 0 {
			t.Errorf("another tenant waited %v", took)
		}
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() { b.wantToken(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)}) })
		}
		b.advance(9900 * time.Millisecond)
		if n := b.entra.exchanges() - sent; n != 1 {
			t.Errorf("%d exchanges were sent before the time, want only the other tenant's", n-1)
		}
		all.Wait()
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the tenant was left alone for %v", took)
		}
		b.mustToken(w, workload.TokenRequest{Resource: "https://before"})
	})
}

func TestThrottlingWithoutATimeIsBelievedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = throttling("") })
		w := b.pod("shop", "cart", "web")
		_ = b.once(w, workload.TokenRequest{Resource: vault})
		err := b.once(w, workload.TokenRequest{Resource: "https://other"})
		wantTokenError(t, err, workload.Unavailable, "left alone")
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
	})
}

func TestCircuitStopsHammering(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const keys, outage = 50, 20 * time.Second
		b.mustToken(b.pod("shop", "cart", "before"), workload.TokenRequest{Resource: vault}) // discovery is done
		sent := b.entra.requests()
		b.entra.set(func(f *fakeEntra) { f.down = true })
		b.after(outage, func(f *fakeEntra) { f.down = false })
		var all sync.WaitGroup
		for i := range keys {
			w := b.pod("shop", "app-"+strconv.Itoa(i), "web")
			all.Go(func() { b.wantToken(w, workload.TokenRequest{Resource: vault}) })
		}
		b.advance(time.Second)
		if n := b.circuits(circuitOpen); n != 1 {
			t.Errorf("%v circuits are open, want 1", n)
		}
		b.advance(outage - 2*time.Second)
		// Each key once, all at the same time; then one probe at a time.
		if n := b.entra.requests() - sent; n > keys+35 {
			t.Errorf("%d requests of %d keys in %v of outage", n, keys, outage)
		}
		want := []Circuit{{Authority: b.entra.URL, Tenant: tenantA}}
		if diff := cmp.Diff(want, b.engine.Circuits(), cmp.FilterPath(func(p cmp.Path) bool {
			name := p.Last().String()
			return name != ".Authority" && name != ".Tenant" && strings.HasPrefix(name, ".")
		}, cmp.Ignore())); diff != "" {
			t.Errorf("Circuits (-want +got):\n%s", diff)
		}
		all.Wait()
		if n := b.circuits(circuitOpen) + b.circuits(circuitHalfOpen); n != 0 {
			t.Errorf("%v circuits are not closed after the outage", n)
		}
	})
}

// circuits returns what the metric says.
func (b *bench) circuits(state string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "sidestep_token_circuits" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == state {
				return m.GetGauge().GetValue()
			}
		}
	}
	b.t.Fatalf("no metric for %s", state)
	return 0
}

func TestHalfOpenCircuitLetsOneThrough(t *testing.T) {
	now := time.Now()
	r, other := realm{authority: "https://a", tenant: "t"}, realm{authority: "https://a", tenant: "u"}
	down := unavailable("down")
	c := newCircuits()
	for range openAfter {
		if _, w := c.admit(r, now); w != nil {
			t.Fatal("closed too early")
		}
		c.report(r, false, down, now)
	}
	if _, w := c.admit(r, now); w == nil || !w.until.After(now) {
		t.Fatal("an exchange was let through an open circuit")
	}
	if _, w := c.admit(other, now); w != nil {
		t.Error("another tenant was held")
	}
	now = now.Add(longestPause)
	probe, w := c.admit(r, now)
	if !probe || w != nil {
		t.Fatal("no probe was let through")
	}
	_, second := c.admit(r, now)
	if second == nil {
		t.Fatal("a second probe was let through")
	}
	c.report(r, false, nil, now) // sent before the circuit opened
	c.report(r, false, refused("no"), now)
	if _, w := c.admit(r, now); w == nil {
		t.Error("what was sent before closed the circuit")
	}
	c.withdraw(r, true, now)
	select {
	case <-second.changed:
	default:
		t.Error("who waits for the probe was not told")
	}
	if probe, _ = c.admit(r, now); !probe {
		t.Error("no other probe after one that was not sent")
	}
	c.report(r, true, refused("the answer is no, but it is one"), now)
	if probe, w := c.admit(r, now); probe || w != nil {
		t.Error("a probe that was answered did not close the circuit")
	}
}

func TestOldSuccessDoesNotEndARetryAfter(t *testing.T) {
	now := time.Now()
	r := realm{authority: "https://a", tenant: "t"}
	c := newCircuits()
	throttled := unavailable("429")
	throttled.RetryAfter = time.Minute
	c.report(r, false, throttled, now)
	c.report(r, false, nil, now)
	c.report(r, false, unavailable("down"), now)
	if _, w := c.admit(r, now.Add(59*time.Second)); w == nil {
		t.Error("an exchange was let through before the time")
	}
	if probe, _ := c.admit(r, now.Add(61*time.Second)); !probe {
		t.Error("no probe after the time")
	}
}

func TestFailuresOfOneClientDoNotOpenTheCircuit(t *testing.T) {
	now := time.Now()
	r := realm{authority: "https://a", tenant: "t"}
	c := newCircuits()
	for _, err := range []*workload.TokenError{
		{Kind: workload.Refused, Code: "AADSTS70021"},
		{Kind: workload.Unavailable, Code: "AADSTS50196", Err: statusError(429)},
		{Kind: workload.InvalidResource},
	} {
		for range 2 * openAfter {
			c.report(r, false, err, now)
		}
		if _, w := c.admit(r, now); w != nil {
			t.Errorf("%v opened the circuit", err)
		}
	}
}

func TestPausesGrowWithTheFailure(t *testing.T) {
	for failing, longest := range map[time.Duration]time.Duration{
		0: shortestPause, time.Second: shortestPause, 16 * time.Second: 2 * time.Second,
		time.Minute: 7500 * time.Millisecond, 24 * time.Hour: longestPause,
	} {
		for range 100 {
			if p := pauseAfter(failing); p > longest || p < longest*3/4 {
				t.Errorf("pause %v after %v, want up to a quarter less than %v", p, failing, longest)
			}
		}
	}
}

func TestCircuitsAreBounded(t *testing.T) {
	now := time.Now()
	c := newCircuits()
	for i := range 2 * maxCircuits {
		c.report(realm{authority: "https://a", tenant: strconv.Itoa(i)}, false, unavailable("down"), now)
	}
	if n := c.failing.order.Len(); n > maxCircuits {
		t.Errorf("%d circuits are kept", n)
	}
	now = now.Add(circuitMemory + longestPause)
	c.report(realm{authority: "https://a", tenant: "last"}, false, unavailable("down"), now)
	if n := c.failing.order.Len(); n != 1 {
		t.Errorf("%d circuits are kept that nobody tries", n)
	}
}

func TestHeldRequestsAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.down = true })
		_, _ = b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		if n := testutil.ToFloat64(b.engine.metrics.requests.WithLabelValues(string(held))); n != 1 {
			t.Errorf("held counted %v times", n)
		}
	})
}

// throttlingAt answers 429 with both dates by Entra's clock.
func throttlingAt(now time.Time, wait time.Duration) func(http.ResponseWriter, url.Values) bool {
	return func(w http.ResponseWriter, form url.Values) bool {
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		return throttling(now.Add(wait).UTC().Format(http.TimeFormat))(w, form)
	}
}
