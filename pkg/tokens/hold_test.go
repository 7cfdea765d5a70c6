package tokens

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// after lets a change of the fake Entra take effect later.
func (b *bench) after(d time.Duration, change func(*fakeEntra)) {
	go func() {
		time.Sleep(d)
		b.entra.set(change)
	}()
}

func TestOutageUnderTheCallersWaitIsNotSeen(t *testing.T) {
	for _, outage := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 10 * time.Second, 20 * time.Second} {
		t.Run(outage.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) { f.down = true })
				b.after(outage, func(f *fakeEntra) { f.down = false })
				began := time.Now()
				b.mustToken(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				if took := time.Since(began); took > outage*9/8+shortestPause {
					t.Errorf("the caller waited %v", took)
				}
			})
		})
	}
}

func TestLongOutageEndsWithATimeToComeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.down = true })
		w, r := b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault}
		began := time.Now()
		_, err := b.token(w, r)
		wantTokenError(t, err, workload.Unavailable, "cannot be reached")
		if took := time.Since(began); took != patience {
			t.Errorf("the caller was held %v, want %v", took, patience)
		}
		if again := asTokenError(err).RetryAfter; again < time.Second || again > longestPause {
			t.Errorf("RetryAfter is %v", again)
		}
		if n := b.entra.requests(); n > 40 {
			t.Errorf("%d requests were sent while Entra was down", n)
		}
	})
}

// Entra takes the request and never answers.
func TestSilentEntraIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		b.after(12*time.Second, func(f *fakeEntra) { f.refuse = nil })
		began := time.Now()
		b.mustToken(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		if took := time.Since(began); took > 2*10*time.Second+time.Second {
			t.Errorf("the caller waited %v", took)
		}
		close(g.open)
	})
}

func TestSetUpErrorIsReturnedAtOnce(t *testing.T) {
	for code, kind := range map[int]workload.TokenErrorKind{
		70021: workload.Refused, 700016: workload.Refused, 90002: workload.Refused, 500011: workload.InvalidResource,
	} {
		inBubble(t, func(t *testing.T, b *bench) {
			b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, code, "", "no") })
			began := time.Now()
			_, err := b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
			wantTokenError(t, err, kind, "no")
			if took := time.Since(began); took != 0 {
				t.Errorf("%d: the caller waited %v", code, took)
			}
		})
	}
}

// A refusal that is final for an old pod is not for a young one of the same
// service account: its federated credential may be on its way.
func TestYoungWorkloadIsHeldForItsFederation(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 700213, "invalid_client", "AADSTS700213: no match") })
		old, young := b.pod("shop", "cart", "old"), b.pod("shop", "cart", "young")
		young.ChangedAt = b.clock.Now()
		r := workload.TokenRequest{Resource: vault}
		got := make(chan error, 1)
		began := time.Now()
		go func() {
			_, err := b.token(young, r)
			got <- err
		}()
		b.advance(time.Second)
		_, err := b.token(old, r)
		wantTokenError(t, err, workload.Refused, "no match")
		if took := time.Since(began); took != time.Second {
			t.Errorf("the old pod waited %v", took-time.Second)
		}
		b.after(9*time.Second, func(f *fakeEntra) { f.refuse = nil })
		if err := <-got; err != nil {
			t.Errorf("the young pod: %v", err)
		}
		if n := b.entra.exchanges(); n < 3 || n > 8 {
			t.Errorf("%d exchanges in ten seconds", n)
		}
	})
}

// az asks with any id as client_id, and goes on with object_id at the refusal. A
// young pod would be held for the former if Entra were asked.
func TestObjectIDAsClientIDIsRefusedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const object = "0000bbbb-0000-4000-8000-000000000000"
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(400, 700016, "unauthorized_client", "AADSTS700016: no such application")
		})
		w := b.pod("shop", "cart", "young")
		w.ChangedAt = b.clock.Now()
		w.Identities = []workload.MappedIdentity{{ClientID: clientB, PrincipalID: object}}
		began := time.Now()
		_, err := b.token(w, workload.TokenRequest{Resource: vault, ClientID: object})
		wantTokenError(t, err, workload.IdentityNotFound, "ask for it by object_id")
		if n, took := b.entra.requests(), time.Since(began); n != 0 || took != 0 {
			t.Errorf("%d requests to Entra, the caller waited %v", n, took)
		}
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.mustToken(w, workload.TokenRequest{Resource: vault, ObjectID: object})
	})
}

func TestYoungWorkloadIsRefusedOnceItIsOld(t *testing.T) {
	for name, tt := range map[string]struct {
		age  time.Duration
		held time.Duration
		kind workload.TokenErrorKind
	}{
		"just made":                  {0, patience, workload.Unavailable},
		"old in ten seconds":         {settleTime - 10*time.Second, 10 * time.Second, workload.Refused},
		"dated by a faster clock":    {-10 * time.Minute, patience, workload.Unavailable},
		"dated by a wrong clock":     {-24 * time.Hour, 0, workload.Refused},
		"old":                        {settleTime, 0, workload.Refused},
		"older than all it runs for": {24 * time.Hour, 0, workload.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 70021, "invalid_client", "AADSTS70021: no match") })
				w := b.pod("shop", "cart", "web")
				w.ChangedAt = b.clock.Now().Add(-tt.age)
				began := time.Now()
				_, err := b.token(w, workload.TokenRequest{Resource: vault})
				wantTokenError(t, err, tt.kind, "no match")
				if took := time.Since(began); took < tt.held || took > tt.held+4*time.Second {
					t.Errorf("held for %v, want %v", took, tt.held)
				}
			})
		})
	}
}

func TestHeldUntilTheKubeletHasWrittenTheAssertion(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		late, w := b.pod("shop", "cart", "late"), b.pod("shop", "cart", "web")
		if err := os.RemoveAll(b.volume(late)); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(3 * time.Second)
			b.write(late, b.assertion(late, nil))
		}()
		r := workload.TokenRequest{Resource: vault}
		b.mustToken(late, r)
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
		b.mustToken(w, r)
	})
}

func TestCallerLeavesWhileItIsHeld(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.down = true })
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(3 * time.Second)
			cancel()
		}()
		began := time.Now()
		_, err := b.engine.Token(ctx, b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		if !errors.Is(err, context.Canceled) || time.Since(began) != 3*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		tries := b.entra.requests()
		b.advance(time.Minute)
		if n := b.entra.requests(); n != tries {
			t.Errorf("%d requests were sent for nobody", n-tries)
		}
	})
}

func TestCallersOfOneKeyShareItsTries(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(429, 50196, "invalid_grant", "AADSTS50196: loop") })
		w := b.pod("shop", "cart", "web")
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				if _, err := b.token(w, workload.TokenRequest{Resource: vault}); asTokenError(err) == nil {
					t.Error("a token was issued")
				}
			})
		}
		all.Wait()
		if n := b.entra.exchanges(); n > int(patience/refusedPause)+2 {
			t.Errorf("%d exchanges for 50 callers of one key", n)
		}
		// Another key of the same tenant is not concerned.
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		began := time.Now()
		b.mustToken(w, workload.TokenRequest{Resource: vault, ClientID: clientB})
		if time.Since(began) != 0 {
			t.Error("another key waited")
		}
	})
}

func TestFailureThatLastsIsLoggedNowAndThen(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(503, 90033, "temporarily_unavailable", "AADSTS90033: down") })
		w := b.pod("shop", "cart", "web")
		for i := range 8 {
			_, _ = b.token(w, workload.TokenRequest{Resource: vault, ClientID: clientA})
			if i == 3 {
				b.entra.set(func(f *fakeEntra) { f.refuse = refusing(503, 90033, "temporarily_unavailable", "AADSTS90033: changed") })
			}
		}
		lines := map[string]int{"AADSTS90033: down": 0, "AADSTS90033: changed": 0}
		for said := range lines {
			lines[said] = countLines(b.log.String(), strconv.Quote(said))
		}
		for said, n := range lines {
			if n < 1 || n > 3 {
				t.Errorf("%q is %d times in the log of 200 s", said, n)
			}
		}
	})
}

// What Entra says while it cannot reach the cluster's issuer passes by itself:
// there is nothing that the pod's owner could do.
func TestUnreachableIssuerIsWaitedFor(t *testing.T) {
	for _, code := range []int{50166, 501661, 90061} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				heard := listen(b)
				b.entra.set(func(f *fakeEntra) {
					f.refuse = refusing(400, code, "invalid_request", "Request to External OIDC endpoint failed.")
				})
				b.after(6*time.Second, func(f *fakeEntra) { f.refuse = nil })
				began := time.Now()
				b.mustToken(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				if took := time.Since(began); took > 6*time.Second+refusedPause {
					t.Errorf("the caller waited %v for 6 s", took)
				}
				if events := heard(); len(events) > 0 || strings.Contains(b.log.String(), "fix") {
					t.Errorf("notified of %v\n%s", events, b.log)
				}
			})
		})
	}
}

// Entra's servers learn of a new identity one after the other.
func TestNewIdentityIsWaitedFor(t *testing.T) {
	for _, code := range []int{700016, 7000229, 70021, 700211, 700212, 700213} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, code, "unauthorized_client", "no") })
				b.after(10*time.Second, func(f *fakeEntra) { f.refuse = nil })
				w := b.pod("shop", "cart", "web")
				w.ChangedAt = b.clock.Now()
				began := time.Now()
				b.mustToken(w, workload.TokenRequest{Resource: vault})
				if took := time.Since(began); took > 10*time.Second+refusedPause {
					t.Errorf("the caller waited %v for 10 s", took)
				}
			})
		})
	}
}

// The owner of a new pod learns of a refusal when it comes, not when it has
// lasted, and once more when it is final.
func TestFirstRefusalIsReportedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var events []workload.TokenError
		b.engine.reporter.owners = func(_ workload.Workload, e *workload.TokenError) { events = append(events, *e) }
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(401, 700213, "invalid_client", "AADSTS700213: no match") })
		w := b.pod("shop", "cart", "web")
		w.ChangedAt = b.clock.Now()
		go func() { _, _ = b.token(w, workload.TokenRequest{Resource: vault}) }()
		b.advance(time.Millisecond)
		if len(events) != 1 || events[0].Kind != workload.Unavailable || !events[0].RetriedUntil.Equal(w.ChangedAt.Add(settleTime)) || events[0].Fix == "" {
			t.Fatalf("notified of %+v", events)
		}
		for _, want := range []string{"not accepted yet", "retried_until=", "fix_if_it_stays=\"", "az identity federated-credential create"} {
			if n := countLines(b.log.String(), want); n != 1 {
				t.Errorf("%d lines with %q in the log:\n%s", n, want, b.log)
			}
		}
		b.advance(settleTime)
		_, err := b.token(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Refused, "no match")
		if len(events) != 2 || events[1].Kind != workload.Refused || !events[1].RetriedUntil.IsZero() {
			t.Errorf("notified of %+v", events)
		}
	})
}

// A credential that has worked is refused now and then. It is retried, and
// no owner is asked to fix what is in order.
func TestWhatHasWorkedIsRetried(t *testing.T) {
	for name, code := range map[string]int{"in the table": 700213, "permanent by the table": 7000112, "unknown": 4711} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				heard := listen(b)
				w := b.pod("shop", "cart", "web")
				b.mustToken(w, workload.TokenRequest{Resource: vault})
				b.entra.set(func(f *fakeEntra) { f.refuse = refusing(401, code, "invalid_client", "no match") })
				b.after(6*time.Second, func(f *fakeEntra) { f.refuse = nil })
				began := time.Now()
				b.mustToken(w, workload.TokenRequest{Resource: "https://other"})
				if took := time.Since(began); took > 6*time.Second+refusedPause {
					t.Errorf("the caller waited %v for 6 s", took)
				}
				if events := heard(); len(events) > 0 || strings.Contains(b.log.String(), " fix") {
					t.Errorf("notified of %v\n%s", events, b.log)
				}
			})
		})
	}
}

// What has worked and stays refused is refused in the end, with its fix. A
// resource that never worked is refused at once, whatever else has.
func TestWhatHasWorkedIsRefusedInTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		heard := listen(b)
		w := b.pod("shop", "cart", "web")
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 500011, "invalid_resource", "none") })
		_, err := b.token(w, workload.TokenRequest{Resource: "https://nothing"})
		wantTokenError(t, err, workload.InvalidResource, "none")
		heard()
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(401, 700213, "invalid_client", "no match") })
		began := time.Now()
		for time.Since(began) < settleTime {
			if events := heard(); len(events) > 0 {
				t.Fatalf("notified of %v after %v", events, time.Since(began))
			}
			_, err = b.token(w, workload.TokenRequest{Resource: "https://other"})
			if time.Since(began) < settleTime {
				wantTokenError(t, err, workload.Unavailable, "no match")
			}
		}
		began = time.Now()
		_, err = b.token(w, workload.TokenRequest{Resource: "https://other"})
		wantTokenError(t, err, workload.Refused, "no match")
		if took := time.Since(began); took != 0 {
			t.Errorf("refused after %v", took)
		}
		if events := heard(); len(events) != 1 || asTokenError(err).Fix == "" {
			t.Errorf("notified of %v, fix %q", events, asTokenError(err).Fix)
		}
		// Long after that one answer is one answer again.
		b.advance(time.Hour)
		b.write(w, b.assertion(w, nil))
		b.after(6*time.Second, func(f *fakeEntra) { f.refuse = nil })
		b.mustToken(w, workload.TokenRequest{Resource: "https://third"})
	})
}

// An exchange that panics is a failure of its own, and no other's.
func TestPanicIsTheExchangesOwn(t *testing.T) {
	for _, where := range []string{"discovery", "token"} {
		t.Run(where, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w := b.pod("shop", "cart", "web")
				if where == "token" {
					b.mustToken(w, workload.TokenRequest{Resource: vault})
				}
				b.entra.set(func(f *fakeEntra) { f.panics = true })
				err := b.once(w, workload.TokenRequest{Resource: "https://other"})
				wantTokenError(t, err, workload.Unavailable, "the agent failed")
				if n := testutil.ToFloat64(b.engine.reporter.metrics.errors.WithLabelValues(codePanic)); n != 1 {
					t.Errorf("counted %v times", n)
				}
				for _, want := range []string{"panic, which ended nothing", "a fault of the test", "fakeEntra"} {
					if !strings.Contains(b.log.String(), want) {
						t.Errorf("no %q in the log:\n%s", want, b.log)
					}
				}
				b.entra.set(func(f *fakeEntra) { f.panics = false })
				b.advance(10 * time.Second) // net/http's timer of the request that panicked
				b.mustToken(w, workload.TokenRequest{Resource: "https://other"})
			})
		})
	}
}
