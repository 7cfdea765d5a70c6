package tokens

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestTokenIsRefreshedAheadOfItsEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		lifetime, refreshIn time.Duration
		notBefore, by       time.Duration
	}{
		"an hour":            {time.Hour, 0, 35 * time.Minute, 40 * time.Minute},
		"a day":              {24 * time.Hour, 0, 24*time.Hour - 25*time.Minute, 24*time.Hour - 20*time.Minute},
		"half an hour":       {30 * time.Minute, 0, 11 * time.Minute, 15 * time.Minute},
		"ten minutes":        {10 * time.Minute, 0, 3*time.Minute + 45*time.Second, 5 * time.Minute},
		"refresh_in":         {24 * time.Hour, 4 * time.Hour, 4 * time.Hour, 4*time.Hour + 24*time.Minute},
		"refresh_in too far": {time.Hour, 59 * time.Minute, 35 * time.Minute, 40 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) { f.lifetime, f.refreshIn = tt.lifetime, tt.refreshIn })
				w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
				first := b.mustToken(w, r)
				b.run()
				b.advance(tt.notBefore - refreshTick)
				if n := b.entra.exchanges(); n != 1 {
					t.Fatalf("%d exchanges after %v, want 1", n, tt.notBefore)
				}
				b.write(w, b.assertion(w, nil))
				b.advance(tt.by + refreshTick - (tt.notBefore - refreshTick))
				if n := b.entra.exchanges(); n != 2 {
					t.Fatalf("%d exchanges after %v, want 2", n, tt.by)
				}
				if got := b.mustToken(w, r); got == first {
					t.Error("the old token is still served")
				}
				if n := testutil.ToFloat64(b.engine.reporter.metrics.requests.WithLabelValues(string(hit))); n != 1 {
					t.Error("the caller waited for the new token")
				}
			})
		})
	}
}

// Tokens that were issued together are not refreshed together.
func TestRefreshesAreSpread(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 1000 {
		seen[refreshAfter(entra.Grant{Lifetime: time.Hour}).Truncate(10*time.Second)] = true
	}
	if len(seen) < 20 {
		t.Errorf("1000 refreshes fall into %d times of ten seconds", len(seen))
	}
}

// A short-lived token that is asked for all the time is never served with
// less than five minutes left, and its callers never wait.
func TestCallersOfAShortTokenNeverWait(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.lifetime = 10*time.Minute + 30*time.Second })
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		b.run()
		for range 240 {
			if left := b.mustToken(w, r).ExpiresOn.Sub(b.clock.Now()); left < minLeft {
				t.Fatalf("a token with %v left was served", left)
			}
			b.write(w, b.assertion(w, nil))
			b.advance(15 * time.Second)
		}
		if n := testutil.ToFloat64(b.engine.reporter.metrics.requests.WithLabelValues(string(hit))); n != 239 {
			t.Errorf("%v of 240 requests were answered from the cache", n)
		}
	})
}

func TestTokenThatNobodyAsksForIsLeftToEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		b.run()
		for range 24 {
			b.write(w, b.assertion(w, nil))
			b.advance(30 * time.Minute)
		}
		if n := b.entra.exchanges(); n != 2 {
			t.Errorf("%d exchanges, want the first and one refresh", n)
		}
		b.mustToken(w, workload.TokenRequest{Resource: "https://other"}) // sweeps
		if n := b.engine.cache.size(); n != 1 {
			t.Errorf("%d tokens are kept, want the new one alone", n)
		}
	})
}

func TestRefreshUsesThePodsThatAreLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		r := workload.TokenRequest{Resource: vault}
		stays := b.pod("shop", "cart", "stays")
		b.mustToken(stays, r)
		for i := range maxAskers - 1 {
			goes := b.pod("shop", "cart", "goes-"+strconv.Itoa(i))
			b.mustToken(goes, r)
			if err := os.RemoveAll(b.volume(goes)); err != nil {
				t.Fatal(err)
			}
		}
		b.run()
		b.advance(45 * time.Minute)
		if n := b.entra.exchanges(); n != 2 {
			t.Fatalf("%d exchanges, want 2", n)
		}
		if got := subjectOf(b.entra.forms[1].Get("client_assertion")); got != stays.Subject() {
			t.Errorf("refreshed for %s", got)
		}
	})
}

func TestNothingIsRefreshedForPodsThatAreGone(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		if err := os.RemoveAll(b.volume(w)); err != nil {
			t.Fatal(err)
		}
		b.run()
		b.advance(2 * time.Hour)
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
		if n := countLines(b.log.String(), "token exchange failed"); n > 30 {
			t.Errorf("%d lines in the log", n)
		}
	})
}

// The refresh falls into an outage: no caller notices, and the new token comes
// soon after it.
func TestOutageAtTheTimeOfRefreshIsNotSeen(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.run()
		b.advance(34 * time.Minute)
		b.entra.set(func(f *fakeEntra) { f.down = true })
		began := time.Now()
		for range 20 * 60 {
			if got := b.mustToken(w, r); got != first {
				t.Fatal("another token came out of an outage")
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took != 20*time.Minute {
			t.Errorf("callers waited %v", took-20*time.Minute)
		}
		if n := testutil.ToFloat64(b.engine.reporter.metrics.ahead.WithLabelValues("unavailable")); n < 3 || n > 100 {
			t.Errorf("%v refreshes were tried in 20 minutes", n)
		}
		b.write(w, b.assertion(w, nil))
		b.entra.set(func(f *fakeEntra) { f.down = false })
		b.advance(longestPause + refreshTick)
		if got := b.mustToken(w, r); got == first {
			t.Error("no new token after the outage")
		}
	})
}

func TestRefreshesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const keys = 3 * maxRefreshes
		for i := range keys {
			b.mustToken(b.pod("shop", "app-"+strconv.Itoa(i), "web"), workload.TokenRequest{Resource: vault})
		}
		b.advance(45 * time.Minute)
		g := b.hold(clientA)
		b.run()
		b.advance(time.Second)
		if n := len(g.arrived); n != maxRefreshes {
			t.Errorf("%d refreshes at once, want %d", n, maxRefreshes)
		}
		close(g.open)
		b.advance(time.Minute)
		if n := b.entra.exchanges(); n != 2*keys {
			t.Errorf("%d exchanges, want %d", n, 2*keys)
		}
	})
}

func TestForgottenAccountGetsNothingFromItsFlights(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		got := make(chan error, 1)
		go func() {
			_, err := b.token(w, r)
			got <- err
		}()
		<-g.arrived
		b.engine.Forget(w.ServiceAccountUID)
		close(g.open)
		if err := <-got; err != nil {
			t.Errorf("the caller that waited: %v", err)
		}
		synctest.Wait()
		if n := b.engine.cache.size(); n != 0 {
			t.Errorf("%d tokens are kept of a forgotten service account", n)
		}
		if all := b.engine.Exchanges(); len(all) != 0 {
			t.Errorf("its last exchange is kept: %+v", all)
		}
	})
}

// One service account cannot push out the tokens of the others.
func TestTokensOfOneAccountAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		modest, greedy := b.pod("shop", "modest", "web"), b.pod("shop", "greedy", "web")
		kept := b.mustToken(modest, workload.TokenRequest{Resource: vault})
		for i := range maxAccountTokens + 10 {
			b.mustToken(greedy, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)})
		}
		if n := b.engine.cache.size(); n != maxAccountTokens+1 {
			t.Errorf("%d tokens are kept, want %d", n, maxAccountTokens+1)
		}
		if got := b.mustToken(modest, workload.TokenRequest{Resource: vault}); got != kept {
			t.Error("the modest account's token was pushed out")
		}
	})
}

// A refresh that Entra refuses is asked for ever more rarely, and its callers
// are served meanwhile.
func TestRefusedRefreshBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.lifetime = 24 * time.Hour; f.refreshIn = time.Hour })
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.run()
		b.advance(66 * time.Minute)
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(401, 7000112, "unauthorized_client", "AADSTS7000112: disabled")
		})
		b.advance(20 * time.Second) // no refresh was due yet, or it was done
		sent := b.entra.exchanges()
		for range 26 * 6 {
			b.write(w, b.assertion(w, nil))
			if got := b.mustToken(w, r); sent == 1 && got.Value != first.Value {
				t.Fatal("another token came out of a refusal")
			}
			b.advance(10 * time.Second)
		}
		if n := b.entra.exchanges() - sent; n > 16 {
			t.Errorf("%d refreshes were sent in 26 minutes of refusals", n)
		}
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.write(w, b.assertion(w, nil))
		sent = b.entra.exchanges()
		b.advance(lastRefreshPause + refreshTick)
		if n := b.entra.exchanges() - sent; sent > 2 && n != 1 {
			t.Errorf("%d refreshes after it was fixed, want 1", n)
		}
	})
}

// While one account's exchanges fail as if the tenant were down, and it asks
// again and again, a refresh of another takes its turn and shows that the
// tenant is not.
func TestRefreshTakesItsTurnAsAProbe(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		good := b.pod("shop", "good", "web")
		good.ClientID = clientB
		b.mustToken(good, workload.TokenRequest{Resource: vault})
		b.run()
		b.advance(34 * time.Minute)
		b.write(good, b.assertion(good, nil))
		b.entra.set(func(f *fakeEntra) {
			down := refusing(503, 90033, "temporarily_unavailable", "AADSTS90033: down")
			f.refuse = func(w http.ResponseWriter, form url.Values) bool {
				return form.Get("client_id") == clientA && down(w, form)
			}
		})
		ctx, stop := context.WithCancel(t.Context())
		var bad sync.WaitGroup
		for i := range 10 {
			w := b.pod("shop", "bad", strconv.Itoa(i))
			bad.Go(func() {
				for ctx.Err() == nil {
					_, _ = b.engine.Token(ctx, w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)})
				}
			})
		}
		b.advance(7 * time.Minute)
		if left := b.mustToken(good, workload.TokenRequest{Resource: vault}).ExpiresOn.Sub(b.clock.Now()); left < 50*time.Minute {
			t.Errorf("the token was not refreshed: it has %v left", left)
		}
		// New tokens of others come with the next probe as well.
		for i := range 20 {
			w := b.pod("shop", "new-"+strconv.Itoa(i), "web")
			w.ClientID = clientB
			began := time.Now()
			_, err := b.token(w, workload.TokenRequest{Resource: vault})
			for ; err != nil && time.Since(began) < time.Minute; _, err = b.token(w, workload.TokenRequest{Resource: vault}) {
			}
			if took := time.Since(began); err != nil || took > 2*probeLook+longestPause {
				t.Errorf("a new token took %v, error %v", took, err)
			}
		}
		stop()
		bad.Wait()
	})
}
