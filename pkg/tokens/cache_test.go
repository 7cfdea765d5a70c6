package tokens

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Two service accounts never share a token, nor do two tenants, clients or
// resources of one.
func TestTokensAreKeptApart(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		cart, till := b.pod("shop", "cart", "web"), b.pod("shop", "till", "web")
		moved := cart
		moved.TenantID = "contoso.example"
		reborn := cart
		reborn.ServiceAccountUID += "-2"
		asks := []struct {
			w workload.Workload
			r workload.TokenRequest
		}{
			{cart, workload.TokenRequest{Resource: vault}},
			{till, workload.TokenRequest{Resource: vault}},
			{cart, workload.TokenRequest{Resource: vault + "/"}},
			{cart, workload.TokenRequest{Resource: vault, ClientID: clientB}},
			{moved, workload.TokenRequest{Resource: vault}},
			{reborn, workload.TokenRequest{Resource: vault}},
		}
		seen := make(map[string]bool)
		for range 2 {
			for _, a := range asks {
				token := b.mustToken(a.w, a.r)
				seen[token.Value] = true
				if want := "-for-" + a.w.Subject(); token.Value[len(token.Value)-len(want):] != want {
					t.Errorf("%s got %s", a.w.Subject(), token.Value)
				}
			}
		}
		if len(seen) != len(asks) || b.entra.exchanges() != len(asks) {
			t.Errorf("%d tokens by %d exchanges, want %d of each", len(seen), b.entra.exchanges(), len(asks))
		}
	})
}

func TestPodsOfOneAccountShareATokenAcrossRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		one := b.mustToken(b.pod("shop", "cart", "web-1"), workload.TokenRequest{Resource: vault})
		two := b.mustToken(b.pod("shop", "cart", "web-2"), workload.TokenRequest{Resource: vault})
		if diff := cmp.Diff(one, two); diff != "" {
			t.Errorf("tokens differ:\n%s", diff)
		}
	})
}

// A refusal is remembered for no longer than the pause before the next try: two
// seconds at first, ten when it has lasted.
func TestRefusalIsRememberedForOnePause(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(401, 700016, "unauthorized_client", "AADSTS700016: no such application")
		})
		w := b.pod("shop", "cart", "web")
		for range 3 {
			_, err := b.token(w, workload.TokenRequest{Resource: vault})
			wantTokenError(t, err, workload.Refused, "no such application")
		}
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
		b.advance(refusedPause)
		for range 300 {
			if err := b.once(w, workload.TokenRequest{Resource: vault}); err == nil {
				t.Fatal("a token")
			}
			b.advance(time.Second)
		}
		if n := b.entra.exchanges(); n > 55 {
			t.Errorf("%d exchanges in five minutes", n)
		}
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.advance(refusalMemory)
		b.mustToken(w, workload.TokenRequest{Resource: vault})
	})
}

func TestUnavailableIsNotRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(503, 90033, "temporarily_unavailable", "AADSTS90033: try again")
		})
		w := b.pod("shop", "cart", "web")
		err := b.once(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "try again")
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.mustToken(w, workload.TokenRequest{Resource: vault})
	})
}

func TestTokenNearItsEndIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.advance(54 * time.Minute)
		b.write(w, b.assertion(w, nil))
		if got := b.mustToken(w, r); got != first {
			t.Error("a token with 6 minutes left was replaced")
		}
		b.advance(2 * time.Minute)
		b.entra.set(func(f *fakeEntra) { f.lifetime = 2 * time.Hour })
		if got := b.mustToken(w, r); got == first {
			t.Error("a token with 4 minutes left was served though a newer one could be had")
		}
	})
}

func TestOldTokenIsServedWhileEntraIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.advance(57 * time.Minute)
		b.write(w, b.assertion(w, nil))

		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(503, 0, "", "") })
		if got := b.mustToken(w, r); got != first {
			t.Error("the old token was not served while Entra was down")
		}
		b.advance(time.Second)
		// One refusal of what has worked is no end of it.
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 700016, "unauthorized_client", "AADSTS700016: gone") })
		if got := b.mustToken(w, r); got != first {
			t.Error("the old token was not served at the first refusal")
		}

		b.advance(10 * time.Minute)
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(503, 0, "", "") })
		_, err := b.token(w, r)
		wantTokenError(t, err, workload.Unavailable, "503")
	})
}

func TestOldTokenIsServedWhenTheCallersTimeEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.advance(57 * time.Minute)
		b.write(w, b.assertion(w, nil))
		g := b.hold(clientA)
		defer close(g.open)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-g.arrived
			cancel()
		}()
		got, err := b.engine.Token(ctx, w, r)
		if err != nil || got != first {
			t.Errorf("Token = %v, want the old token", err)
		}
	})
}

func TestBypassForcesAnExchangeAtALimitedRate(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		first := b.mustToken(w, workload.TokenRequest{Resource: vault})
		bypass := workload.TokenRequest{Resource: vault, BypassCache: true}
		second := b.mustToken(w, bypass)
		if second == first {
			t.Error("bypass was answered from the cache")
		}
		if got := b.mustToken(w, bypass); got != second {
			t.Error("a second bypass at once was not answered from the cache")
		}
		if got := b.mustToken(w, workload.TokenRequest{Resource: vault}); got != second {
			t.Error("the forced token was not kept")
		}
		b.advance(bypassEvery)
		if got := b.mustToken(w, bypass); got == second {
			t.Error("bypass was not allowed again after its time")
		}
	})
}

func TestForgetErasesOneAccount(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		cart, till := b.pod("shop", "cart", "web"), b.pod("shop", "till", "web")
		r := workload.TokenRequest{Resource: vault}
		b.mustToken(cart, r)
		b.mustToken(till, r)
		b.engine.Forget(cart.ServiceAccountUID)
		b.mustToken(cart, r)
		b.mustToken(till, r)
		if n := b.entra.exchanges(); n != 3 {
			t.Errorf("%d exchanges, want 3", n)
		}
	})
}

func TestCacheOutcomesAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		for range 3 {
			b.mustToken(w, r)
		}
		for outcome, want := range map[outcome]float64{miss: 1, hit: 2} {
			if got := testutil.ToFloat64(b.engine.reporter.metrics.requests.WithLabelValues(string(outcome))); got != want {
				t.Errorf("%s counted %v times, want %v", outcome, got, want)
			}
		}
	})
}

// Cached has what Token would return at once, and nothing else.
func TestCached(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		none := func(why string, w workload.Workload, r workload.TokenRequest) {
			t.Helper()
			if token, ok := b.engine.Cached(w, r); ok || token.Value != "" {
				t.Errorf("%s: %v", why, token)
			}
		}
		none("nothing was issued", w, r)
		want := b.mustToken(w, r)
		got, ok := b.engine.Cached(w, r)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("cached %t (-want +got):\n%s", ok, diff)
		}
		if got.Made == nil || got.Made != want.Made {
			t.Error("what is made of the token is not shared")
		}
		bypassing := r
		bypassing.BypassCache = true
		none("the cache is passed over", w, bypassing)
		none("another resource", w, workload.TokenRequest{Resource: "https://other"})
		unseen := w
		unseen.ServiceAccountSeen = false
		none("the service account is not known", unseen, r)
		b.advance(time.Until(want.ExpiresOn) - minLeft + time.Second)
		none("the token is about to end", w, r)
	})
}

// A cached token's first issue to a pod is audited, however it comes.
func TestCachedIsAudited(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web-1"), workload.TokenRequest{Resource: vault}
		b.mustToken(w, r)
		next := b.pod("shop", "cart", "web-2")
		for range 2 {
			if _, ok := b.engine.Cached(next, r); !ok {
				t.Fatal("not cached")
			}
		}
		if n := strings.Count(b.audit.String(), `"pod":"web-2"`); n != 1 {
			t.Errorf("%d audit lines, want 1:\n%s", n, b.audit.String())
		}
	})
}
