package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Take asks the agent that holds the lease of the state directory for it and
// for all that it has, and returns both once that agent has let go. The caller
// must be ready to serve. After an error the other agent goes on as before, or
// has died, when Acquire will get the lease.
func Take(ctx context.Context, stateDir string) (_ *Lease, _ *Estate, err error) {
	path := filepath.Join(stateDir, socketName)
	dialed, err := (&net.Dialer{Timeout: stepTimeout}).DialContext(ctx, network, path)
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
	if err := send(c, message{Kind: hello, Version: version}, nil); err != nil {
		return nil, nil, err
	}
	h := heritage{lease: &Lease{path: path}}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := h.receiveAll(c); err != nil {
		return nil, nil, err
	}
	// From here on the other agent may let go at any moment: no way back.
	if !stop() {
		return nil, nil, ctx.Err()
	}
	if err := send(c, message{Kind: taken}, nil); err != nil {
		return nil, nil, err
	}
	if err := expect(c, yours); err != nil {
		return nil, nil, err
	}
	return h.lease, &h.estate, nil
}

// heritage is what has come so far.
type heritage struct {
	lease  *Lease
	estate Estate
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

// close gives back what has come: the holder still has its own copies.
func (h *heritage) close() {
	_ = h.estate.Close()
	if h.lease.lock != nil {
		_ = h.lease.lock.Close()
	}
	if h.lease.socket != nil {
		_ = h.lease.socket.Close()
	}
}
