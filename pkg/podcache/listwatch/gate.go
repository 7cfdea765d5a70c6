package listwatch

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Gate is shut while the API does not answer for pods. Until it does nothing
// else is asked of it: so many nodes ask an API server in trouble for one
// thing each, not for each of their service accounts as well.
type Gate struct {
	mu   sync.Mutex
	open chan struct{} // closed: it is open
}

// NewGate returns a gate that is open.
func NewGate() *Gate {
	g := &Gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// Answered opens the gate, or shuts it if the API has failed.
func (g *Gate) Answered(err error) {
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

// Pass waits until the gate is open, and reports whether it was shut. It fails
// if ctx is done first.
func (g *Gate) Pass(ctx context.Context) (waited bool, err error) {
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

// Call is a list or a watch.
type Call[T any] = func(context.Context, metav1.ListOptions) (T, error)

// Opening returns next, with the gate open or shut as each call went.
func Opening[T any](g *Gate, next Call[T]) Call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		t, err := next(ctx, o)
		if ctx.Err() == nil { // else it was given up, and the next one tells
			g.Answered(err)
		}
		return t, err
	}
}

// Behind returns next, with each call waiting until the gate is open.
func Behind[T any](g *Gate, next Call[T]) Call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		if _, err := g.Pass(ctx); err != nil {
			var none T
			return none, err
		}
		return next(ctx, o)
	}
}
