package broker

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// shareTime is how long an answer of the node's IMDS serves equal requests.
const shareTime = time.Second

// flights lets equal requests share one exchange with the node's IMDS. Unlike
// golang.org/x/sync/singleflight it keeps answers for a moment and ends an
// exchange that nobody waits for any more. The window bounds its size.
type flights struct {
	clock  clock.PassiveClock
	window *window
	mu     sync.Mutex
	byKey  map[relayRequest]*flight
}

// flight is one exchange. answer is set before done is closed.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	answer  answer
	waiters int       // under flights.mu
	ended   time.Time // under flights.mu; zero while under way
}

func newFlights(c clock.PassiveClock, w *window) *flights {
	return &flights{clock: c, window: w, byKey: map[relayRequest]*flight{}}
}

// do returns the answer of an exchange for the key: of one under way, of one
// that ended less than shareTime ago, or of a new one, which send makes. The
// context that send gets outlives the first caller's.
func (f *flights) do(ctx context.Context, key relayRequest, send func(context.Context) answer) answer {
	fl := f.join(key, send)
	if fl == nil {
		return throttled(shareTime)
	}
	defer f.leave(key, fl)
	select {
	case <-fl.done:
		return fl.answer
	case <-ctx.Done():
		return throttled(shareTime) // for nobody: the client has left
	}
}

// join returns the key's flight with one more waiter, nil if a new one would
// exceed the window.
func (f *flights) join(key relayRequest, send func(context.Context) answer) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	for k, fl := range f.byKey {
		if !fl.ended.IsZero() && now.Sub(fl.ended) >= shareTime {
			delete(f.byKey, k)
		}
	}
	if fl, ok := f.byKey[key]; ok {
		fl.waiters++
		return fl
	}
	if !f.window.take() {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	fl := &flight{done: make(chan struct{}), cancel: cancel, waiters: 1}
	f.byKey[key] = fl
	go f.run(ctx, fl, send)
	return fl
}

func (f *flights) run(ctx context.Context, fl *flight, send func(context.Context) answer) {
	defer fl.cancel()
	fl.answer = send(ctx)
	f.mu.Lock()
	fl.ended = f.clock.Now()
	f.mu.Unlock()
	close(fl.done)
}

// leave takes a waiter off the flight. The last one ends a flight that is
// still under way.
func (f *flights) leave(key relayRequest, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if fl.waiters > 0 || !fl.ended.IsZero() {
		return
	}
	fl.cancel()
	delete(f.byKey, key)
}
