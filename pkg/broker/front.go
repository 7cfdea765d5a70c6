package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// connsPerRequest is how many connections a pod may hold open for each
// request that it may have under way: clients keep idle ones for later.
const connsPerRequest = 8

// HandleConn serves one accepted connection and closes it. netnsCookie is the
// SO_NETNS_COOKIE of its listener, 0 for the node listener. It returns when the
// connection has ended or its HTTP is served elsewhere; callers give it a
// goroutine of its own.
func (s *Server) HandleConn(c net.Conn, netnsCookie uint64) {
	if !s.enter() {
		_ = c.Close()
		return
	}
	defer s.exit()
	c, p := s.admit(c, netnsCookie)
	// Callers that are not proven count as one pod, of UID "".
	p.usage = s.limits.connect(p.caller.PodUID, connsPerRequest*s.settings.Load().Limits.Concurrent)
	if p.usage == nil {
		s.log.Debug("too many connections", "pod_uid", p.caller.PodUID)
		turnAway(c)
		return
	}
	rest, open := s.serveProven(c, p)
	if !open {
		_ = c.Close()
		s.limits.disconnect(p.usage)
		return
	}
	s.open.Add(1)
	s.listener.deliver(&peerConn{Conn: c, server: s, peer: p, rest: rest, lost: p.refused != nil})
}

// serveProven serves a proven caller's connection without net/http, as far as
// that goes. It returns what it has read of what is left to net/http; false if
// the connection has ended.
func (s *Server) serveProven(c net.Conn, p *peer) (rest []byte, open bool) {
	switch {
	case p.refused != nil:
		return nil, true
	case p.verdict == workload.Pass && s.passes(p.caller) && s.passOn(c, p.caller) == nil:
		return nil, false
	}
	return s.serveFast(c, p, readHeaderTimeout)
}

// admit returns who is at the other end, and the connection to go on with.
func (s *Server) admit(c net.Conn, netnsCookie uint64) (net.Conn, *peer) {
	conn, err := s.attester.Inspect(c, netnsCookie)
	if err != nil {
		return c, s.refusePeer(conn, err)
	}
	p := &peer{conn: conn}
	p.caller, p.verdict, err = s.attester.Attest(conn)
	if err == nil && p.verdict == workload.Unknown {
		start := s.clock.Now()
		c, p.verdict, err = s.await(c, p)
		p.held = s.clock.Since(start)
	}
	if err != nil {
		return c, s.refusePeer(conn, err)
	}
	if p.verdict == workload.Steer {
		s.guardPath(p)
	}
	return c, p
}

// await holds a caller whose pod is not known yet. It returns the verdict, and
// the connection to go on with.
func (s *Server) await(c net.Conn, p *peer) (net.Conn, workload.Verdict, error) {
	ctx, cancel := context.WithTimeout(s.life, hold)
	defer cancel()
	known := make(chan verdict, 1)
	go func() {
		v, err := s.attester.Await(ctx, p.conn, p.caller)
		known <- verdict{v, err}
	}()
	timer := s.clock.NewTimer(probeAfter)
	defer timer.Stop()
	var now verdict
	select {
	case now = <-known:
	case <-timer.C():
		c, now = s.early(c, known)
	}
	return c, now.Verdict, now.err
}

// refusePeer returns a peer that gets no answer but a refusal: "come again"
// where its pod is only not known yet, else 403.
func (s *Server) refusePeer(conn workload.Connection, err error) *peer {
	a := forbidden("The caller of this connection is not known")
	a.close = true
	if isUnknown(err) {
		a = tryAgain()
	}
	s.refusals.Do(func() {
		s.log.Warn("connection refused", "client", conn.Client, "server", conn.Server,
			"netns_cookie", conn.NetnsCookie, "status", a.status, "err", err)
	})
	return &peer{conn: conn, refused: &a}
}

// isUnknown reports an error that says that the caller may become known yet.
func isUnknown(err error) bool {
	var u interface{ Unknown() bool }
	return errors.As(err, &u) && u.Unknown()
}

// passes reports whether the caller's connections are to be left alone.
func (s *Server) passes(caller workload.Caller) bool {
	_, d, err := s.attester.Current(caller)
	return err == nil && d.Verdict == workload.Pass
}

// turnedDown returns what a caller is told whom the decision, or the error of
// asking for it, does not let in; nil if it is let in.
func turnedDown(d workload.Decision, err error) *answer {
	if err == nil && d.Verdict == workload.Steer {
		return nil
	}
	var a answer
	switch {
	case isUnknown(err):
		a = tryAgain()
	case err != nil:
		a = forbidden("The pod that is calling is gone")
	case d.Verdict == workload.Deny:
		a = forbidden("The pod that is calling may not use the instance metadata service")
	default:
		// The kernel's verdict leads its next connection where it belongs.
		a = tryAgain()
	}
	return &a
}

// tryAgain tells a client to come again on a new connection.
func tryAgain() answer {
	a := throttled(time.Second)
	a.close = true
	return a
}

// turnAway answers the first bytes on the connection with 429 and closes it.
// It takes a second at most: the caller's pod has too many of them already.
func turnAway(c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second)) // sockets have no other clock
	if _, err := c.Read(make([]byte, maxHeaderBytes)); err != nil {
		return
	}
	if _, err := c.Write(tryAgain().bytes()); err != nil {
		return
	}
	// What has been sent must be read, or the close would be a reset.
	if closeWrite(c) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, maxForm))
	}
}
