package broker

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

// httpConn is a connection as net/http serves it. net/http reads on one
// goroutine at a time.
type httpConn struct {
	*conn
	rest []byte // read already
	// given is what net/http has read of requests that it has not answered, as
	// long as all of them are plain ones; lost: some was not.
	given []byte
	lost  bool
	// between: net/http has read nothing of the next request yet.
	between bool
	// interrupted has a value once net/http wants a Read to end.
	interrupted chan struct{}
}

// maxGiven bounds what is kept of requests that net/http has not answered.
const maxGiven = 2 * fastBuffer

// newHTTPConn returns a connection of which rest was read already.
func newHTTPConn(c *conn, rest []byte) *httpConn {
	return &httpConn{conn: c, rest: rest, lost: c.refused != nil, interrupted: make(chan struct{}, 1)}
}

// Read reads for net/http. Between two requests it serves itself what needs no
// net/http.
func (c *httpConn) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil { // net/http has goroutines that do not recover
			c.server.panicked(v)
			_ = c.Close()
			n, err = 0, net.ErrClosed
		}
	}()
	if c.between {
		c.between = false
		var open bool
		if c.rest, open = serveFast(c.conn, idleTimeout); !open {
			return 0, io.EOF
		}
	}
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	if n == 0 && errors.Is(err, io.EOF) && c.slot.State() == connlimit.Serving {
		err = c.outlastEOF()
	}
	if n > 0 && c.slot.State() == connlimit.Idle && !c.begin(p[:n]) {
		return 0, net.ErrClosed
	}
	if c.given = append(c.given, p[:n]...); c.lost || len(c.given) > maxGiven {
		c.lost, c.given = true, nil
	}
	return n, err
}

// begin notes that a request has begun with those bytes; false if the
// connection was closed for another.
func (c *conn) begin(text []byte) bool {
	state := connlimit.Reading
	if bytes.Contains(text, headerEnd) {
		state = connlimit.Serving
	}
	return c.slot.Set(state, time.Now())
}

// outlastEOF waits while a request is worked on whose client has sent the end
// of the stream: a client may close its sending side and wait for the answer,
// and net/http takes it for gone. It returns what Read should: EOF after
// halfClosedTime, a timeout if net/http wants the Read to end before.
func (c *httpConn) outlastEOF() error {
	timer := time.NewTimer(halfClosedTime) // sockets have no other clock
	defer timer.Stop()
	select {
	case <-c.interrupted:
		return os.ErrDeadlineExceeded
	case <-timer.C:
		return io.EOF
	}
}

// SetReadDeadline implements net.Conn. With a deadline in the past net/http
// ends a Read that it has going on beside the handler.
func (c *httpConn) SetReadDeadline(t time.Time) error {
	select {
	case <-c.interrupted:
	default:
	}
	if !t.IsZero() && t.Before(time.Now()) {
		c.interrupted <- struct{}{}
	}
	return c.Conn.SetReadDeadline(t)
}

// answered notes that net/http has sent the answer to a request and has not
// read beyond what it was given (http.StateIdle). Only of a plain request is it
// certain where it ends: after another it would be a guess what net/http has
// left in its buffer, and where the next one begins.
func (c *httpConn) answered() {
	c.slot.Set(connlimit.Idle, time.Now())
	_, behind, _ := bytes.Cut(c.given, headerEnd)
	if _, plain := recognize(c.given[:len(c.given)-len(behind)]); !plain {
		c.lost, c.given = true, nil
		return
	}
	c.given = behind
	c.between = len(c.given) == 0
}

// noteAnswered tells a connection that net/http waits for its next request.
func noteAnswered(c net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		c.(*httpConn).answered()
	}
}

// connListener is the http.Server's listener: it accepts what deliver gives it.
type connListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newConnListener() *connListener {
	return &connListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// deliver hands the connection to Accept, or closes it after Close.
func (l *connListener) deliver(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

// Accept returns the next connection; net.ErrClosed after Close.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and deliver.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the zero address: the real ones are delivery's.
func (l *connListener) Addr() net.Addr { return &net.TCPAddr{} }
