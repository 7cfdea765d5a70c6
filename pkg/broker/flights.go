package broker

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// shareTime is how long an answer of the node's IMDS serves equal requests.
	shareTime = time.Second
	// turnTime is how long a request waits for the window before its caller is
	// told to come again. Two seconds are ten turns.
	turnTime = 2 * time.Second
)

// flights lets equal requests share one exchange with the node's IMDS, and
// gives each exchange its turn in the window. Unlike
// golang.org/x/sync/singleflight it keeps answers for a moment and ends an
// exchange that nobody waits for any more. Its size is bounded by the window
// and by maxTurns for each pod.
type flights struct {
	clock clock.Clock
	send  func(context.Context, relayRequest) answer

	mu     sync.Mutex
	byKey  map[relayRequest]*flight // those that may be shared
	window window
	turns  turns
}

// flight is one exchange. answer is set before done is closed; what follows it
// stands under flights.mu.
type flight struct {
	key    relayRequest
	ctx    context.Context // ends when nobody waits any more
	cancel context.CancelFunc
	done   chan struct{}
	answer answer

	waiters int
	started bool
	ended   time.Time // zero until then
}

func newFlights(c clock.Clock, send func(context.Context, relayRequest) answer) *flights {
	return &flights{clock: c, send: send, byKey: map[relayRequest]*flight{}, window: window{clock: c}}
}

// do returns the answer to a pod's request: that of an equal request under way
// or ended less than shareTime ago, or of an exchange of its own. It is 429
// where the pod waits for too many already or its turn does not come in
// turnTime.
func (f *flights) do(ctx context.Context, pod string, key relayRequest) answer {
	fl := f.join(pod, key)
	if fl == nil {
		return throttled(shareTime)
	}
	defer f.leave(fl)
	if !f.awaitTurn(ctx, fl) {
		return throttled(shareTime)
	}
	select {
	case <-fl.done:
		return fl.answer
	case <-ctx.Done():
		return throttled(shareTime) // for nobody: the client has left
	}
}

// join returns the key's flight with one more waiter; nil if it would be a new
// one and the pod waits for too many.
func (f *flights) join(pod string, key relayRequest) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, fl := range f.byKey {
		if !fl.ended.IsZero() && f.clock.Since(fl.ended) >= shareTime {
			delete(f.byKey, k)
		}
	}
	if fl, ok := f.byKey[key]; ok {
		fl.waiters++
		if !fl.started {
			f.turns.add(pod, fl) // without one, it comes with another pod's
		}
		return fl
	}
	fl := &flight{key: key, done: make(chan struct{}), waiters: 1}
	if !f.turns.add(pod, fl) {
		return nil
	}
	fl.ctx, fl.cancel = context.WithCancel(context.Background())
	if !key.post {
		f.byKey[key] = fl
	}
	return fl
}

// awaitTurn returns true when the flight has started, false if that takes
// longer than turnTime or ctx.
func (f *flights) awaitTurn(ctx context.Context, fl *flight) bool {
	for deadline := f.clock.Now().Add(turnTime); ; {
		started, wait := f.advance(fl)
		if started {
			return true
		}
		left := deadline.Sub(f.clock.Now())
		if left <= 0 {
			return false
		}
		timer := f.clock.NewTimer(min(wait, left))
		select {
		case <-timer.C():
		case <-fl.done: // another waiter has started it
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// advance starts as many flights as the window lets through. It returns whether
// fl is among those started till now and, if not, when to come again. Every
// waiter does so: none depends on another, nor on a goroutine beside them.
func (f *flights) advance(fl *flight) (started bool, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.turns.empty() && f.window.take() {
		next := f.turns.next()
		next.started = true
		go f.run(next)
	}
	return fl.started, f.window.wait()
}

func (f *flights) run(fl *flight) {
	defer fl.cancel()
	fl.answer = f.send(fl.ctx, fl.key)
	f.mu.Lock()
	fl.ended = f.clock.Now()
	f.window.release()
	f.mu.Unlock()
	close(fl.done)
}

// leave takes a waiter off the flight. The last one ends a flight that has not
// ended by itself.
func (f *flights) leave(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if fl.waiters > 0 || !fl.ended.IsZero() {
		return
	}
	fl.cancel()
	f.turns.drop(fl)
	if f.byKey[fl.key] == fl {
		delete(f.byKey, fl.key)
	}
}
