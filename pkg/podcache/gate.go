package podcache

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// pause is how long a reflector waits before it asks again: 3 to 6 s at most,
// where client-go's own waits up to a minute. A new pod that asks is held for
// 25 s, and an API server that comes back may refuse once more: it answers
// before it knows who may do what.
var pause = wait.Backoff{Duration: 800 * time.Millisecond, Factor: 2, Jitter: 1, Cap: 3 * time.Second, Steps: 10}

// gate is shut while the API does not answer for pods. Until it does nothing
// else is asked of it: so many nodes ask an API server in trouble for one
// thing each, not for each of their service accounts as well.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed: it is open
}

// newGate returns a gate that is open.
func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// answered opens the gate, or shuts it if the API has failed.
func (g *gate) answered(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shut := true
	select {
	case <-g.open:
		shut = false
	default:
	}
	switch {
	case err == nil && shut:
		close(g.open)
	case err != nil && !shut:
		g.open = make(chan struct{})
	}
}

// pass waits until the gate is open, and reports whether it was shut. It fails
// if ctx is done first.
func (g *gate) pass(ctx context.Context) (waited bool, err error) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return false, nil
	default:
	}
	select {
	case <-open:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// call is a list or a watch.
type call[T any] = func(context.Context, metav1.ListOptions) (T, error)

// opening returns next, with the gate open or shut as each call went.
func opening[T any](g *gate, next call[T]) call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		t, err := next(ctx, o)
		if ctx.Err() == nil { // else it was given up, and the next one tells
			g.answered(err)
		}
		return t, err
	}
}

// behind returns next, with each call waiting until the gate is open.
func behind[T any](g *gate, next call[T]) call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		if _, err := g.pass(ctx); err != nil {
			var none T
			return none, err
		}
		return next(ctx, o)
	}
}
