package broker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// conn is one accepted connection, from accept to close. Its story is
// HandleConn's: who calls (attest), whether there is room (admit), waiting until
// the caller is known (await), and serving it.
type conn struct {
	// Conn is read from and written to: the accepted connection or, once bytes
	// of it were read ahead, one that returns them first.
	net.Conn
	accepted net.Conn
	server   *Server

	flow    workload.Connection
	caller  workload.Caller
	verdict workload.Verdict // when the connection was made
	// refused is the answer to whatever is asked on the connection; nil
	// where the caller is proven and may ask.
	refused *answer

	slot   *connlimit.Conn
	usage  *usage // its pod's
	closed atomic.Bool

	life    context.Context    // of the waiting for the caller to become known
	endLife context.CancelFunc // nil where that is not waited for
	waited  time.Duration      // how long that took; 0 after the first token request

	overLimit bool // the last request was over the pod's limits
}

// attest finds out who is at the other end, without waiting.
func (c *conn) attest(netnsCookie uint64) {
	s := c.server
	var err error
	if c.flow, err = s.attester.Inspect(c.accepted, netnsCookie); err == nil {
		c.caller, c.verdict, err = s.attester.Attest(c.flow)
	}
	if err != nil {
		c.refuse(err)
	}
}

// held reports whether it is not known yet who calls.
func (c *conn) held() bool { return c.refused == nil && c.verdict == workload.Unknown }

// admit counts the connection in; false if it is over a bound. Callers that
// are not proven count as one pod, of UID "".
func (c *conn) admit() bool {
	s, state := c.server, connlimit.Idle
	if c.held() {
		state = connlimit.Held
		c.life, c.endLife = context.WithTimeout(s.life, hold)
	}
	perPod := connsPerRequest * s.settings.Load().Limits.Concurrent
	if c.slot = s.conns.Add(c.caller.PodUID, state, perPod, time.Now(), c); c.slot == nil {
		return false
	}
	c.usage = s.usages.connect(c.caller.PodUID)
	return true
}

// Evict implements connlimit.Evictee. A client that waits for an answer gets
// one.
func (c *conn) Evict(was connlimit.State) {
	c.server.metrics.evicted(was)
	if was != connlimit.Idle {
		_ = c.accepted.SetWriteDeadline(time.Now().Add(evictTime))
		a := tryAgain()
		_, _ = c.accepted.Write(a.bytes())
		_ = closeWrite(c.accepted)
	}
	_ = c.accepted.Close()
	if c.endLife != nil {
		c.endLife()
	}
}

// Close closes the connection and counts it out.
func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		if c.slot != nil {
			c.slot.Remove()
			c.server.usages.disconnect(c.usage)
		}
		if c.endLife != nil {
			c.endLife()
		}
	}
	return c.accepted.Close()
}

// CloseWrite sends the end of the stream. net/http looks for it to let a
// client read the answer before the connection goes, instead of resetting it.
func (c *conn) CloseWrite() error { return closeWrite(c.accepted) }

// recovered ends the connection after a panic. It is to be deferred.
func (c *conn) recovered() {
	if v := recover(); v != nil {
		c.server.panicked(v)
		_ = c.Close()
	}
}

// refuse has the caller get no answer but a refusal: "try again" where its pod
// is only not known yet, else 403.
func (c *conn) refuse(err error) {
	a := forbidden("The caller of this connection is not known")
	a.close = true
	if isUnknown(err) {
		a = tryAgain()
	}
	c.refused = &a
	s := c.server
	if skipped, ok := s.connLines.spend(s.clock.Now()); ok {
		s.log.Warn("connection refused", "client", c.flow.Client, "server", c.flow.Server,
			"netns_cookie", c.flow.NetnsCookie, "status", a.status, "err", err, "not_logged", skipped)
	}
}

// serveProven serves a proven caller's connection without net/http, as far as
// that goes. It returns what it has read of what is left to net/http; false if
// the connection has ended.
func (c *conn) serveProven() (rest []byte, open bool) {
	switch {
	case c.refused != nil:
		return nil, true
	case c.verdict == workload.Pass && c.server.passes(c.caller):
		if !c.slot.Set(connlimit.Serving, time.Now()) || c.server.passOn(c.Conn, c.caller) == nil {
			return nil, false
		}
		c.slot.Set(connlimit.Idle, time.Now())
	}
	return serveFast(c, readHeaderTimeout)
}

// sendLast sends an answer and the end of the stream, and waits until the
// client has read both or the connection's deadline: what it has sent must be
// read, or the close would be a reset.
func (c *conn) sendLast(a answer) {
	if _, err := c.Write(a.bytes()); err == nil && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, maxForm))
	}
}

// outcome is what the waiting for a caller has brought.
type outcome struct {
	verdict workload.Verdict
	err     error
}

var (
	errLeft     = errors.New("the client has left")
	errAnswered = errors.New("the client was answered 429")
	errPanic    = errors.New("panic")
)

// await holds the connection until its caller is known, 25 s at most. It
// returns false if the connection has ended: the client has left, or got
// 429.
func (c *conn) await() bool {
	s := c.server
	defer c.endLife()
	begun := s.clock.Now()
	known := make(chan outcome, 1)
	go func() {
		o := outcome{err: errPanic}
		defer func() {
			if v := recover(); v != nil {
				s.panicked(v)
			}
			known <- o
		}()
		o.verdict, o.err = s.attester.Await(c.life, c.flow, c.caller)
	}()
	timer := s.clock.NewTimer(probeAfter)
	defer timer.Stop()
	var o outcome
	select {
	case o = <-known:
	case <-timer.C():
		o = c.early(known)
	}
	if errors.Is(o.err, errLeft) || errors.Is(o.err, errAnswered) {
		return false
	}
	if c.verdict = o.verdict; o.err != nil {
		c.refuse(o.err)
	}
	c.waited = s.clock.Since(begun)
	return c.slot.Set(connlimit.Idle, time.Now())
}

// early reads what a caller sends while it is not known yet who calls. A client
// that looks for an IMDS waits for 300 ms, a caller may be held for much
// longer: what has the same answer whoever asks is answered, and who asks for
// metadata gets 429 after a moment. Everything else that was read
// is read again from Conn.
func (c *conn) early(known <-chan outcome) outcome {
	stop := make(chan struct{})
	defer close(stop)
	ahead := c.readAhead(stop)
	pieces := ahead // nil once the last one is here
	var text []byte
	var patience <-chan time.Time
	for {
		select {
		case o := <-known:
			_ = c.accepted.SetReadDeadline(time.Unix(1, 0)) // ends the reading
			for p := range ahead {
				text = append(text, p.text...)
			}
			_ = c.accepted.SetReadDeadline(time.Time{})
			if len(text) > 0 {
				c.Conn = &reread{Conn: c.accepted, first: bytes.NewReader(text)}
			}
			return o
		case p := <-pieces:
			text = append(text, p.text...)
			if p.last {
				pieces = nil
			}
			r, whole := readRequest(text)
			if p.err != nil && (!whole || !errors.Is(p.err, io.EOF)) {
				return outcome{err: errLeft}
			}
			if r == nil {
				continue
			}
			if a := c.sameForAll(r); a != nil {
				text = nil
				if c.answerEarly(r, *a); r.Close {
					return outcome{err: errAnswered}
				}
			} else if patience == nil && c.route(r).Path != "" {
				timer := c.server.clock.NewTimer(metadataHold - probeAfter)
				defer timer.Stop()
				patience = timer.C()
			}
		case <-patience:
			c.answerEarly(nil, tryAgain())
			return outcome{err: errAnswered}
		}
	}
}

// answerEarly answers a caller that is not known yet; r is nil where the
// connection ends with that.
func (c *conn) answerEarly(r *http.Request, a answer) {
	a.close = r == nil || r.Close
	_, err := c.Write(a.bytes())
	if a.close {
		_ = c.CloseWrite()
	}
	s, endpoint := c.server, imdspath.Refused
	if r != nil {
		endpoint = c.route(r).Endpoint
	}
	s.metrics.observe(endpoint, a.status, probeAfter)
	s.log.Debug("answered a caller that is not known yet", "status", a.status, "err", err)
}

// sameForAll returns the answer that the request has whoever asks; nil if it
// depends on that. IMDS gives the same, so that also who passes may have it.
func (c *conn) sameForAll(r *http.Request) *answer {
	route := c.route(r)
	var a answer
	switch {
	case route.Outside:
		a = pageNotFound()
	case hasMetadata(r):
		return nil
	case route.Endpoint == imdspath.TokenEndpoint:
		a = required()
	case !route.Identity:
		a = metadataRequired()
	default:
		return nil
	}
	return &a
}

func (c *conn) route(r *http.Request) imdspath.Route {
	return c.server.settings.Load().Relay.Classify(imdspath.Raw(r.RequestURI))
}

// readRequest reports whether the text has a request's whole header. It returns
// the request only if the text is one without a body, and nothing more.
func readRequest(text []byte) (r *http.Request, whole bool) {
	if !bytes.Contains(text, headerEnd) {
		return nil, false
	}
	source := bytes.NewReader(text)
	reader := bufio.NewReader(source)
	r, err := http.ReadRequest(reader)
	if err != nil || r.ContentLength != 0 || r.Host == "" || source.Len()+reader.Buffered() != 0 {
		return nil, true // the HTTP server shall decide
	}
	return r, true
}

// piece is what one Read has returned.
type piece struct {
	text []byte
	err  error
	last bool
}

// readAhead reads from the accepted connection up to an error, and maxFirst
// bytes at most. The channel is closed behind the last piece, or soon after
// stop is.
func (c *conn) readAhead(stop <-chan struct{}) <-chan piece {
	pieces := make(chan piece)
	go func() {
		defer close(pieces)
		defer c.recovered()
		buffer := make([]byte, maxFirst)
		for read := 0; read < len(buffer); {
			n, err := c.accepted.Read(buffer[read:])
			p := piece{text: buffer[read : read+n], err: err, last: err != nil || read+n == len(buffer)}
			read += n
			select {
			case pieces <- p:
			case <-stop:
				return
			}
			if p.last {
				return
			}
		}
	}()
	return pieces
}

// reread is a connection whose first bytes were read already.
type reread struct {
	net.Conn
	first *bytes.Reader
}

// Read implements net.Conn.
func (c *reread) Read(p []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite sends the end of the stream.
func (c *reread) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite sends the end of the stream, if the connection has one apart from
// its own.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// connKey is the context key of a request's *conn.
type connKey struct{}

func connOf(ctx context.Context) *conn { return ctx.Value(connKey{}).(*conn) }

// isUnknown reports an error that says that the caller may become known yet.
func isUnknown(err error) bool {
	var u interface{ Unknown() bool }
	return errors.As(err, &u) && u.Unknown()
}

func hasMetadata(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Metadata"), "true")
}

// Paths knows what lies between pods and the agent.
type Paths interface {
	// Dial connects from the network namespace of the caller's pod.
	Dial(ctx context.Context, caller workload.Caller, address string) (net.Conn, error)
	// Readable reports whether a neighbour of the caller could read what is
	// sent to it on the connection, and why.
	Readable(c workload.Connection) (readable bool, why string)
	// AwaitListener waits until the caller's next connection goes to a listener
	// in its own pod; false if ctx ends before or there will be none.
	AwaitListener(ctx context.Context, caller workload.Caller) bool
}

// guardPath makes sure that no token goes out on a connection that a neighbour
// of the steered caller can read. Such a caller is asked to try again once its
// own listener is open, which it then reaches; where it will have none it is
// refused with the reason.
func (c *conn) guardPath() {
	s := c.server
	readable, why := s.paths.Readable(c.flow)
	if !readable {
		return
	}
	ctx, cancel := context.WithTimeout(s.life, max(hold-c.waited, 0))
	defer cancel()
	a := tryAgain()
	result := exposedRetry
	if !s.paths.AwaitListener(ctx, c.caller) && ctx.Err() == nil {
		a, result = readableBy(why), exposedRefused
	}
	s.metrics.exposed.WithLabelValues(result).Inc()
	s.log.Debug("connection that neighbours can read", "pod_uid", c.caller.PodUID, "err", why, "status", a.status)
	c.refused = &a
}

// readableBy is the answer where every connection of the pod can be read. It is
// a wrong set-up, to be reported at once.
func readableBy(why string) answer {
	a := invalidRequest("Sidestep sends no token here, since neighbours of this pod could read it: " + why +
		". Use --delivery=pod, or a network plugin that gives each pod a link of its own")
	a.status, a.close = http.StatusBadRequest, true
	return a
}
