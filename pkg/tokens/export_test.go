package tokens

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// A token that another agent got is served as it would have served it, and
// refreshed when it would have been.
func TestTokensAreHandedOver(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		first := b.mustToken(w, r)
		b.advance(10 * time.Minute)
		next := b.successor(func(string) bool { return true })
		if diff := cmp.Diff(first, next.mustToken(w, r)); diff != "" {
			t.Errorf("after the hand-over (-before +after):\n%s", diff)
		}
		if n := next.entra.exchanges(); n != 0 {
			t.Errorf("%d exchanges of the new agent, want none", n)
		}
		if audit := next.audit.String(); audit != "" {
			t.Errorf("the pod's first token was audited twice: %s", audit)
		}
		next.run()
		next.write(w, next.assertion(w, nil))
		next.advance(31 * time.Minute)
		if n := next.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges of the new agent when the token was due, want 1", n)
		}
	})
}

func TestTokensThatAreNotHandedOver(t *testing.T) {
	for name, tt := range map[string]struct {
		wait  time.Duration
		known bool
	}{
		"service account is gone": {0, false},
		"token has ended":         {time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.mustToken(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				b.advance(tt.wait)
				if n := b.successor(func(string) bool { return tt.known }).engine.cache.size(); n != 0 {
					t.Errorf("%d tokens taken over, want none", n)
				}
			})
		})
	}
}

// successor returns a bench of an engine that has taken over this one's tokens.
func (b *bench) successor(known func(string) bool) *bench {
	b.t.Helper()
	all, err := b.engine.Export()
	if err != nil {
		b.t.Fatal(err)
	}
	next := newBench(b.t)
	next.entra.URL = b.entra.URL
	if _, err := next.engine.Import(all, known); err != nil {
		b.t.Fatal(err)
	}
	return next
}

// A successor leaves alone whom Entra asked to leave alone.
func TestCircuitsAreHandedOver(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = throttling("600") })
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		_ = b.once(w, r)
		b.advance(10 * time.Second)
		next := b.successor(func(string) bool { return true })
		next.pod("shop", "cart", "web")
		_, err := next.token(w, r)
		wantTokenError(t, err, workload.Unavailable, "left alone")
		if again := asTokenError(err).RetryAfter.Round(time.Second); again != 565*time.Second {
			t.Errorf("RetryAfter is %v, want what is left of 600s", again)
		}
		if n := next.entra.exchanges(); n != 0 {
			t.Errorf("%d exchanges of the new agent", n)
		}
		next.mustToken(w, workload.TokenRequest{Resource: vault, ClientID: clientB})
	})
}

// An agent of an earlier version reads a circuit as a token without an owner.
func TestCircuitIsNoTokenToEarlierVersions(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = throttling("600") })
		_ = b.once(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		all, err := b.engine.Export()
		if err != nil || len(all) != 1 {
			t.Fatalf("%d records, error %v", len(all), err)
		}
		var earlier struct {
			Account  string
			Lifetime time.Duration
			Age      time.Duration
		}
		if err := json.Unmarshal(all[0], &earlier); err != nil || earlier.Account != "" || earlier.Lifetime-earlier.Age > 0 {
			t.Errorf("%+v, error %v", earlier, err)
		}
	})
}
