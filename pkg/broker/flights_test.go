package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

// awaitWaiting returns when pods wait for n exchanges.
func (f *flights) awaitWaiting(n int) {
	for {
		f.mu.Lock()
		waiting := 0
		for _, p := range f.turns.pods {
			waiting += len(p.flights)
		}
		f.mu.Unlock()
		if waiting == n {
			return
		}
		runtime.Gosched()
	}
}

// imdsLog records when a stand-in for the exchange was asked, in the bubble's
// own time.
type imdsLog struct {
	mu    sync.Mutex
	asked []time.Time
}

// answerAfter returns an exchange that takes so long at most and reaches IMDS
// somewhere on the way.
func (l *imdsLog) answerAfter(most time.Duration) func(context.Context, relayRequest) answer {
	return func(_ context.Context, q relayRequest) answer {
		before, after := time.Duration(rand.Int64N(int64(most/2)+1)), time.Duration(rand.Int64N(int64(most/2)+1))
		time.Sleep(before)
		l.mu.Lock()
		l.asked = append(l.asked, time.Now())
		l.mu.Unlock()
		time.Sleep(after)
		return answer{status: 200, body: []byte(q.query)}
	}
}

func (l *imdsLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.asked)
}

// most returns how many requests came at most in a windowTime.
func (l *imdsLog) most() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := 0
	for i := range l.asked {
		n := 0
		for _, at := range l.asked[i:] {
			if at.Sub(l.asked[i]) < windowTime {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func document(name any) relayRequest {
	return relayRequest{path: "/metadata/instance", query: fmt.Sprint(name), metadata: true}
}

func TestFlightIsSharedUnderWayAndForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newFlights(clock.RealClock{}, imds.answerAfter(100*time.Millisecond))
		var pods sync.WaitGroup
		for i := range 50 {
			pods.Go(func() {
				if got := f.do(t.Context(), fmt.Sprint("pod-", i), document("a")); got.status != 200 {
					t.Errorf("pod %d: %+v", i, got)
				}
			})
		}
		pods.Wait()
		time.Sleep(shareTime - time.Nanosecond)
		f.do(t.Context(), "pod", document("a"))
		if n := imds.count(); n != 1 {
			t.Errorf("IMDS was asked %d times within a second, want 1", n)
		}
		time.Sleep(time.Nanosecond)
		f.do(t.Context(), "pod", document("a"))
		f.do(t.Context(), "pod", document("b"))
		if n := imds.count(); n != 3 {
			t.Errorf("IMDS was asked %d times, want 3", n)
		}
		time.Sleep(shareTime)
		f.do(t.Context(), "pod", document("c"))
		if len(f.byKey) != 1 {
			t.Errorf("%d answers are kept, want the last", len(f.byKey))
		}
	})
}

func TestPostIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newFlights(clock.RealClock{}, imds.answerAfter(0))
		for range 2 {
			f.do(t.Context(), "pod", relayRequest{path: "/metadata/scheduledevents", post: true})
		}
		if n := imds.count(); n != 2 || len(f.byKey) != 0 {
			t.Errorf("IMDS was asked %d times and %d answers are kept, want 2 and none", n, len(f.byKey))
		}
	})
}

func TestFlightEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := false
		f := newFlights(clock.RealClock{}, func(ctx context.Context, _ relayRequest) answer {
			<-ctx.Done()
			cancelled = true
			return answer{}
		})
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		go f.do(first, "pod-1", document("a"))
		go f.do(second, "pod-2", document("a"))
		synctest.Wait()
		leaveFirst()
		synctest.Wait()
		if cancelled {
			t.Error("the exchange ended with a waiter left")
		}
		leaveSecond()
		synctest.Wait()
		if !cancelled || len(f.byKey) != 0 || f.window.under != 0 {
			t.Errorf("with nobody left: cancelled %v, %d flights, %d places taken", cancelled, len(f.byKey), f.window.under)
		}
	})
}

// fill has a pod use up the window now.
func fill(t *testing.T, f *flights, pod string) {
	t.Helper()
	for i := range windowSize {
		if got := f.do(t.Context(), pod, document(fmt.Sprint("fill-", i))); got.status != 200 {
			t.Fatalf("exchange %d: %+v", i, got)
		}
	}
}

func TestWaitingFlightEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newFlights(clock.RealClock{}, imds.answerAfter(0))
		fill(t, f, "pod-1")
		ctx, leave := context.WithCancel(t.Context())
		go f.do(ctx, "pod-1", document("a"))
		go f.do(ctx, "pod-2", document("a"))
		synctest.Wait()
		leave()
		synctest.Wait()
		if !f.turns.empty() || f.byKey[document("a")] != nil {
			t.Error("a flight that nobody waits for still waits for its turn")
		}
		time.Sleep(windowTime)
		f.do(t.Context(), "pod-2", document("b"))
		if n := imds.count(); n != windowSize+1 {
			t.Errorf("IMDS was asked %d times, want %d", n, windowSize+1)
		}
	})
}

func TestTurnDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights(clock.RealClock{}, func(context.Context, relayRequest) answer {
			time.Sleep(2 * turnTime)
			return answer{status: 200}
		})
		for i := range windowSize {
			go f.do(t.Context(), "pod-1", document(i))
		}
		synctest.Wait()
		begun := time.Now()
		got := f.do(t.Context(), "pod-2", document("a"))
		if took := time.Since(begun); got.status != 429 || got.retryAfter != "1" || took != turnTime {
			t.Errorf("after %v: %+v", took, got)
		}
		time.Sleep(2 * turnTime)
	})
}
