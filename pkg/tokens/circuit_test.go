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

func TestRetryAfterHoldsTheClientAndNoOther(t *testing.T) {
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
		b.mustToken(w, workload.TokenRequest{Resource: vault, ClientID: clientB})
		if took := time.Since(began); took != 0 {
			t.Errorf("another tenant or client waited %v", took)
		}
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() { b.wantToken(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)}) })
		}
		b.advance(9900 * time.Millisecond)
		if n := b.entra.exchanges() - sent; n != 2 {
			t.Errorf("%d exchanges were sent before the time, want the two others' only", n)
		}
		all.Wait()
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the client was left alone for %v", took)
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

// circuitKey is a key of one service account for one client of a tenant.
func circuitKey(account, client, tenant string) key {
	return key{account: account, target: target{authority: "https://a", tenant: tenant, clientID: client, resource: vault}}
}

// down is a failure of the way to Entra, and badAnswer one of a client.
func down() *workload.TokenError { return unavailable("down") }

func badAnswer() *workload.TokenError {
	return &workload.TokenError{Kind: workload.Unavailable, Code: "AADSTS90024", Description: "busy"}
}

func TestHalfOpenCircuitLetsOneThrough(t *testing.T) {
	now := time.Now()
	k, other := circuitKey("a", "c", "t"), circuitKey("a", "c", "u")
	c := newCircuits()
	for range openAfter {
		if _, w := c.admit(k, now); w != nil {
			t.Fatal("closed too early")
		}
		c.report(k, probes{}, down(), now)
	}
	if _, w := c.admit(k, now); w == nil || !w.until.After(now) {
		t.Fatal("an exchange was let through an open circuit")
	}
	if _, w := c.admit(other, now); w != nil {
		t.Error("another tenant was held")
	}
	now = now.Add(longestPause)
	probe, w := c.admit(k, now)
	if !probe.tenant || w != nil {
		t.Fatal("no probe was let through")
	}
	_, second := c.admit(k, now)
	if second == nil {
		t.Fatal("a second probe was let through")
	}
	c.report(k, probes{}, nil, now) // sent before the circuit opened
	c.report(k, probes{}, refused("no"), now)
	if _, w := c.admit(k, now); w == nil {
		t.Error("what was sent before closed the circuit")
	}
	c.withdraw(k, probe, now)
	select {
	case <-second.changed:
	default:
		t.Error("who waits for the probe was not notified")
	}
	if probe, _ = c.admit(k, now); !probe.tenant {
		t.Error("no other probe after one that was not sent")
	}
	c.report(k, probe, refused("the answer is no, but it is one"), now)
	if probe, w := c.admit(k, now); probe.tenant || w != nil {
		t.Error("a probe that was answered did not close the circuit")
	}
}

func TestOldSuccessDoesNotEndARetryAfter(t *testing.T) {
	now := time.Now()
	k := circuitKey("a", "c", "t")
	c := newCircuits()
	throttled := badAnswer()
	throttled.RetryAfter = time.Minute
	c.report(k, probes{}, throttled, now)
	c.report(k, probes{}, nil, now)
	c.report(k, probes{}, badAnswer(), now)
	if _, w := c.admit(k, now.Add(59*time.Second)); w == nil {
		t.Error("an exchange was let through before the time")
	}
	if probe, _ := c.admit(k, now.Add(61*time.Second)); !probe.client {
		t.Error("no probe after the time")
	}
}

// What Entra says to one client, however bad, holds no other client of the
// tenant; refusals hold no caller.
func TestFailuresOfOneClientAreItsOwn(t *testing.T) {
	now := time.Now()
	k, other := circuitKey("a", "c", "t"), circuitKey("b", "d", "t")
	throttled := badAnswer()
	throttled.RetryAfter = time.Hour
	for name, tt := range map[string]struct {
		err  *workload.TokenError
		open bool
	}{
		"no credential": {&workload.TokenError{Kind: workload.Refused, Code: "AADSTS70021"}, false},
		"bad resource":  {&workload.TokenError{Kind: workload.InvalidResource}, false},
		"looping":       {&workload.TokenError{Kind: workload.Unavailable, Code: "AADSTS50196"}, true},
		"busy":          {badAnswer(), true},
		"throttled":     {throttled, true},
	} {
		c := newCircuits()
		for range 2 * openAfter {
			c.report(k, probes{}, tt.err, now)
		}
		if _, w := c.admit(k, now); (w != nil) != tt.open {
			t.Errorf("%s: its circuit is open: %t, want %t", name, w != nil, tt.open)
		}
		if _, w := c.admit(other, now); w != nil {
			t.Errorf("%s: another client was held", name)
		}
	}
}

// Clients of several service accounts that fail at the same time are a failure
// of their tenant, and of no other; one of them alone is not, whatever clients
// it names.
func TestSeveralAccountsOpenTheTenant(t *testing.T) {
	now := time.Now()
	c := newCircuits()
	for i := range 10 * openAfterAccounts {
		c.report(circuitKey("a", strconv.Itoa(i), "t"), probes{}, badAnswer(), now)
	}
	bystander := circuitKey("x", "x", "t")
	if _, w := c.admit(bystander, now); w != nil {
		t.Fatal("one account opened the tenant's circuit")
	}
	for i := range openAfterAccounts {
		c.report(circuitKey("b"+strconv.Itoa(i), "c"+strconv.Itoa(i), "t"), probes{}, badAnswer(), now)
	}
	if _, w := c.admit(bystander, now); w == nil {
		t.Error("the tenant's circuit is closed though all fail")
	}
	if _, w := c.admit(circuitKey("x", "x", "u"), now); w != nil {
		t.Error("another tenant was held")
	}
	now = now.Add(longestPause)
	probe, _ := c.admit(bystander, now)
	c.report(bystander, probe, nil, now)
	if probe, w := c.admit(circuitKey("y", "y", "t"), now); w != nil || probe.tenant {
		t.Error("a token did not close the tenant's circuit")
	}
}

// An account whose exchanges always fail is the probe in its turn, and not each
// time.
func TestProbesAreTakenInTurn(t *testing.T) {
	now := time.Now()
	bad, good := circuitKey("bad", "c", "t"), circuitKey("good", "d", "t")
	c := newCircuits()
	for range openAfter {
		c.report(bad, probes{}, down(), now)
	}
	now = now.Add(longestPause)
	probe, _ := c.admit(bad, now)
	_, w := c.admit(good, now)
	w.join(good.account)
	c.report(bad, probe, down(), now)
	now = now.Add(longestPause)
	if probe, w := c.admit(bad, now); w == nil || probe.tenant {
		t.Fatal("the account that failed is the probe again while another waits")
	}
	w.leave(good.account, false)
	if probe, _ = c.admit(good, now); !probe.tenant {
		t.Fatal("the account that waited is not the probe")
	}
	c.withdraw(good, probe, now)
	// No other caller waits any more.
	if probe, _ = c.admit(bad, now); !probe.tenant {
		t.Error("no probe by the one who is left")
	}
}

// Who leaves while it is its turn leaves the turn to the others at once.
func TestWhoGivesUpWakesTheOthers(t *testing.T) {
	now := time.Now()
	one, two := circuitKey("one", "c", "t"), circuitKey("two", "d", "t")
	c := newCircuits()
	for range openAfter {
		c.report(one, probes{}, down(), now)
	}
	_, w := c.admit(two, now)
	w.join(two.account)
	now = now.Add(longestPause)
	probe, _ := c.admit(one, now.Add(-time.Second))
	if probe.tenant {
		c.report(one, probe, down(), now.Add(-time.Second))
	}
	now = now.Add(2 * longestPause)
	_, waiting := c.admit(one, now)
	if waiting == nil {
		t.Fatal("it was not the turn of the other")
	}
	w.leave(two.account, true)
	select {
	case <-waiting.changed:
	default:
		t.Error("no caller was woken")
	}
	if probe, _ := c.admit(one, now); !probe.tenant {
		t.Error("no probe")
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
		c.report(circuitKey("a", "c", strconv.Itoa(i)), probes{}, down(), now)
	}
	if n := c.failing.Len(); n > maxCircuits {
		t.Errorf("%d circuits are kept", n)
	}
	now = now.Add(circuitMemory + longestPause)
	c.report(circuitKey("a", "c", "last"), probes{}, down(), now)
	if n := c.failing.Len(); n != 1 {
		t.Errorf("%d circuits are kept without a request", n)
	}
}

func TestHeldRequestsAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.down = true })
		_, _ = b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		if n := testutil.ToFloat64(b.engine.reporter.metrics.requests.WithLabelValues(string(heldBack))); n != 1 {
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
