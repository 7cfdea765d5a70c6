package tokens

import (
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var steps = map[string]time.Duration{
	"ten minutes forward":  10 * time.Minute,
	"ten minutes backward": -10 * time.Minute,
	"a day forward":        24 * time.Hour,
	"a day backward":       -24 * time.Hour,
}

// While Entra is down a token is served for as long as it really holds,
// however the clock is set, and never longer. Its times follow the clock, so
// that its client counts the same.
func TestClockStepsInAnOutage(t *testing.T) {
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
				first := b.mustToken(w, r)
				b.run()
				b.advance(20 * time.Minute)
				b.entra.set(func(f *fakeEntra) { f.down = true })
				b.date.set(step)
				for age := 20 * time.Minute; age < time.Hour; age += time.Minute {
					got := b.mustToken(w, r)
					if got.Value != first.Value {
						t.Fatal("another token came out of an outage")
					}
					if left := got.ExpiresOn.Sub(b.date.Now()).Round(time.Second); left != time.Hour-age {
						t.Fatalf("the token says that it has %v left, it has %v", left, time.Hour-age)
					}
					time.Sleep(time.Minute)
				}
				if err := b.once(w, r); err == nil {
					t.Error("a token was served after its end")
				}
			})
		})
	}
}

// With Entra at hand the token is replaced after a step, and callers get one
// with more than five minutes left by either reckoning.
func TestClockStepsAreMendedByANewToken(t *testing.T) {
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
				b.mustToken(w, r)
				b.run()
				b.advance(20 * time.Minute)
				b.date.set(step)
				b.advance(refreshTick)
				if n := b.entra.exchanges(); n != 2 {
					t.Errorf("%d exchanges after the step, want 2", n)
				}
				for range 5 {
					if left := b.mustToken(w, r).ExpiresOn.Sub(b.date.Now()); left < 59*time.Minute {
						t.Errorf("the token says that it has %v left", left)
					}
					b.advance(10 * time.Second)
				}
				if n := b.entra.exchanges(); n != 2 {
					t.Errorf("%d exchanges, want no more than one for the step", n)
				}
			})
		})
	}
}

// A clock that jumps to and fro makes no storm of exchanges, and drift is no
// step.
func TestClockThatJumpsAboutMakesNoStorm(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		b.mustToken(w, r)
		b.run()
		for range 60 {
			b.date.set(500 * time.Millisecond)
			b.advance(10 * time.Second)
			b.mustToken(w, r)
		}
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges for half a minute of drift, want 1", n)
		}
		for i := range 20 {
			b.date.set([]time.Duration{time.Hour, -time.Hour}[i%2])
			b.mustToken(w, r)
			b.advance(refreshTick)
		}
		if n := b.entra.exchanges(); n > 41 {
			t.Errorf("%d exchanges for 20 jumps", n)
		}
	})
}

// Waits are of time that passes: a step neither ends nor prolongs them.
func TestClockStepsDoNotMoveWaits(t *testing.T) {
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w := b.pod("shop", "cart", "web")
				b.entra.set(func(f *fakeEntra) { f.refuse = throttling("10") })
				began := time.Now()
				go func() {
					time.Sleep(time.Second)
					b.date.set(step)
					b.entra.set(func(f *fakeEntra) { f.refuse = nil })
				}()
				b.mustToken(w, workload.TokenRequest{Resource: vault})
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("the caller waited %v of Retry-After: 10", took)
				}
			})
		})
	}
}

// The kubelet renews the assertion by the same clock, and Entra judges it by
// its own: a step alone must not keep it from being sent.
func TestClockStepDoesNotExpireTheAssertion(t *testing.T) {
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w := b.pod("shop", "cart", "web")
				b.date.set(step)
				b.mustToken(w, workload.TokenRequest{Resource: vault})
			})
		})
	}
}

// A Retry-After that names a date is counted from the date of its answer.
func TestRetryAfterDateIsByEntrasClock(t *testing.T) {
	for name, off := range steps {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				entrasTime := b.clock.Now().Add(off)
				b.entra.set(func(f *fakeEntra) { f.refuse = throttlingAt(entrasTime, 30*time.Second) })
				err := b.once(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				if again := asTokenError(err).RetryAfter.Round(time.Second); again != 30*time.Second {
					t.Errorf("RetryAfter is %v, want 30s", again)
				}
			})
		})
	}
}
