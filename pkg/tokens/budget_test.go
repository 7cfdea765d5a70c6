package tokens

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// flood has the workloads ask for ever new resources, 64 at a time each, and
// returns how many exchanges were sent for each second that it lasted.
func (b *bench) flood(lasts time.Duration, all ...workload.Workload) (sent int) {
	ctx, stop := context.WithTimeout(b.t.Context(), lasts)
	defer stop()
	before := b.entra.exchanges()
	var asking sync.WaitGroup
	for i, w := range all {
		for j := range 64 {
			asking.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					_, _ = b.engine.Token(ctx, w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i) + "-" + strconv.Itoa(j) + "-" + strconv.Itoa(n)})
					time.Sleep(time.Millisecond)
				}
			})
		}
	}
	asking.Wait()
	return b.entra.exchanges() - before
}

// A pod that makes up resources gets its budget of exchanges, whether Entra
// knows them or not, and costs no other caller anything.
func TestFloodOfOnePodIsBounded(t *testing.T) {
	for name, known := range map[string]bool{"unknown resources": false, "known resources": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				if !known {
					b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 500011, "invalid_resource", "none") })
				}
				greedy := b.pod("shop", "greedy", "web")
				if n := b.flood(10*time.Second, greedy); n < podBurst || n > podBurst+10*podRate+1 {
					t.Errorf("%d exchanges in 10 s, want about %d", n, podBurst+10*podRate)
				}
				b.entra.set(func(f *fakeEntra) { f.refuse = nil })
				began := time.Now()
				b.mustToken(b.pod("shop", "modest", "web"), workload.TokenRequest{Resource: vault})
				if took := time.Since(began); took != 0 {
					t.Errorf("another account waited %v", took)
				}
				if n := countLines(b.log.String(), "token exchange"); n > logLines+2 {
					t.Errorf("%d lines in the log", n)
				}
				// It waits for its turn, and gets it.
				b.mustToken(greedy, workload.TokenRequest{Resource: vault})
			})
		})
	}
}

func TestFloodOfOneAccountIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var all []workload.Workload
		for i := range 20 {
			all = append(all, b.pod("shop", "greedy", strconv.Itoa(i)))
		}
		if n := b.flood(10*time.Second, all...); n < accountBurst || n > accountBurst+10*accountRate+1 {
			t.Errorf("%d exchanges in 10 s, want about %d", n, accountBurst+10*accountRate)
		}
		b.mustToken(b.pod("shop", "modest", "web"), workload.TokenRequest{Resource: vault})
	})
}

// However many service accounts ask for ever new tokens, the node's exchanges are
// bounded, and one that asks for little gets what it asks for at once.
func TestFloodOfManyAccountsIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var all []workload.Workload
		for i := range 24 {
			all = append(all, b.pod("shop", "greedy-"+strconv.Itoa(i), "web"))
		}
		const lasts = 8 * time.Second
		flooded := make(chan int)
		go func() { flooded <- b.flood(lasts, all...) }()
		for i := range 4 {
			time.Sleep(lasts / 5)
			modest := b.pod("shop", "modest", strconv.Itoa(i))
			began := time.Now()
			b.mustToken(modest, workload.TokenRequest{Resource: "https://modest" + strconv.Itoa(i)})
			if took := time.Since(began); took != 0 {
				t.Errorf("another account waited %v", took)
			}
		}
		if n, most := <-flooded, nodeBurst+int(lasts.Seconds())*nodeRate; n < most/2 || n > most {
			t.Errorf("%d exchanges in %v, want up to %d", n, lasts, most)
		}
	})
}

// A budget that the greedy keep empty is shared by all who ask.
func TestGreedyAccountsShareTheNodesBudget(t *testing.T) {
	b, now := newBudgets(), time.Unix(0, 0)
	had := map[string]int{}
	for range 4 * 60 * 10 { // four minutes
		now = now.Add(100 * time.Millisecond)
		for i := range 40 { // the first ten ask for ten times as much
			w := workload.Workload{ServiceAccountUID: strconv.Itoa(i), PodUID: strconv.Itoa(i)}
			for range 1 + 9*max(0, min(1, 10-i)) {
				if !now.Before(b.next(w, now)) {
					b.take(w, now)
					had[w.ServiceAccountUID]++
				}
			}
		}
	}
	least, most := had["39"], had["0"]
	if least == 0 || most > 2*least {
		t.Errorf("who asks for ten times as much has had %d, others %d", most, least)
	}
}

// A long outage uses up no budget: what is held is tried at its own pace.
func TestOutageCostsNoBudget(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		b.entra.set(func(f *fakeEntra) { f.down = true })
		for range 5 { // two minutes
			_, _ = b.token(w, workload.TokenRequest{Resource: vault})
		}
		if n := b.entra.requests(); n < 30 {
			t.Errorf("only %d requests were sent", n)
		}
		b.entra.set(func(f *fakeEntra) { f.down = false })
		var all sync.WaitGroup
		began := time.Now()
		for i := range podBurst - 1 { // the first try above is the other one
			all.Go(func() { b.wantToken(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)}) })
		}
		all.Wait()
		if took := time.Since(began); took > longestPause {
			t.Errorf("the tokens after the outage took %v", took)
		}
	})
}

func TestLinesThatAreLeftOutAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 500011, "invalid_resource", "none") })
		w := b.pod("shop", "cart", "web")
		for i := range logLines + 10 {
			_ = b.once(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)})
		}
		b.advance(logEvery)
		_ = b.once(w, workload.TokenRequest{Resource: "https://last"})
		if n := countLines(b.log.String(), "token exchange failed"); n != logLines+1 {
			t.Errorf("%d lines", n)
		}
		if n := countLines(b.log.String(), "left_out=10"); n != 1 {
			t.Errorf("the log does not say how many were left out:\n%s", b.log)
		}
	})
}
