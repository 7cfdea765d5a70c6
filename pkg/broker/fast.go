package broker

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// fastBuffer holds a client's request whole, with room for long headers.
	fastBuffer = 4 << 10
	// leastPatience is how much of a connection's deadline is left at least
	// when an answer is written. To set the deadline costs as much as half a
	// system call.
	leastPatience = 5 * time.Second
)

var fastBuffers = sync.Pool{New: func() any { return new([fastBuffer]byte) }}

// fastConn is a connection that is served without net/http: the way of nearly
// all requests, which are plain ones for a cached token.
type fastConn struct {
	*conn

	deadline time.Time // as it is set
	asked    time.Time // when the last request came
	idle     time.Time // when the connection ends unless a request comes

	query   string // of the last plain request
	request workload.TokenRequest
}

// serveFast answers what is asked on a caller's connection, as long as that
// are plain requests for tokens in the cache, each in one piece. It returns
// what it has read of another request, which net/http is to answer; false if
// the connection has ended, or first is over before anything was asked. It
// gives no answer but a token.
func serveFast(c *conn, first time.Duration) (rest []byte, open bool) {
	buffer := fastBuffers.Get().(*[fastBuffer]byte)
	defer fastBuffers.Put(buffer)
	f := fastConn{conn: c}
	now := time.Now()
	f.idle = now.Add(first)
	f.extend(now)
	for {
		n, err := f.read(buffer[:])
		if err != nil {
			return nil, false
		}
		answered, last, err := f.answer(buffer[:n])
		if !answered {
			// It counts as one that is served if its header is whole, else as
			// one that arrives.
			if !bytes.Contains(buffer[:n], headerEnd) && !c.slot.Set(connlimit.Reading, time.Now()) {
				return nil, false
			}
			return append([]byte(nil), buffer[:n]...), true
		}
		if last || err != nil || !c.slot.Set(connlimit.Idle, f.asked) {
			return nil, false
		}
	}
}

// extend sets the deadline for reading and writing. It is by the real clock:
// sockets have no other.
func (f *fastConn) extend(now time.Time) {
	f.deadline = now.Add(writeTimeout)
	if f.idle.Before(f.deadline) {
		f.deadline = f.idle
	}
	_ = f.SetDeadline(f.deadline) // fails on a closed connection, as what follows does
}

// read waits for a request. The deadline that is set may be an early one, left
// from an earlier request. Once no connection is begun any more, or this one
// was closed for another, it is net.ErrClosed.
func (f *fastConn) read(buffer []byte) (int, error) {
	for {
		if f.server.life.Err() != nil {
			return 0, net.ErrClosed
		}
		n, err := f.Read(buffer)
		now := time.Now()
		if errors.Is(err, os.ErrDeadlineExceeded) && now.Before(f.idle) {
			f.extend(now)
			continue
		}
		if err != nil {
			return 0, err
		}
		if !f.slot.Set(connlimit.Serving, now) {
			return 0, net.ErrClosed
		}
		f.asked, f.idle = now, now.Add(idleTimeout)
		if f.deadline.Sub(now) < leastPatience {
			f.extend(now)
		}
		return n, nil
	}
}

// answer answers the text if it is a plain request for a token in the cache,
// of a caller that may have it; last: no other may follow. Nothing is waited
// for between the look at the caller and the answer, so one look is both.
func (f *fastConn) answer(text []byte) (answered, last bool, err error) {
	s := f.server
	start := s.clock.Now()
	r, ok := recognize(text)
	if !ok || s.draining.Load() || !f.parse(r.query) {
		return false, false, nil
	}
	w, d, err := s.attester.Current(f.caller)
	if err != nil || d.Verdict != workload.Steer || d.Access != workload.Identity || !w.ServiceAccountSeen {
		return false, false, nil
	}
	token, ok := s.tokens.Cached(w, f.request)
	if !ok || !f.usage.pass(s.settings.Load().Limits, start) {
		return false, false, nil
	}
	sent := issuedAs(token, f.request.Resource).at(start)
	whole := sent.whole
	if r.close {
		whole = sent.closing()
	}
	_, err = f.Write(whole)
	c := call{
		server: s, conn: f.conn, route: imdspath.Route{Endpoint: imdspath.TokenEndpoint},
		workload: w, clientID: token.ClientID, resource: f.request.Resource,
	}
	c.record(context.Background(), http.StatusOK, s.clock.Since(start))
	return true, r.close, err
}

// parse reads what a query asks for; false if it asks for nothing that could be
// in the cache. Clients ask the same again and again.
func (f *fastConn) parse(query []byte) bool {
	if f.query != "" && string(query) == f.query {
		return true
	}
	var p params
	f.query = string(query)
	err := p.add(f.query)
	if err == nil {
		f.request, err = p.request()
	}
	if err != nil {
		f.query = ""
	}
	return err == nil
}
