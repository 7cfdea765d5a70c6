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

// Take asks the agent that holds the lease of the state directory for it and
// for all that it has, and returns both once they have passed. The caller must
// be ready to serve. After an error the other agent goes on as before, or has
// died, when Acquire will get the lease. An agent that is slow to let go is
// waited for until it has, it dies or ctx ends; if it dies, what came of it is
// returned.
func Take(ctx context.Context, stateDir string) (_ *Lease, _ *Estate, err error) {
	return take(ctx, stateDir, spoken)
}

func take(ctx context.Context, stateDir string, speak versions) (_ *Lease, _ *Estate, err error) {
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
	h := heritage{lease: &Lease{path: path}, speak: speak, estate: Estate{Version: 1}} // unless another is agreed
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := h.receiveAll(c); err != nil {
		return nil, nil, err
	}
	// From here on the other agent may let go at any moment: the connection must
	// not be closed before it is known whether it has.
	if !stop() {
		return nil, nil, ctx.Err()
	}
	if err = send(c, message{Kind: taken}, nil); err == nil {
		err = awaitLease(ctx, c)
	}
	if err == nil {
		return h.lease, &h.estate, nil
	}
	if lease, ok := h.outlive(stateDir); ok {
		return lease, &h.estate, nil
	}
	return nil, nil, err
}

// awaitLease waits until the holder says that the lease has passed, for as long
// as it takes: one that has no processor may have decided to let go already.
// When ctx ends the socket is shut, so that it has either said so before, or
// cannot any more and goes on.
func awaitLease(ctx context.Context, c *net.UnixConn) error {
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

// heritage is what has come so far.
type heritage struct {
	lease  *Lease
	estate Estate
	speak  versions
}

func (h *heritage) receiveAll(c *net.UnixConn) error {
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
func (h *heritage) add(m message, file *os.File) (done bool, err error) {
	if m.Kind == lock && file != nil && h.lease.lock == nil {
		h.lease.lock = file // the lock is the open file's, whoever holds it
		return false, nil
	}
	if file != nil {
		defer file.Close()
	}
	switch {
	case m.Kind == socket && file != nil && h.lease.socket == nil:
		l, err := net.FileListener(file)
		if err != nil {
			return false, fmt.Errorf("handover: the socket: %w", err)
		}
		h.lease.socket = l.(*net.UnixListener)
		h.lease.socket.SetUnlinkOnClose(false)
	case m.Kind == listener && file != nil && m.Listener != nil:
		l, err := net.FileListener(file)
		if err != nil {
			return false, fmt.Errorf("handover: a listener: %w", err)
		}
		m.Listener.Listener = l
		h.estate.Listeners = append(h.estate.Listeners, *m.Listener)
	case m.Kind == agreed && m.Version >= h.speak.Lowest && m.Version <= h.speak.Highest:
		h.estate.Version = m.Version // nothing of what follows differs between the versions yet
	case m.Kind == token:
		h.estate.Tokens = append(h.estate.Tokens, m.Token)
	case m.Kind == whole:
		return true, nil
	case m.Kind == refusal:
		return false, fmt.Errorf("handover: the running agent refuses: %s", m.Reason)
	default:
		return false, fmt.Errorf("handover: unexpected message %q", m.Kind)
	}
	return false, nil
}

func (h *heritage) complete() error {
	if h.lease.lock == nil || h.lease.socket == nil {
		return errors.New("handover: the running agent gave no lease")
	}
	return nil
}

// outlive returns a new lease if the holder has died: nobody else has its
// listeners then, and clients wait in their queues. The lock that came is the
// holder's own, so it is given back first.
func (h *heritage) outlive(stateDir string) (*Lease, bool) {
	h.closeLease()
	lease, err := Acquire(stateDir)
	return lease, err == nil
}

// close gives back what has come: the holder still has its own copies.
func (h *heritage) close() {
	_ = h.estate.Close()
	h.closeLease()
}

func (h *heritage) closeLease() {
	if h.lease.lock != nil {
		_ = h.lease.lock.Close()
	}
	if h.lease.socket != nil {
		_ = h.lease.socket.Close()
	}
	h.lease.lock, h.lease.socket = nil, nil
}
