package broker

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// peer is what is known about the other end of a connection.
type peer struct {
	conn   workload.Connection
	caller workload.Caller
	held   time.Duration // how long attesting it took; 0 after its first token request
	// refused is the answer to whatever is asked on the connection; nil
	// where the caller is proven and may ask.
	refused *answer
}

// peerKey is the context key of a request's *peer.
type peerKey struct{}

// peerConn is a connection with its peer. Closing it calls release, once.
type peerConn struct {
	net.Conn
	peer    *peer
	release func()
	once    sync.Once
}

// Close closes the connection.
func (c *peerConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// CloseWrite sends the end of the stream. net/http looks for it to let a
// client read the answer before the connection goes, instead of resetting it.
func (c *peerConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func peerOf(ctx context.Context) *peer { return ctx.Value(peerKey{}).(*peer) }

// handover is the http.Server's listener: it accepts what deliver gives it.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

// deliver hands the connection to Accept, or closes it after Close.
func (h *handover) deliver(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept returns the next connection; net.ErrClosed after Close.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and deliver.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr returns an address that is nobody's: the real ones are delivery's.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }
