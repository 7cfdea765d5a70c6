package relay

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// calls lets equal requests share one exchange with the node's IMDS, and gives
// each exchange its turn in the window. Unlike
// golang.org/x/sync/singleflight it keeps answers as long as they hold and ends
// an exchange that has no waiter left. Its size is bounded by Limits.
type calls struct {
	clock    clock.Clock
	limits   Limits
	send     func(ctx context.Context, q Request, sent func()) (Answer, error)
	panicked func(any)

	mu     sync.Mutex
	byKey  map[Request]*call // those that may be shared
	kept   int               // of byKey: those that have ended
	bytes  int               // of the kept answers' bodies
	window window
	queue  fairQueue
	paused time.Time // nothing is sent before
}

// call is one exchange. answer and err are set before done is closed; what
// follows them is guarded by calls.mu.
type call struct {
	key    Request
	ctx    context.Context // ends with the last waiter
	cancel context.CancelFunc
	done   chan struct{}
	answer Answer
	err    error

	waiters int
	started bool
	turn    *podQueue // whose turn it was
	ended   bool
	holds   time.Time // until when the answer holds, once it has ended
	used    time.Time // when it was last asked for
}

func newCalls(c clock.Clock, l Limits, send func(context.Context, Request, func()) (Answer, error), panicked func(any)) *calls {
	return &calls{
		clock: c, limits: l, send: send, panicked: panicked,
		byKey:  map[Request]*call{},
		window: window{clock: c, size: l.PerSecond},
		queue:  fairQueue{waiting: l.Waiting, underWay: l.UnderWay},
	}
}

// do returns the answer to a pod's request, as Relay.Do says.
func (cs *calls) do(ctx context.Context, pod string, key Request) (Answer, error) {
	c, err := cs.join(pod, key)
	if err != nil {
		return Answer{}, err
	}
	defer cs.leave(c)
	if err := cs.awaitTurn(ctx, c); err != nil {
		return Answer{}, err
	}
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// join returns the key's call with one more waiter. It is an error if that
// would be a new one and the pod waits for too many, or IMDS may not be asked.
func (cs *calls) join(pod string, key Request) (*call, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	now := cs.clock.Now()
	c, ok := cs.byKey[key]
	if ok && c.ended && !now.Before(c.holds) {
		cs.forget(c)
		ok = false
	}
	if ok {
		c.waiters++
		c.used = now
		if !c.started {
			cs.queue.add(pod, c) // without one, it comes with another pod's
		}
		return c, nil
	}
	if wait := cs.paused.Sub(now); wait > 0 {
		return nil, &BusyError{wait}
	}
	c = &call{key: key, done: make(chan struct{}), waiters: 1, used: now}
	if !cs.queue.add(pod, c) {
		return nil, &BusyError{time.Second}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if !key.Post {
		cs.byKey[key] = c
	}
	return c, nil
}

// awaitTurn returns nil when the call has started, a *BusyError if that takes
// longer than Limits.Patience, and ctx's error when that ends first.
func (cs *calls) awaitTurn(ctx context.Context, c *call) error {
	for deadline := cs.clock.Now().Add(cs.limits.Patience); ; {
		started, wait, busy := cs.advance(c)
		switch left := deadline.Sub(cs.clock.Now()); {
		case started:
			return nil
		case busy != nil:
			return busy
		case left <= 0:
			return &BusyError{time.Second}
		default:
			wait = min(wait, left)
		}
		timer := cs.clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-c.done: // another waiter has started it
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// advance starts as many calls as it may. It returns whether c is among those
// started so far and, if not, when to try again, or that IMDS must not be
// asked. Every waiter does so: none depends on another, nor on a goroutine
// beside them.
func (cs *calls) advance(c *call) (started bool, wait time.Duration, busy error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.start()
	if pause := cs.paused.Sub(cs.clock.Now()); pause > 0 && !c.started {
		return false, 0, &BusyError{pause}
	}
	return c.started, cs.window.wait(), nil
}

// start starts as many calls as the window and the queue let through. cs.mu is
// held.
func (cs *calls) start() {
	for cs.clock.Now().Compare(cs.paused) >= 0 && cs.window.take() {
		next := cs.queue.next()
		if next == nil {
			cs.window.giveBack()
			return
		}
		next.started = true
		go cs.run(next)
	}
}

func (cs *calls) run(c *call) {
	defer c.cancel()
	left := once(func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		cs.window.release()
	})
	defer close(c.done)
	defer cs.finish(c)
	defer left()
	defer func() {
		if r := recover(); r != nil {
			c.err = fmt.Errorf("%w: panic", ErrUnusable)
			cs.panicked(r)
		}
	}()
	c.answer, c.err = cs.send(c.ctx, c.key, left)
}

// finish keeps what the call brought, and starts what waited for its end.
func (cs *calls) finish(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	now := cs.clock.Now()
	c.ended, c.holds = true, now.Add(min(c.key.Share, cs.limits.Failure))
	if c.err == nil && c.answer.Status == http.StatusOK {
		c.holds = now.Add(c.key.Share)
	}
	if c.err == nil {
		if pause := c.answer.pause(now, cs.limits.LongPause); pause > 0 {
			cs.paused = now.Add(pause)
		}
	}
	cs.queue.finish(c)
	if cs.byKey[c.key] == c {
		cs.kept++
		cs.bytes += len(c.answer.Body)
		cs.makeRoom(now)
	}
	cs.start()
}

// makeRoom forgets answers that hold no more and, beyond the bounds, those that
// were not asked for the longest.
func (cs *calls) makeRoom(now time.Time) {
	for _, c := range cs.byKey {
		if c.ended && !now.Before(c.holds) {
			cs.forget(c)
		}
	}
	for cs.kept > cs.limits.Kept || cs.bytes > cs.limits.KeptBytes {
		var oldest *call
		for _, c := range cs.byKey {
			if c.ended && (oldest == nil || c.used.Before(oldest.used)) {
				oldest = c
			}
		}
		cs.forget(oldest)
	}
}

// forget takes a call that has ended out of those that are shared.
func (cs *calls) forget(c *call) {
	delete(cs.byKey, c.key)
	cs.kept--
	cs.bytes -= len(c.answer.Body)
}

// leave takes a waiter off the call. The last one ends a call that has not
// ended by itself.
func (cs *calls) leave(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c.waiters--
	if c.waiters > 0 || c.ended {
		return
	}
	c.cancel()
	cs.queue.drop(c)
	if cs.byKey[c.key] == c {
		delete(cs.byKey, c.key)
	}
}
