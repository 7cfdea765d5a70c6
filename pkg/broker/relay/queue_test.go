package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However many pods ask, and however their requests are held up on the way, no
// more than 5 reach IMDS in any second, and the limit is made use of.
func TestNeverMoreThanTheVMsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newTestCalls(t, imds.answerAfter(300*time.Millisecond))
		ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
		defer end()
		var pods sync.WaitGroup
		for i := range 20 {
			pods.Go(func() {
				for ctx.Err() == nil {
					patience := time.Duration(rand.Int64N(int64(3 * time.Second)))
					ctx, leave := context.WithTimeout(ctx, patience)
					q := document(rand.IntN(40))
					q.Share = time.Second
					f.do(ctx, fmt.Sprint("pod-", i), q)
					leave()
					time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
				}
			})
		}
		pods.Wait()
		if most := imds.most(); most > testLimits.PerSecond {
			t.Errorf("%d requests in a second", most)
		}
		if n := imds.count(); n < 30*3 {
			t.Errorf("%d requests in 30 s: the limit is not made use of", n)
		}
	})
}

// One pod that varies its queries, and four of them, keep no other pod from an
// answer within a second.
func TestGreedyPodsDoNotStarveOthers(t *testing.T) {
	for _, greedy := range []int{1, testLimits.PerSecond - 1} {
		t.Run(fmt.Sprint(greedy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var imds imdsLog
				f := newTestCalls(t, imds.answerAfter(0))
				ctx, end := context.WithCancel(t.Context())
				var asked atomic.Int64
				var callers sync.WaitGroup
				for i := range greedy {
					for range 3 * testLimits.Waiting {
						callers.Go(func() {
							for ctx.Err() == nil {
								f.do(ctx, fmt.Sprint("greedy-", i), document(asked.Add(1)))
								time.Sleep(20 * time.Millisecond)
							}
						})
					}
				}
				for i := range 20 {
					time.Sleep(700 * time.Millisecond)
					begun := time.Now()
					got, _ := f.do(t.Context(), "modest", document(fmt.Sprint("modest-", i)))
					if took := time.Since(begun); got.Status != 200 || took > windowTime {
						t.Errorf("request %d after %v: %+v", i, took, got)
					}
				}
				if most := imds.most(); most > testLimits.PerSecond {
					t.Errorf("%d requests in a second", most)
				}
				f.mu.Lock() // the greedy pods go on asking
				if kept := len(f.byKey); kept > testLimits.Kept+testLimits.PerSecond+greedy*testLimits.Waiting {
					t.Errorf("%d calls are kept", kept)
				}
				f.mu.Unlock()
				end()
				callers.Wait()
			})
		})
	}
}

// A pod that asks for what a greedy pod waits for gives it its own turn.
func TestSharedCallComesWithTheFirstTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newTestCalls(t, imds.answerAfter(0))
		for range testLimits.PerSecond { // places that come free 100 ms after each other
			fl := document(rand.Int64())
			f.do(t.Context(), "greedy", fl)
			time.Sleep(100 * time.Millisecond)
		}
		for _, name := range []string{"a", "b", "c", "common"} {
			go f.do(t.Context(), "greedy", document(name))
			synctest.Wait()
		}
		begun := time.Now()
		got, _ := f.do(t.Context(), "modest", document("common"))
		if took := time.Since(begun); got.Status != 200 || took != 600*time.Millisecond {
			t.Errorf("after %v: %+v, want it with the second place, after 600ms", took, got)
		}
		time.Sleep(testLimits.Patience)
		if n := imds.count(); n != testLimits.PerSecond+4 {
			t.Errorf("IMDS was asked %d times, want %d", n, testLimits.PerSecond+4)
		}
	})
}
