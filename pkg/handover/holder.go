package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Successor is an agent that is ready to take over.
type Successor struct {
	lease *Lease
	conn  *net.UnixConn
}

// acceptPause is how long one that asks waits where there is no descriptor for
// its connection.
const acceptPause = 500 * time.Millisecond

// Successor waits for an agent that asks for the lease. Those that may not
// are turned away, and logged. It returns an error if ctx ends first.
func (l *Lease) Successor(ctx context.Context, log *slog.Logger) (*Successor, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.socket.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = l.socket.SetDeadline(time.Time{})
	}()
	for {
		c, err := l.socket.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil, ctx.Err()
		case workload.Exhausted(err):
			log.Warn("an agent that asks to take over waits", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return nil, fmt.Errorf("handover: accept: %w", err)
		}
		if err := greet(c); err != nil {
			log.Warn("an agent may not take over", "err", err)
			c.Close()
			continue
		}
		return &Successor{lease: l, conn: c}, nil
	}
}

// greet checks who asks, and what it can read.
func greet(c *net.UnixConn) error {
	if err := checkPeer(c); err != nil {
		return err
	}
	m, file, err := receive(c)
	if err != nil {
		return err
	}
	if file != nil {
		file.Close()
	}
	if m.Kind != hello || m.Version != version {
		err := fmt.Errorf("handover: asked in version %d, and version %d is spoken here", m.Version, version)
		return errors.Join(err, send(c, message{Kind: refusal, Reason: err.Error()}, nil))
	}
	return nil
}

// Offer sends all of the estate and the lease, and waits until the successor
// has it. From the call on the caller must not write what the lease is for.
// After an error nothing has changed, and it may again. Tokens too long to be
// sent are left out: a token can be had anew.
func (s *Successor) Offer(e Estate) error {
	items := []struct {
		message
		from syscall.Conn
	}{{message{Kind: lock}, s.lease.lock}, {message{Kind: socket}, s.lease.socket}}
	for _, i := range items {
		if err := send(s.conn, i.message, i.from); err != nil {
			return err
		}
	}
	for _, l := range e.Listeners {
		from, ok := l.Listener.(syscall.Conn)
		if !ok {
			return fmt.Errorf("handover: %T has no descriptor", l.Listener)
		}
		if err := send(s.conn, message{Kind: listener, Listener: &l}, from); err != nil {
			return err
		}
	}
	for _, t := range e.Tokens {
		if len(t) > maxToken {
			continue
		}
		if err := send(s.conn, message{Kind: token, Token: t}, nil); err != nil {
			return err
		}
	}
	if err := send(s.conn, message{Kind: whole}, nil); err != nil {
		return err
	}
	return expect(s.conn, taken)
}

// maxToken leaves room for base64 and the rest of the message.
const maxToken = maxMessage/4*3 - 1024

// Release gives the lease to the successor, who may write from now on. The
// caller must have closed its listeners. An error says that the successor did
// not hear of it; the lease is gone all the same.
func (s *Successor) Release() error {
	return errors.Join(s.lease.forget(), send(s.conn, message{Kind: yours}, nil), s.Close())
}

// Close ends a conversation that led to nothing.
func (s *Successor) Close() error { return s.conn.Close() }
