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
	lock    *Lock
	conn    *net.UnixConn
	version int // in which they talk
}

// acceptPause is how long one that asks waits where there is no descriptor for
// its connection.
const acceptPause = 500 * time.Millisecond

// Successor waits for an agent that asks for the lock. Those that may not
// are turned away, and logged. It returns an error if ctx ends first.
func (l *Lock) Successor(ctx context.Context, log *slog.Logger) (*Successor, error) {
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
		version, err := greet(c, spoken)
		if err != nil {
			log.Warn("an agent may not take over", "err", err)
			c.Close()
			continue
		}
		return &Successor{lock: l, conn: c, version: version}, nil
	}
}

// greet checks who asks, and returns the version in which to talk. An agent
// that speaks none of these gets an error that names them.
func greet(c *net.UnixConn, speak versions) (version int, err error) {
	if err := checkPeer(c); err != nil {
		return 0, err
	}
	m, file, err := receive(c)
	if err != nil {
		return 0, err
	}
	if err := m.mustBe(hello, file); err != nil {
		return 0, err
	}
	version = speak.common(m.speaks())
	if version == 0 {
		err := fmt.Errorf("handover: the next agent speaks %s, the running one %s: "+
			"roll out a release in between, or delete the running agent's pod, which serves on while steered pods run", m.speaks(), speak)
		return 0, errors.Join(err, send(c, message{Kind: refusal, Reason: err.Error()}, nil))
	}
	if version > 1 {
		return version, send(c, message{Kind: agreed, Version: version}, nil)
	}
	return version, nil
}

// Offer sends all of the state and the lock, waits until the successor has it
// and says that it is the successor's. From the call on the caller must not
// write what the lock is for. After an error nothing has changed, and it may
// again: the successor has not heard that it may write, and has given back what
// it had, however late this agent was. Without an error the successor serves,
// and the caller closes its listeners later. Tokens too long to be sent
// are left out: a token can be had again.
func (s *Successor) Offer(state State) error {
	items := []struct {
		message
		from syscall.Conn
	}{{message{Kind: lock}, s.lock.file}, {message{Kind: socket}, s.lock.socket}}
	for _, i := range items {
		if err := send(s.conn, i.message, i.from); err != nil {
			return err
		}
	}
	for _, l := range state.Listeners {
		from, ok := l.Listener.(syscall.Conn)
		if !ok {
			return fmt.Errorf("handover: %T has no descriptor", l.Listener)
		}
		if err := send(s.conn, message{Kind: listener, Listener: &l}, from); err != nil {
			return err
		}
	}
	for _, t := range state.Tokens {
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
	if err := expect(s.conn, taken); err != nil {
		return err
	}
	// The one point at which the lock passes: what cannot be sent, because the
	// successor has given up, has not passed.
	return send(s.conn, message{Kind: yours}, nil)
}

// maxToken leaves room for base64 and the rest of the message.
const maxToken = maxMessage/4*3 - 1024

// Release closes this agent's copies of the lock that Offer has passed on.
func (s *Successor) Release() error { return errors.Join(s.lock.forget(), s.Close()) }

// Close ends a conversation that led to nothing.
func (s *Successor) Close() error { return s.conn.Close() }
