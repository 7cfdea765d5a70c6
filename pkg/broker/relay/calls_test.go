package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

const (
	shareTime = time.Minute
	failTime  = time.Second
)

var testLimits = Limits{
	PerSecond: 5, UnderWay: 5, Waiting: 5, Patience: 2 * time.Second, Document: 1 << 20,
	Kept: 64, KeptBytes: 1 << 20, Failure: failTime, LongPause: time.Minute,
}

func newTestCalls(t *testing.T, send func(context.Context, Request, func()) (Answer, error)) *calls {
	return newCalls(clock.RealClock{}, testLimits, send, func(r any) { t.Errorf("panic: %v", r) })
}

// imdsLog records when a stand-in for the exchange was asked, in the bubble's
// own time.
type imdsLog struct {
	mu    sync.Mutex
	asked []time.Time
}

// answerAfter returns an exchange that takes so long at most and reaches IMDS
// somewhere on the way.
func (l *imdsLog) answerAfter(most time.Duration) func(context.Context, Request, func()) (Answer, error) {
	return func(_ context.Context, q Request, sent func()) (Answer, error) {
		before, after := time.Duration(rand.Int64N(int64(most/2)+1)), time.Duration(rand.Int64N(int64(most/2)+1))
		time.Sleep(before)
		l.mu.Lock()
		l.asked = append(l.asked, time.Now())
		l.mu.Unlock()
		sent()
		time.Sleep(after)
		return Answer{Status: 200, Body: []byte(q.Query)}, nil
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

func document(name any) Request {
	return Request{Path: "/metadata/instance", Query: fmt.Sprint(name), Share: shareTime}
}

func TestCallIsSharedUnderWayAndAsLongAsItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newTestCalls(t, imds.answerAfter(100*time.Millisecond))
		var pods sync.WaitGroup
		for i := range 50 {
			pods.Go(func() {
				if got, _ := f.do(t.Context(), fmt.Sprint("pod-", i), document("a")); got.Status != 200 {
					t.Errorf("pod %d: %+v", i, got)
				}
			})
		}
		pods.Wait()
		time.Sleep(shareTime - time.Nanosecond)
		f.do(t.Context(), "pod", document("a"))
		if n := imds.count(); n != 1 {
			t.Errorf("IMDS was asked %d times while the answer held, want 1", n)
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
		f := newTestCalls(t, imds.answerAfter(0))
		for range 2 {
			f.do(t.Context(), "pod", Request{Path: "/metadata/scheduledevents", Post: true})
		}
		if n := imds.count(); n != 2 || len(f.byKey) != 0 {
			t.Errorf("IMDS was asked %d times and %d answers are kept, want 2 and none", n, len(f.byKey))
		}
	})
}

func TestCallEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := false
		f := newTestCalls(t, func(ctx context.Context, _ Request, _ func()) (Answer, error) {
			<-ctx.Done()
			cancelled = true
			return Answer{}, ctx.Err()
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
			t.Errorf("with no caller left: cancelled %v, %d calls, %d places taken", cancelled, len(f.byKey), f.window.under)
		}
	})
}

// fill has a pod use up the window now.
func fill(t *testing.T, f *calls, pod string) {
	t.Helper()
	for i := range testLimits.PerSecond {
		if got, _ := f.do(t.Context(), pod, document(fmt.Sprint("fill-", i))); got.Status != 200 {
			t.Fatalf("exchange %d: %+v", i, got)
		}
	}
}

func TestWaitingCallEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newTestCalls(t, imds.answerAfter(0))
		fill(t, f, "pod-1")
		ctx, leave := context.WithCancel(t.Context())
		go f.do(ctx, "pod-1", document("a"))
		go f.do(ctx, "pod-2", document("a"))
		synctest.Wait()
		leave()
		synctest.Wait()
		if len(f.queue.pods) != 0 || f.byKey[document("a")] != nil {
			t.Error("a call without a caller still waits for its turn")
		}
		time.Sleep(windowTime)
		f.do(t.Context(), "pod-2", document("b"))
		if n := imds.count(); n != testLimits.PerSecond+1 {
			t.Errorf("IMDS was asked %d times, want %d", n, testLimits.PerSecond+1)
		}
	})
}

func TestTurnDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestCalls(t, func(context.Context, Request, func()) (Answer, error) {
			time.Sleep(2 * testLimits.Patience) // and it is not known when it has left
			return Answer{Status: 200}, nil
		})
		for i := range testLimits.PerSecond {
			go f.do(t.Context(), "pod-1", document(i))
		}
		synctest.Wait()
		begun := time.Now()
		_, err := f.do(t.Context(), "pod-2", document("a"))
		busy := &BusyError{}
		if took := time.Since(begun); !errors.As(err, &busy) || busy.RetryAfter != time.Second || took != testLimits.Patience {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(2 * testLimits.Patience)
	})
}

// IMDS may take its time, as it does for scheduled events: a request that has
// left keeps no place, and a pod that waits for slow answers keeps no other
// from its own.
func TestSlowAnswersKeepNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestCalls(t, func(_ context.Context, q Request, sent func()) (Answer, error) {
			sent()
			if q.Post {
				time.Sleep(20 * time.Second)
			}
			return Answer{Status: 200}, nil
		})
		for range 3 * testLimits.PerSecond {
			go f.do(t.Context(), "slow", Request{Path: "/metadata/scheduledevents", Post: true})
		}
		time.Sleep(1500 * time.Millisecond)
		f.mu.Lock()
		if n := f.queue.of("slow").running; n != testLimits.UnderWay {
			t.Errorf("%d exchanges of a pod are under way, want %d", n, testLimits.UnderWay)
		}
		f.mu.Unlock()
		begun := time.Now()
		if got, err := f.do(t.Context(), "modest", document("a")); got.Status != 200 || time.Since(begun) > windowTime {
			t.Errorf("after %v: %+v, %v", time.Since(begun), got, err)
		}
		time.Sleep(time.Minute)
	})
}

// What IMDS says to one it says to all: nobody asks before its time is over,
// and what is kept is still served.
func TestPauseIsForAll(t *testing.T) {
	for _, test := range []struct {
		status int
		after  string
		want   time.Duration
	}{{429, "7", 7 * time.Second}, {429, "", time.Second}, {429, "999999", time.Minute}, {503, "3", 3 * time.Second}, {503, "", 0}, {500, "3", 0}} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			f := newTestCalls(t, func(_ context.Context, q Request, sent func()) (Answer, error) {
				sent()
				if n++; n == 2 {
					return Answer{Status: test.status, RetryAfter: test.after}, nil
				}
				return Answer{Status: 200}, nil
			})
			f.do(t.Context(), "pod-1", document("kept"))
			if got, err := f.do(t.Context(), "pod-1", document("a")); got.Status != test.status || err != nil {
				t.Errorf("who hit the limit gets %+v, %v", got, err)
			}
			if got, err := f.do(t.Context(), "pod-2", document("kept")); got.Status != 200 {
				t.Errorf("a kept answer: %+v, %v", got, err)
			}
			_, err := f.do(t.Context(), "pod-2", document("b"))
			busy := &BusyError{}
			if paused := errors.As(err, &busy); paused != (test.want > 0) || busy.RetryAfter != test.want {
				t.Errorf("%d, Retry-After %q: another pod gets %v, want to wait %v", test.status, test.after, err, test.want)
			}
			time.Sleep(test.want)
			if got, err := f.do(t.Context(), "pod-2", document("c")); got.Status != 200 {
				t.Errorf("afterwards: %+v, %v", got, err)
			}
		})
	}
}

// What failed is asked for again soon, however long a document would hold.
func TestFailuresAreSharedForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		f := newTestCalls(t, func(_ context.Context, _ Request, sent func()) (Answer, error) {
			sent()
			asked++
			return Answer{Status: 404}, nil
		})
		for range 2 {
			f.do(t.Context(), "pod", document("a"))
			f.do(t.Context(), "pod", document("a"))
			time.Sleep(failTime)
		}
		if asked != 2 {
			t.Errorf("IMDS was asked %d times, want 2", asked)
		}
	})
}

// Answers are kept within bounds, and one pod's many do not push out what is
// asked for all the time.
func TestKeptAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var imds imdsLog
		f := newTestCalls(t, imds.answerAfter(0))
		for i := range 3 * testLimits.Kept {
			f.do(t.Context(), "pod", document("used"))
			f.do(t.Context(), "greedy", document(fmt.Sprint("made-up-", i)))
			time.Sleep(200 * time.Millisecond)
		}
		if n := imds.count(); n != 3*testLimits.Kept+1 {
			t.Errorf("IMDS was asked %d times, want %d", n, 3*testLimits.Kept+1)
		}
		if len(f.byKey) > testLimits.Kept || f.kept != len(f.byKey) {
			t.Errorf("%d answers are kept, counted %d", len(f.byKey), f.kept)
		}
		f.limits.KeptBytes = 10
		time.Sleep(2 * time.Second)
		f.do(t.Context(), "pod", document("twelve bytes"))
		if f.kept != 0 || f.bytes != 0 {
			t.Errorf("%d answers of %d bytes are kept", f.kept, f.bytes)
		}
	})
}

// A panic is the call's.
func TestPanicInACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var panicked []any
		f := newCalls(clock.RealClock{}, testLimits, func(_ context.Context, q Request, _ func()) (Answer, error) {
			if q.Query == "bad" {
				panic("here")
			}
			return Answer{Status: 200}, nil
		}, func(r any) { panicked = append(panicked, r) })
		if _, err := f.do(t.Context(), "pod", document("bad")); !errors.Is(err, ErrUnusable) {
			t.Errorf("error %v", err)
		}
		if got, err := f.do(t.Context(), "pod", document("good")); got.Status != 200 {
			t.Errorf("the next: %+v, %v", got, err)
		}
		if len(panicked) != 1 || f.window.under != 0 {
			t.Errorf("panics %v, %d places taken", panicked, f.window.under)
		}
	})
}
