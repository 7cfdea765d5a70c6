package handover

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// short has every step time out soon.
func short(t *testing.T) {
	t.Helper()
	former := stepTimeout.Swap(int64(50 * time.Millisecond))
	t.Cleanup(func() { stepTimeout.Store(former) })
}

// offered returns the holder's end of a hand-over, once all has been sent and
// the successor has confirmed it, and what Take then returns.
func offered(ctx context.Context, t *testing.T, l *Lock) (*Successor, <-chan taking) {
	t.Helper()
	done := make(chan taking, 1)
	go func() {
		lock, state, err := Take(ctx, filepath.Dir(l.path))
		done <- taking{lock, state, err}
	}()
	s, err := l.Successor(t.Context(), quiet)
	check(t, err)
	check(t, send(s.conn, message{Kind: lock}, l.file))
	check(t, send(s.conn, message{Kind: socket}, l.socket))
	check(t, send(s.conn, message{Kind: whole}, nil))
	check(t, expect(s.conn, taken))
	return s, done
}

type taking struct {
	lock  *Lock
	state *State
	err   error
}

// A holder that has no processor for longer than a step may take has decided to
// let go: a successor that gives up meanwhile would leave listeners without an owner.
func TestASlowHolderIsWaitedFor(t *testing.T) {
	short(t)
	l := acquire(t, stateDir(t))
	s, done := offered(t.Context(), t, l)
	select {
	case got := <-done:
		t.Fatalf("given up: %v", got.err)
	case <-time.After(5 * step()):
	}
	check(t, send(s.conn, message{Kind: yours}, nil))
	got := <-done
	check(t, errors.Join(got.err, s.Release()))
	check(t, got.lock.Release())
}

// A successor that was asked to stop while it waits either has the lock or has
// left it: what the holder says later, it cannot send.
func TestASuccessorThatEndsWhileItWaits(t *testing.T) {
	dir := stateDir(t)
	l := acquire(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	s, done := offered(ctx, t, l)
	cancel()
	if got := <-done; got.err == nil {
		t.Fatal("Take = nil, and the lock was not given")
	}
	if err := send(s.conn, message{Kind: yours}, nil); err == nil {
		t.Error("the holder believes that the lock has passed")
	}
	check(t, s.Close())
	if _, err := Acquire(dir); !errors.Is(err, ErrHeld) {
		t.Errorf("Acquire = %v, want ErrHeld", err)
	}
	check(t, l.Release())
}

// So does one of before, which gives up after a step's time: the holder keeps
// its listeners until it is heard.
func TestASuccessorThatHasGivenUp(t *testing.T) {
	dir := stateDir(t)
	l, e := acquire(t, dir), state(t)
	offered := make(chan error, 1)
	go func() {
		s, err := l.Successor(t.Context(), quiet)
		if err == nil {
			err = errors.Join(s.Offer(e), s.Close())
		}
		offered <- err
	}()
	c := dial(t, dir)
	defer c.Close()
	check(t, send(c, message{Kind: hello, Version: 1}, nil))
	for {
		m, file, err := receive(c)
		check(t, err)
		if file != nil {
			file.Close()
		}
		if m.Kind == whole {
			break
		}
	}
	check(t, c.CloseRead()) // it hears nothing any more
	check(t, send(c, message{Kind: taken}, nil))
	if err := <-offered; err == nil {
		t.Error("the holder has released the lock, and the successor does not know")
	}
	check(t, l.Release())
}
