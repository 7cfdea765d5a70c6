package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// fastBuffer holds a client's request whole, with room for long headers.
	fastBuffer = 4 << 10
	// leastPatience is how much of a connection's deadline is left at least
	// when an answer is written. To set the deadline anew costs as much as half
	// a system call.
	leastPatience = 5 * time.Second
)

var fastBuffers = sync.Pool{New: func() any { return new([fastBuffer]byte) }}

// fastConn is a connection that is served without net/http: the way of nearly
// all requests, which are plain ones for a cached token.
type fastConn struct {
	net.Conn
	server *Server
	peer   *peer

	deadline time.Time // as it is set
	idle     time.Time // when the connection ends unless a request comes

	query   string // of the last plain request
	request workload.TokenRequest
}

// serveFast answers what is asked on a caller's connection, as long as that
// are plain requests for tokens in the cache, each in one piece. It returns
// what it has read of another request, which net/http is to answer; false if
// the connection has ended, or first is over before anything was asked. It
// gives no answer but a token.
func (s *Server) serveFast(c net.Conn, p *peer, first time.Duration) (rest []byte, open bool) {
	if !s.track(c) {
		return nil, false
	}
	defer s.untrack(c)
	buffer := fastBuffers.Get().(*[fastBuffer]byte)
	defer fastBuffers.Put(buffer)
	f := &fastConn{Conn: c, server: s, peer: p}
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
			return append([]byte(nil), buffer[:n]...), true
		}
		if last || err != nil {
			return nil, false
		}
	}
}

// extend sets the deadline for reading and writing anew. It is by the real
// clock: sockets have no other.
func (f *fastConn) extend(now time.Time) {
	f.deadline = now.Add(writeTimeout)
	if f.idle.Before(f.deadline) {
		f.deadline = f.idle
	}
	_ = f.SetDeadline(f.deadline) // fails on a closed connection, as what follows does
}

// read waits for a request. The deadline that is set may be an early one, left
// from an earlier request.
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
		f.idle = now.Add(idleTimeout)
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
	if !ok || s.leaving.Load() || !f.parse(r.query) {
		return false, false, nil
	}
	w, d, err := s.attester.Current(f.peer.caller)
	if err != nil || d.Verdict != workload.Steer || d.Access != workload.Identity || !w.ServiceAccountSeen {
		return false, false, nil
	}
	token, ok := s.tokens.Cached(w, f.request)
	if !ok || !f.peer.usage.pass(s.settings.Load().Limits, start) {
		return false, false, nil
	}
	sent := issuedAs(token, f.request.Resource).at(start)
	whole := sent.whole
	if r.close {
		whole = sent.closing()
	}
	_, err = f.Write(whole)
	s.recordFast(f, w, token, s.clock.Since(start))
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

func (s *Server) recordFast(f *fastConn, w workload.Workload, t workload.Token, took time.Duration) {
	c := call{peer: f.peer, route: route{endpoint: endpointToken}, workload: w, clientID: t.ClientID, resource: f.request.Resource}
	s.record(context.Background(), &c, 200, took)
}

// track has the connection end when draining begins; false if it has begun.
func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.fast[c] = struct{}{}
	return true
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fast, c)
}

// wakeFast ends the waiting for requests, after life has ended.
func (s *Server) wakeFast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.fast {
		_ = c.SetReadDeadline(time.Unix(0, 1)) // the past
	}
}
