package broker

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// peer is what is known about the other end of a connection.
type peer struct {
	conn    workload.Connection
	caller  workload.Caller
	verdict workload.Verdict // when the connection was made
	usage   *usage           // its pod's
	held    time.Duration    // how long attesting it took; 0 after its first token request
	// refused is the answer to whatever is asked on the connection; nil
	// where the caller is proven and may ask.
	refused *answer
}

// peerKey is the context key of a request's *peer.
type peerKey struct{}

// peerConn is a connection as net/http serves it. Closing it counts it out,
// once.
type peerConn struct {
	net.Conn
	server *Server
	peer   *peer
	once   sync.Once

	// net/http reads on one goroutine at a time.
	rest []byte // read already
	// given is what net/http has read of requests that it has not answered, as
	// long as all of them are plain ones; lost: some was not.
	given []byte
	lost  bool
	// between: net/http has read nothing of the next request yet.
	between bool
}

// maxGiven bounds what is kept of requests that net/http has not answered.
const maxGiven = 2 * fastBuffer

// Read reads for net/http. Between two requests it serves itself what needs no
// net/http.
func (c *peerConn) Read(p []byte) (n int, err error) {
	if c.between {
		c.between = false
		var open bool
		if c.rest, open = c.server.serveFast(c.Conn, c.peer, idleTimeout); !open {
			return 0, io.EOF
		}
	}
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	if c.given = append(c.given, p[:n]...); c.lost || len(c.given) > maxGiven {
		c.lost, c.given = true, nil
	}
	return n, err
}

// answered notes that net/http has sent the answer to a request and has not
// read beyond what it was given (http.StateIdle). Only of a plain request is it
// certain where it ends: after another it would be a guess what net/http has
// left in its buffer, and where the next one begins.
func (c *peerConn) answered() {
	_, behind, _ := bytes.Cut(c.given, headerEnd)
	if _, plain := recognize(c.given[:len(c.given)-len(behind)]); !plain {
		c.lost, c.given = true, nil
		return
	}
	c.given = behind
	c.between = len(c.given) == 0
}

// Close closes the connection.
func (c *peerConn) Close() error {
	c.once.Do(func() {
		c.server.limits.disconnect(c.peer.usage)
		c.server.open.Add(-1)
	})
	return c.Conn.Close()
}

// CloseWrite sends the end of the stream. net/http looks for it to let a
// client read the answer before the connection goes, instead of resetting it.
func (c *peerConn) CloseWrite() error {
	return closeWrite(c.Conn)
}

// closeWrite sends the end of the stream, if the connection has one apart from
// its own.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func peerOf(ctx context.Context) *peer { return ctx.Value(peerKey{}).(*peer) }

// noteAnswered tells a connection that net/http waits for its next request.
func noteAnswered(c net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		c.(*peerConn).answered()
	}
}
