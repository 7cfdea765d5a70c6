package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Take asks the agent that holds the lock of the state directory for it and
// for all that it has, and returns both once they have passed. The caller must
// be ready to serve. After an error the other agent goes on as before, or has
// died, when Acquire will get the lock. An agent that is slow to release it is
// waited for until it has, it dies or ctx ends; if it dies, what has
// arrived is returned.
func Take(ctx context.Context, stateDir string) (_ *Lock, _ *State, err error) {
	return take(ctx, stateDir, spoken)
}

func take(ctx context.Context, stateDir string, speak versions) (_ *Lock, _ *State, err error) {
	path := filepath.Join(stateDir, socketName)
	dialed, err := (&net.Dialer{Timeout: step()}).DialContext(ctx, network, path)
	if err != nil {
		return nil, nil, fmt.Errorf("handover: %w", err)
	}
	c := dialed.(*net.UnixConn)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := checkPeer(c); err != nil {
		return nil, nil, err
	}
	if err := send(c, message{Kind: hello, Version: speak.Lowest, Highest: speak.Highest}, nil); err != nil {
		return nil, nil, err
	}
	h := received{lock: &Lock{path: path}, speak: speak, state: State{Version: 1}} // unless another is agreed
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := h.receiveAll(c); err != nil {
		return nil, nil, err
	}
	// From here on the other agent may release the lock at any moment: the connection must
	// not be closed before it is known whether it has.
	if !stop() {
		return nil, nil, ctx.Err()
	}
	if err = send(c, message{Kind: taken}, nil); err == nil {
		err = awaitLock(ctx, c)
	}
	if err == nil {
		return h.lock, &h.state, nil
	}
	if lock, ok := h.outlive(stateDir); ok {
		return lock, &h.state, nil
	}
	return nil, nil, err
}

// awaitLock waits until the holder says that the lock has passed, for as long
// as it takes: one that has no processor may have released it already.
// When ctx ends the socket is shut, so that it has either said so before, or
// cannot any more and goes on.
func awaitLock(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.CloseRead() })
	defer stop()
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	m, file, err := read(c)
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return m.mustBe(yours, file)
}

// received is what has come so far.
type received struct {
	lock  *Lock
	state State
	speak versions
}

func (h *received) receiveAll(c *net.UnixConn) error {
	for {
		m, file, err := receive(c)
		if err != nil {
			return err
		}
		done, err := h.add(m, file)
		if err != nil {
			return err
		}
		if done {
			return h.complete()
		}
	}
}

// add takes in one message, and its descriptor; true after the last one.
func (h *received) add(m message, file *os.File) (done bool, err error) {
	if m.Kind == lock && file != nil && h.lock.file == nil {
		h.lock.file = file // the lock is the open file's, whoever holds it
		return false, nil
	}
	if file != nil {
		defer file.Close()
	}
	switch {
	case m.Kind == socket && file != nil && h.lock.socket == nil:
		l, err := net.FileListener(file)
		if err != nil {
			return false, fmt.Errorf("handover: the socket: %w", err)
		}
		h.lock.socket = l.(*net.UnixListener)
		h.lock.socket.SetUnlinkOnClose(false)
	case m.Kind == listener && file != nil && m.Listener != nil:
		l, err := net.FileListener(file)
		if err != nil {
			return false, fmt.Errorf("handover: a listener: %w", err)
		}
		m.Listener.Listener = l
		h.state.Listeners = append(h.state.Listeners, *m.Listener)
	case m.Kind == agreed && m.Version >= h.speak.Lowest && m.Version <= h.speak.Highest:
		h.state.Version = m.Version // nothing of what follows differs between the versions yet
	case m.Kind == token:
		h.state.Tokens = append(h.state.Tokens, m.Token)
	case m.Kind == whole:
		return true, nil
	case m.Kind == refusal:
		return false, fmt.Errorf("handover: the running agent refuses: %s", m.Reason)
	default:
		return false, fmt.Errorf("handover: unexpected message %q", m.Kind)
	}
	return false, nil
}

func (h *received) complete() error {
	if h.lock.file == nil || h.lock.socket == nil {
		return errors.New("handover: the running agent gave no lock")
	}
	return nil
}

// outlive returns a new lock if the holder has died: no other process has its
// listeners then, and clients wait in their queues. The lock that came is the
// holder's own, so it is given back first.
func (h *received) outlive(stateDir string) (*Lock, bool) {
	h.closeLock()
	lock, err := Acquire(stateDir)
	return lock, err == nil
}

// close gives back what has come: the holder still has its own copies.
func (h *received) close() {
	_ = h.state.Close()
	h.closeLock()
}

func (h *received) closeLock() {
	if h.lock.file != nil {
		_ = h.lock.file.Close()
	}
	if h.lock.socket != nil {
		_ = h.lock.socket.Close()
	}
	h.lock.file, h.lock.socket = nil, nil
}
